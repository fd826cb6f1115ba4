//! Messages of the domain name system (RFC 1035), as far as a relay must understand them: hostile ones from the guest, hostile ones from
//! the network. What it passes on it passes on byte by byte.
//!
//! Read by hand: smoltcp's reader takes records of class IN only, of which EDNS has none, and bounds no name; and what is a library for
//! all of it brings a tree of crates for the few lines below.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reader::{HEADER, Header, Reader};

mod reader;

/// Addresses of IPv4 are asked for.
pub const TYPE_A: u16 = 1;
/// Addresses of IPv6 are asked for.
pub const TYPE_AAAA: u16 = 28;
/// The one class in use.
pub const CLASS_IN: u16 = 1;
/// Bytes of the longest reply over UDP that every client takes (RFC 1035 §4.2.1).
pub const MIN_UDP: usize = 512;
/// Bytes of the longest reply over UDP that is sent to any: more would be sent in many fragments.
pub const MAX_UDP: usize = 4096;

/// An alias.
const TYPE_CNAME: u16 = 5;
/// Not a record, but what the client is capable of (RFC 6891 §6.1.2).
const TYPE_OPT: u16 = 41;
/// Records of every type are asked for.
const TYPE_ANY: u16 = 255;
/// Aliases between the name that is asked for and the one that has addresses: resolvers give up sooner.
const MAX_ALIASES: usize = 16;
/// Records of a query: there is a use for two, EDNS and a signature.
const MAX_ADDITIONAL: u16 = 8;
/// Records of an answer: more are no use to anybody, and are not read.
const MAX_ANSWERS: u16 = 1024;

/// A response.
const QR: u16 = 1 << 15;
/// What kind of query it is. 0: the common one.
const OPCODE: u16 = 0xf << 11;
/// Truncated.
const TC: u16 = 1 << 9;
/// Recursion is desired.
const RD: u16 = 1 << 8;
/// Recursion is available.
const RA: u16 = 1 << 7;
/// Signatures need not be checked.
const CD: u16 = 1 << 4;
const RCODE: u16 = 0xf;

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
    /// backslash within a part, is written `\DDD`: each dot here is one between parts.
    pub name: String,
    /// The type of the records that are asked for.
    pub qtype: u16,
    /// Their class.
    pub qclass: u16,
}

impl Query {
    /// Reads a query: exactly one question, no answer, nothing malformed anywhere and nothing behind it.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        dissect(message).map(|(query, _)| query)
    }
}

/// Reads a query, and how long a reply over UDP may be, if it says.
fn dissect(message: &[u8]) -> Option<(Query, Option<u16>)> {
    let mut reader = Reader::new(message);
    let header = reader.header()?;
    let is_query = header.flags & (QR | OPCODE) == 0;
    let counts = (header.questions, header.answers, header.authorities);
    if !is_query || counts != (1, 0, 0) || header.additional > MAX_ADDITIONAL {
        return None;
    }
    let query = question(&mut reader, &header)?;
    let mut udp = None;
    let mut owner = String::new();
    for _ in 0..header.additional {
        let record = reader.record(&mut owner)?;
        if record.kind == TYPE_OPT && (!owner.is_empty() || udp.replace(record.class).is_some()) {
            return None;
        }
    }
    reader.is_at_end().then_some((query, udp))
}

fn question(reader: &mut Reader<'_>, header: &Header) -> Option<Query> {
    let mut name = String::new();
    reader.name(&mut name)?;
    Some(Query {
        id: header.id,
        flags: header.flags,
        name,
        qtype: reader.u16()?,
        qclass: reader.u16()?,
    })
}

/// What a resolver said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for, and those that it is an alias of, in their order.
    pub names: Vec<String>,
    /// Addresses of the last of these names that were asked for, and how many seconds they hold.
    pub addresses: Vec<(IpAddr, u32)>,
    /// 0: none of the errors.
    pub rcode: u8,
    /// It was cut off: the client will ask again over TCP.
    pub truncated: bool,
}

impl Answer {
    /// Reads the answer to `query`. None: it is not one, or malformed, or its aliases lead in a circle or too far.
    #[must_use]
    pub fn parse(message: &[u8], query: &Query) -> Option<Self> {
        let mut reader = Reader::new(message);
        let header = reader.header()?;
        if header.id != query.id || header.flags & (QR | OPCODE) != QR {
            return None;
        }
        let mut answer = Self {
            names: vec![query.name.clone()],
            addresses: Vec::new(),
            rcode: u8::try_from(header.flags & RCODE).ok()?,
            truncated: header.flags & TC != 0,
        };
        match header.questions {
            // A server that did not understand the question need not repeat it.
            0 if answer.rcode != 0 && header.answers == 0 => return Some(answer),
            1 if header.answers <= MAX_ANSWERS => {}
            _ => return None,
        }
        let asked = question(&mut reader, &header)?;
        let same = (&asked.name, asked.qtype, asked.qclass);
        if same != (&query.name, query.qtype, query.qclass) {
            return None;
        }
        let holds = answer.follow(reader, &header)?;
        if answer.rcode == 0 && query.qclass == CLASS_IN {
            answer.collect(reader, &header, query.qtype, holds)?;
        }
        Some(answer)
    }

    /// Finds the aliases from the name that was asked for on, and for how many seconds all of them hold.
    fn follow(&mut self, mut reader: Reader<'_>, header: &Header) -> Option<u32> {
        let mut aliases: Vec<(String, String, u32)> = Vec::new();
        let mut owner = String::new();
        for _ in 0..header.answers {
            let record = reader.record(&mut owner)?;
            if record.kind != TYPE_CNAME || record.class != CLASS_IN {
                continue;
            }
            let mut target = String::new();
            record.name(&mut target)?;
            match aliases.iter().find(|(known, ..)| *known == owner) {
                // A name is an alias of one (RFC 2181 §10.1): which of two the client would take nobody knows.
                Some((_, known, _)) if *known != target => return None,
                Some(_) => {}
                None if aliases.len() == MAX_ALIASES => return None,
                None => aliases.push((owner.clone(), target, record.ttl)),
            }
        }
        let mut holds = u32::MAX;
        let mut last = self.names.first()?;
        while let Some((_, target, ttl)) = aliases.iter().find(|(owner, ..)| owner == last) {
            if self.names.contains(target) {
                return None;
            }
            holds = holds.min(*ttl);
            self.names.push(target.clone());
            last = self.names.last()?;
        }
        Some(holds)
    }

    /// Finds the addresses of the last name.
    fn collect(
        &mut self,
        mut reader: Reader<'_>,
        header: &Header,
        qtype: u16,
        holds: u32,
    ) -> Option<()> {
        let last = self.names.last()?;
        let mut owner = String::new();
        for _ in 0..header.answers {
            let record = reader.record(&mut owner)?;
            let is_asked_for = qtype == record.kind || qtype == TYPE_ANY;
            if !is_asked_for || record.class != CLASS_IN || owner != *last {
                continue;
            }
            let address = match record.kind {
                TYPE_A => {
                    let bytes: [u8; 4] = record.data().try_into().ok()?;
                    IpAddr::V4(Ipv4Addr::from(bytes))
                }
                TYPE_AAAA => {
                    let bytes: [u8; 16] = record.data().try_into().ok()?;
                    IpAddr::V6(Ipv6Addr::from(bytes))
                }
                _ => continue,
            };
            self.addresses.push((address, record.ttl.min(holds)));
        }
        Some(())
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
pub fn refuse(query: &[u8], rcode: Rcode) -> Vec<u8> {
    reply(query, rcode as u16)
}

/// The reply over UDP that has its client ask again over TCP. Empty as by [`refuse`].
#[must_use]
pub fn truncated(query: &[u8]) -> Vec<u8> {
    reply(query, TC)
}

/// A reply without records: at most as long as any client takes.
fn reply(query: &[u8], flags: u16) -> Vec<u8> {
    let mut reader = Reader::new(query);
    let Some(header) = reader.header().filter(|header| header.flags & QR == 0) else {
        return Vec::new();
    };
    let has_question = header.questions == 1 && question(&mut reader, &header).is_some();
    let question = match has_question {
        true => query.get(HEADER..reader.at()).unwrap_or_default(),
        false => &[],
    };
    let has_edns = dissect(query).is_some_and(|(_, udp)| udp.is_some());
    let flags = QR | RA | header.flags & (OPCODE | RD | CD) | flags;
    let counts = [u16::from(has_question), 0, 0, u16::from(has_edns)];
    let words = [header.id, flags].into_iter().chain(counts);
    let mut reply: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
    reply.extend_from_slice(question);
    if has_edns {
        // Who speaks of EDNS is answered so (RFC 6891 §6.1.1): the root, the type, what we take, no flags, no options.
        let [high, low] = TYPE_OPT.to_be_bytes();
        reply.extend_from_slice(&[0, high, low, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    }
    reply
}

/// Bytes of the longest reply over UDP that the client takes: 512, or what its EDNS record says, at most 4096.
#[must_use]
pub fn udp_limit(query: &[u8]) -> usize {
    let said = dissect(query).and_then(|(_, udp)| udp).map(usize::from);
    said.map_or(MIN_UDP, |said| said.clamp(MIN_UDP, MAX_UDP))
}

#[cfg(test)]
mod tests;
