//! What every packet for the guest begins with.
use std::net::IpAddr;

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IPV4_HEADER_LEN,
        IPV6_HEADER_LEN, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, checksum,
    },
};

use super::{frame::ETHERNET, plan::NEIGHBOUR};

/// The longest: Ethernet, IPv6, TCP with all the options that there can be.
const ROOM: usize = ETHERNET + 40 + 60;
/// What is not forwarded further than this is not forwarded at all.
const HOPS: u8 = 64;
/// Neighbour discovery takes no packet that came over a router (RFC 4861 §7.1).
const HOPS_ON_LINK: u8 = 255;

/// The headers of a packet, which its payload follows.
pub(super) struct Head {
    bytes: [u8; ROOM],
    /// Where the transport's begins.
    transport: usize,
    end: usize,
}

impl Head {
    /// An Ethernet header with an IP header, for a transport of `length` bytes whose header has `header`.
    /// None where such a packet cannot be.
    pub(super) fn new(
        guest_mac: [u8; 6],
        (from, to): (IpAddr, IpAddr),
        next_header: IpProtocol,
        header: usize,
        length: usize,
    ) -> Option<Self> {
        let mut bytes = [0; ROOM];
        let network = &mut bytes[ETHERNET..];
        let (ethertype, size) = match (from, to) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                u16::try_from(IPV4_HEADER_LEN + length).ok()?;
                let repr = Ipv4Repr {
                    src_addr,
                    dst_addr,
                    next_header,
                    payload_len: length,
                    hop_limit: HOPS,
                };
                let mut packet = Ipv4Packet::new_unchecked(network);
                repr.emit(&mut packet, &ChecksumCapabilities::default());
                (EthernetProtocol::Ipv4, IPV4_HEADER_LEN)
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                u16::try_from(length).ok()?;
                let on_link = next_header == IpProtocol::Icmpv6;
                let repr = Ipv6Repr {
                    src_addr,
                    dst_addr,
                    next_header,
                    payload_len: length,
                    hop_limit: if on_link { HOPS_ON_LINK } else { HOPS },
                };
                repr.emit(&mut Ipv6Packet::new_unchecked(network));
                (EthernetProtocol::Ipv6, IPV6_HEADER_LEN)
            }
            _ => return None,
        };
        ethernet(guest_mac, ethertype, &mut bytes);
        let transport = ETHERNET + size;
        let end = transport + header;
        (end <= ROOM).then_some(Self {
            bytes,
            transport,
            end,
        })
    }

    /// Where the transport's header is to be.
    pub(super) fn transport(&mut self) -> &mut [u8] {
        &mut self.bytes[self.transport..self.end]
    }

    /// Where the transport's header begins, behind the Ethernet header.
    pub(super) fn start(&self) -> usize {
        self.transport - ETHERNET
    }

    /// Where the payload begins, behind the Ethernet header.
    pub(super) fn payload(&self) -> usize {
        self.end - ETHERNET
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }
}

/// The header of a frame for the guest.
pub(super) fn ethernet(guest_mac: [u8; 6], ethertype: EthernetProtocol, frame: &mut [u8]) {
    let repr = EthernetRepr {
        src_addr: EthernetAddress(NEIGHBOUR),
        dst_addr: EthernetAddress(guest_mac),
        ethertype,
    };
    repr.emit(&mut EthernetFrame::new_unchecked(frame));
}

/// The sum of what a transport's checksum covers besides its own header and payload. Both addresses are of one family.
pub(super) fn pseudo_sum((from, to): (IpAddr, IpAddr), protocol: IpProtocol, length: usize) -> u16 {
    let length = u32::try_from(length).unwrap_or(0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            checksum::pseudo_header_v4(&from, &to, protocol, length)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            checksum::pseudo_header_v6(&from, &to, protocol, length)
        }
        _ => 0,
    }
}
