//! A network card without a TAP: what the guest sends becomes ordinary sockets of this host's user.
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{egress::EgressRule, fields::whole_or_null, publish::Publish};

/// Fewest connections and exchanges at once that a guest's network can be given.
pub const MIN_FLOWS: u64 = 16;
/// The shortest longest packet of such a network: what IPv6 wants of a link (RFC 8200 §5).
pub const MIN_USER_MTU: u16 = 1280;
/// Most of them: each has a descriptor.
pub const MAX_FLOWS: u64 = 65536;

/// What a guest reaches, and what reaches it, through a network of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UserNetwork {
    /// Ports of this host that lead to the guest: `[ADDRESS:]HOST:GUEST[/tcp|udp]`, or ranges of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<String>", extend("x-ours" = true, "x-flag" = "--publish"))
    )]
    pub publish: Vec<Publish>,
    /// What the guest may reach: `allow`, `deny`, `log`, and `allow=TARGET` and `deny=TARGET`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<String>", extend("x-ours" = true, "x-flag" = "--egress"))
    )]
    pub egress: Vec<EgressRule>,
    /// Whom the guest's questions for names are passed on to. Without any: this host's resolvers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<String>", extend("x-ours" = true, "x-flag" = "--dns"))
    )]
    pub dns: Vec<IpAddr>,
    /// Connections and exchanges of datagrams at once. Without it: 4096.
    #[serde(
        default,
        deserialize_with = "whole_or_null::<_, _, MIN_FLOWS, MAX_FLOWS>",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(range(min = MIN_FLOWS, max = MAX_FLOWS), extend("x-ours" = true)))]
    pub flows: Option<u32>,
}
