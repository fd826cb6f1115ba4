//! What a guest may reach.
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::config::EgressRule;
pub use crate::config::Verdict;

/// What a guest speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Echo requests, which have no ports.
    Icmp,
}

/// The user's rules, and what the names in them stand for at present.
#[derive(Debug)]
pub struct Policy {
    logs: bool,
}

impl Policy {
    /// Of contradicting defaults the last one holds.
    #[must_use]
    pub fn new(rules: &[EgressRule]) -> Self {
        Self {
            logs: rules.contains(&EgressRule::Log),
        }
    }

    /// Whether the guest may begin to talk to that address and port, which is ignored for what has none.
    pub fn verdict(&mut self, _: Protocol, _: IpAddr, _: u16, _: Instant) -> Verdict {
        Verdict::Deny
    }

    /// Whether the guest may ask for this name, in the form of [`Query::name`](super::dns::Query).
    #[must_use]
    pub fn may_resolve(&self, _: &str) -> bool {
        false
    }

    /// Takes note of the addresses that were the answer for a name.
    pub fn learn(&mut self, _: &str, _: impl Iterator<Item = IpAddr>, _: Duration, _: Instant) {}

    /// Whether an answer holds nothing but addresses that are denied whatever the port: then the name is to be answered for as if it
    /// did not exist. Of no addresses that is not so.
    #[must_use]
    pub fn only_denied(&self, _: &[(IpAddr, u32)]) -> bool {
        true
    }

    /// Whether what is denied is to be shown.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.logs
    }
}
