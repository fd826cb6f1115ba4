//! Neighbours and routers over IPv6 (RFC 4861): who asks is answered, and nobody else is told anything.
use std::net::Ipv6Addr;

use smoltcp::{
    time::Duration,
    wire::{
        EthernetAddress, Icmpv6Packet, NdiscNeighborFlags, NdiscPrefixInfoFlags,
        NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
    },
};

use super::{
    engine::Engine,
    link::Dropped,
    plan::{self, DNS6, NEIGHBOUR, PREFIX, PREFIX_BITS, ROUTER6},
};

/// How long what is advertised holds: a guest hears of it but when it asks, which it does when its link comes up.
const FOR_EVER: u64 = u32::MAX as u64;
/// The longest that a router can say that it is one: 18 hours, says the protocol's first version; its field is longer (RFC 8319).
const ROUTER_LIFETIME: u64 = 65535;
const HOPS: u8 = 64;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// An option with one address of a DNS server (RFC 8106 §5.1): type, length in words of 8, two bytes of nothing, a lifetime, the address.
const RDNSS: [u8; 8] = [25, 3, 0, 0, 0xff, 0xff, 0xff, 0xff];
/// Room for an advertisement.
const LONGEST: usize = 128;

impl Engine {
    pub(super) fn take_neighbour_solicitation(
        &mut self,
        from: Ipv6Addr,
        target: Ipv6Addr,
    ) -> Result<(), Dropped> {
        if !plan::is_neighbour(target.into()) {
            return Err(Dropped::Ignored);
        }
        // Who looks whether an address is free has none to be told at (RFC 4862 §5.4).
        let (to, solicited) = match from {
            Ipv6Addr::UNSPECIFIED => (ALL_NODES, NdiscNeighborFlags::empty()),
            from => (from, NdiscNeighborFlags::SOLICITED),
        };
        let advertisement = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE | solicited,
            target_addr: target,
            lladdr: Some(EthernetAddress(NEIGHBOUR).into()),
        };
        self.send_ndp((target, to), &advertisement, &[]);
        Ok(())
    }

    /// Tells who asks that there is a router, what addresses begin with, how long packets may be, and where names are resolved.
    pub(super) fn advertise(&mut self, from: Ipv6Addr) {
        let to = if from.is_unspecified() {
            ALL_NODES
        } else {
            from
        };
        let advertisement = NdiscRepr::RouterAdvert {
            hop_limit: HOPS,
            flags: NdiscRouterFlags::empty(),
            router_lifetime: Duration::from_secs(ROUTER_LIFETIME),
            reachable_time: Duration::ZERO,
            retrans_time: Duration::ZERO,
            lladdr: Some(EthernetAddress(NEIGHBOUR).into()),
            mtu: Some(self.mtu.into()),
            prefix_info: Some(NdiscPrefixInformation {
                prefix_len: PREFIX_BITS,
                flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
                valid_lifetime: Duration::from_secs(FOR_EVER),
                preferred_lifetime: Duration::from_secs(FOR_EVER),
                prefix: PREFIX,
            }),
        };
        let mut servers = [0; 24];
        servers[..8].copy_from_slice(&RDNSS);
        servers[8..].copy_from_slice(&DNS6.octets());
        self.send_ndp((ROUTER6, to), &advertisement, &servers);
    }

    fn send_ndp(&mut self, (from, to): (Ipv6Addr, Ipv6Addr), repr: &NdiscRepr<'_>, more: &[u8]) {
        let mut message = [0; LONGEST];
        let (own, length) = (repr.buffer_len(), repr.buffer_len() + more.len());
        let Some(message) = message.get_mut(..length) else {
            return;
        };
        message[own..].copy_from_slice(more);
        repr.emit(&mut Icmpv6Packet::new_unchecked(&mut message[..own]));
        Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&from, &to);
        self.send_icmp((from.into(), to.into()), message);
    }
}
