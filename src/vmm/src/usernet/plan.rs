//! The network that a guest sees: one link with one neighbour, which is its router, its DNS server and the host.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The guest's address, by DHCP.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The router's address, behind which the host's loopback is.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Where names are resolved.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Of all three.
pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// What the guest's IPv6 addresses begin with, by router advertisement.
pub const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa0a0, 0, 0, 0, 0, 0, 0);
/// The length of all IPv6 prefixes here.
pub const PREFIX_BITS: u8 = 64;
/// As [`GATEWAY`].
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa0a0, 0, 0, 0, 0, 0, 2);
/// As [`DNS`].
pub const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa0a0, 0, 0, 0, 0, 0, 3);
/// The router's address on the link, from where advertisements come.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// The neighbour's hardware address, whatever it is asked for.
pub const NEIGHBOUR: [u8; 6] = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];
/// The longest packet, unless another length is asked for: 65535 with a header of IP's own, and a multiple of 8.
pub const MTU: u16 = 65520;

/// What is behind an address of the guest's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// A host that has this address.
    Host(IpAddr),
    /// The relay of names.
    Relay,
    /// Nothing that a packet can be sent to.
    Nothing,
}

/// What is to be reached by an address. It is never one that the host would take for another: its loopback is the gateway and nothing else.
pub(super) fn behind(address: IpAddr) -> Behind {
    match address {
        IpAddr::V4(GATEWAY) => Behind::Host(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(GATEWAY6 | ROUTER6) => Behind::Host(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(DNS) | IpAddr::V6(DNS6) => Behind::Relay,
        IpAddr::V4(v4) if is_sent(v4) => Behind::Host(address),
        IpAddr::V6(v6) if is_sent6(v6) => Behind::Host(address),
        _ => Behind::Nothing,
    }
}

/// 0.0.0.0 is another name of the host's, and a group or a broadcast is for many.
fn is_sent(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224 && !on_link(address)
}

fn on_link(address: Ipv4Addr) -> bool {
    address.to_bits() & MASK.to_bits() == GATEWAY.to_bits() & MASK.to_bits()
}

/// What begins with zeroes stands for the host, or for an address of IPv4; what is on the link is nobody's.
fn is_sent6(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    first != 0 && first & 0xffc0 != 0xfe80 && first & 0xff00 != 0xff00 && !has_prefix(address)
}

fn has_prefix(address: Ipv6Addr) -> bool {
    address.segments()[..4] == PREFIX.segments()[..4]
}

/// Whether packets of the guest's may come from this address.
pub(super) fn is_guest(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4 == GUEST,
        IpAddr::V6(ROUTER6 | GATEWAY6 | DNS6) => false,
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80 || has_prefix(v6),
    }
}

/// Whether the neighbour has this address.
pub(super) fn is_neighbour(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4, GATEWAY | DNS),
        IpAddr::V6(v6) => matches!(v6, GATEWAY6 | DNS6 | ROUTER6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_but_the_gateways_leads_to_the_hosts_loopback() {
        let nothing = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "10.0.2.15",
            "10.0.2.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::7f00:1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:a0a0::15",
        ];
        for address in nothing {
            assert_eq!(
                behind(address.parse().unwrap()),
                Behind::Nothing,
                "{address}"
            );
        }
        for address in [
            "10.0.3.2",
            "8.8.8.8",
            "169.254.169.254",
            "2001:db8::1",
            "fd00:a0a1::1",
        ] {
            let address = address.parse().unwrap();
            assert_eq!(behind(address), Behind::Host(address));
        }
        assert_eq!(
            behind(GATEWAY.into()),
            Behind::Host("127.0.0.1".parse().unwrap())
        );
        assert_eq!(behind(ROUTER6.into()), Behind::Host("::1".parse().unwrap()));
        assert_eq!(behind(DNS6.into()), Behind::Relay);
    }

    #[test]
    fn a_guest_has_its_own_addresses_only() {
        for address in ["10.0.2.15", "fe80::1", "fd00:a0a0::1234"] {
            assert!(is_guest(address.parse().unwrap()), "{address}");
        }
        for address in [
            "10.0.2.2",
            "10.0.2.16",
            "0.0.0.0",
            "::",
            "fe80::2",
            "fd00:a0a0::2",
            "2001:db8::1",
        ] {
            assert!(!is_guest(address.parse().unwrap()), "{address}");
        }
    }
}
