//! Where no guest gets unasked.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Network;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Network {
    Network::known(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(first: u128, prefix: u8) -> Network {
    Network::known(IpAddr::V6(Ipv6Addr::from_bits(first)), prefix)
}

/// No two of them overlap.
pub(super) const RANGES: &[Network] = &[
    // "This network" (RFC 791 §3.2): Linux takes 0.0.0.0 for the loopback.
    v4(0, 0, 0, 0, 8),
    // The loopback (RFC 1122 §3.2.1.3).
    v4(127, 0, 0, 0, 8),
    // The link (RFC 3927), and on it 169.254.169.254, where most clouds give away a machine's credentials.
    v4(169, 254, 0, 0, 16),
    // Groups (RFC 5771), and what is reserved, with the broadcast (RFC 1112 §4).
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    // Metadata of other clouds: Alibaba's, Azure's, Oracle's.
    v4(100, 100, 100, 200, 32),
    v4(168, 63, 129, 16, 32),
    v4(192, 0, 0, 192, 32),
    // As 0.0.0.0 is, and the loopback (RFC 4291 §2.5).
    v6(0, 128),
    v6(1, 128),
    // The link, and groups (RFC 4291 §2.5.6, §2.7).
    v6(0xfe80 << 112, 10),
    v6(0xff00 << 112, 8),
    // Metadata: Amazon's, Google's.
    v6(0xfd00_0ec2 << 96 | 0x254, 128),
    v6(0xfd20_00ce << 96 | 0x254, 128),
];

/// The range in which an address lies.
pub(super) fn range(address: IpAddr) -> Option<&'static Network> {
    RANGES.iter().find(|range| range.contains(address))
}

/// The IPv4 address within one of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) address: Ipv4Addr,
    /// What is sent there arrives there, so that who allows the one allows the other. Else it only may arrive there.
    pub(super) is_meant: bool,
}

/// What lies within `outer`, other than within an IPv4-mapped one, which is nothing but an IPv4 address.
pub(super) fn inner(outer: Ipv6Addr) -> Option<Inner> {
    let [.., a, b, c, d] = outer.octets();
    let last = Ipv4Addr::new(a, b, c, d);
    let (address, is_meant) = match outer.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        // IPv4-compatible (RFC 4291 §2.5.5.1), IPv4-translated (RFC 2765 §2.1), NAT64 by its well-known prefix (RFC 6052 §2.1).
        [0, 0, 0, 0, 0, 0, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => (last, true),
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            (Ipv4Addr::new(a, b, c, d), true)
        }
        // NAT64 by a network's own prefix (RFC 8215): with a short one the address is elsewhere.
        [0x64, 0xff9b, 1, ..] => (last, false),
        // Teredo (RFC 4380 §4): the client's, inverted.
        [0x2001, 0, ..] => (Ipv4Addr::from_bits(!last.to_bits()), false),
        _ => return None,
    };
    Some(Inner { address, is_meant })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_begin_at_their_addresses_and_do_not_overlap() {
        for (index, range) in RANGES.iter().enumerate() {
            let read: Network = match format!("allow={range}").parse().unwrap() {
                crate::config::EgressRule::Target(_, target) => match target.destination {
                    crate::config::Destination::Network(network) => network,
                    crate::config::Destination::Name(name) => panic!("{name}"),
                },
                rule => panic!("{rule}"),
            };
            assert_eq!(read, *range);
            let mut others = RANGES
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index);
            assert!(others.all(|(_, other)| !range.is_within(other)), "{range}");
        }
    }

    #[test]
    fn an_ipv4_address_is_found_within_one_of_ipv6() {
        for (outer, expected) in [
            ("::", None),
            ("::1", None),
            ("::127.0.0.1", Some(("127.0.0.1", true))),
            ("::2", Some(("0.0.0.2", true))),
            ("::ffff:0:127.0.0.1", Some(("127.0.0.1", true))),
            ("64:ff9b::169.254.169.254", Some(("169.254.169.254", true))),
            ("64:ff9b:1::10.0.0.1", Some(("10.0.0.1", false))),
            ("64:ff9b:1:ffff:1:2:10.0.0.1", Some(("10.0.0.1", false))),
            ("64:ff9b:2::10.0.0.1", None),
            ("64:ff9b:0:1::10.0.0.1", None),
            ("2002:7f00:1::", Some(("127.0.0.1", true))),
            ("2002:7f00:1:2:3:4:5:6", Some(("127.0.0.1", true))),
            ("2001:0:1:2:3:4:80ff:fffe", Some(("127.0.0.1", false))),
            ("2001:db8::127.0.0.1", None),
            ("fe80::127.0.0.1", None),
        ] {
            let expected = expected.map(|(address, is_meant): (&str, bool)| Inner {
                address: address.parse().unwrap(),
                is_meant,
            });
            assert_eq!(inner(outer.parse().unwrap()), expected, "{outer}");
        }
    }
}
