//! Messages of the domain name system (RFC 1035), as far as a relay must understand them: hostile ones from the guest, hostile ones from
//! the network.
use std::net::IpAddr;

/// Addresses of IPv4 are asked for.
pub const TYPE_A: u16 = 1;
/// Addresses of IPv6 are asked for.
pub const TYPE_AAAA: u16 = 28;
/// The one class in use.
pub const CLASS_IN: u16 = 1;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// There is the name, but nothing of the type.
    NoData = 0,
    /// The query cannot be understood.
    FormErr = 1,
    /// No resolver answered.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// That kind of query is not served.
    NotImp = 4,
    /// It is not answered to you.
    Refused = 5,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What the answer begins with too.
    pub id: u16,
    /// The header's second word.
    pub flags: u16,
    /// In lower case, without a dot at the end, "" for the root. Whatever is no letter, digit or other visible ASCII, and a dot or
    /// backslash within a label, is written `\DDD`: each dot here is one between labels.
    pub name: String,
    /// The type of the records that are asked for.
    pub qtype: u16,
    /// Their class.
    pub qclass: u16,
}

impl Query {
    /// Reads a query: exactly one question, no answer, nothing malformed anywhere.
    #[must_use]
    pub fn parse(_: &[u8]) -> Option<Self> {
        None
    }
}

/// What a resolver said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for, and those that it is an alias of, in their order.
    pub names: Vec<String>,
    /// Addresses of the last of these names, and how many seconds they hold.
    pub addresses: Vec<(IpAddr, u32)>,
    /// 0: none of the errors.
    pub rcode: u8,
    /// It was cut off: the client will ask again over TCP.
    pub truncated: bool,
}

impl Answer {
    /// Reads the answer to `query`. None: it is not one, or malformed.
    #[must_use]
    pub fn parse(_: &[u8], _: &Query) -> Option<Self> {
        None
    }

    /// Only its addresses, each with the seconds that it holds.
    #[must_use]
    pub fn addresses(message: &[u8], query: &Query) -> Option<Vec<(IpAddr, u32)>> {
        Self::parse(message, query).map(|answer| answer.addresses)
    }
}

/// The reply to a query that is not passed on, with the query's question, if that can be read. Empty: nothing must be sent, as it is no
/// query at all.
#[must_use]
pub fn refuse(_: &[u8], _: Rcode) -> Vec<u8> {
    Vec::new()
}

/// The reply over UDP that has its client ask again over TCP. Empty as by [`refuse`].
#[must_use]
pub fn truncated(_: &[u8]) -> Vec<u8> {
    Vec::new()
}

/// Bytes of the longest reply over UDP that the client takes: 512, or what its EDNS record says, at most 4096.
#[must_use]
pub fn udp_limit(_: &[u8]) -> usize {
    512
}
