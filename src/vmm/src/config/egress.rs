//! `--egress`: what a guest may reach.
use super::publish::{PortProtocol, PortRange};
use std::net::IpAddr;

string_enum! {
    /// What a rule says of what it is about.
    Verdict {
        /// It may be reached.
        #[default]
        Allow = "allow",
        /// It may not.
        Deny = "deny",
    }
}

/// One rule, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressRule {
    /// What becomes of all that no other rule is about.
    Default(Verdict),
    /// What was denied is shown.
    Log,
    /// What becomes of the target.
    Target(Verdict, Target),
}

/// Where a guest may want to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub destination: Destination,
    /// Its ports. Without them: all, and what has none.
    pub ports: Option<PortRange>,
    /// What has these ports. Without it: both, and, if there are no ports either, what has none.
    pub protocol: Option<PortProtocol>,
}

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Those with these addresses.
    Network(Network),
    /// Those with this name.
    Name(NamePattern),
}

/// All addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A name, or all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    name: String,
    below: bool,
}
