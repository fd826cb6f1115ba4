//! Frames of the guest's: whether they are what they say, and whose they are.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, UdpPacket,
};

use super::{
    engine::{DNS_PORT, Engine},
    frame::{self, Left},
    plan::{self, Behind},
    table::{Key, Transport},
    tcp::Segment,
};

/// Where a guest without an address asks for one.
const DHCP_PORT: u16 = 67;

/// Why a frame goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It is not what it says, or nothing that there is.
    Malformed,
    /// Its checksum is another's.
    Checksum,
    /// It does not come from where it says.
    Spoofed,
    /// It is a part of a packet.
    Fragment,
    /// It is for nobody who is here.
    Ignored,
}

/// The ends of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
}

impl Engine {
    /// Takes a message from the channel.
    pub(super) fn take_message(&mut self, message: &[u8]) {
        self.counters.frames_from_guest.count();
        let counter = match self.judge(message) {
            Ok(()) => return,
            Err(Dropped::Malformed) => &self.counters.dropped_malformed,
            Err(Dropped::Checksum) => &self.counters.dropped_checksum,
            Err(Dropped::Spoofed) => &self.counters.dropped_spoofed,
            Err(Dropped::Fragment) => &self.counters.dropped_fragments,
            Err(Dropped::Ignored) => &self.counters.dropped_ignored,
        };
        counter.count();
    }

    fn judge(&mut self, message: &[u8]) -> Result<(), Dropped> {
        let (left, frame) = frame::part(message).ok_or(Dropped::Malformed)?;
        let frame = EthernetFrame::new_checked(frame).map_err(|_| Dropped::Malformed)?;
        if frame.src_addr() != EthernetAddress(self.guest_mac) {
            return Err(Dropped::Spoofed);
        }
        let to = frame.dst_addr();
        if to != EthernetAddress(plan::NEIGHBOUR) && to.is_unicast() {
            return Err(Dropped::Ignored);
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => self.take_arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.take_ipv4(frame.payload(), left),
            EthernetProtocol::Ipv6 if self.ipv6 => self.take_ipv6(frame.payload(), left),
            _ => Err(Dropped::Ignored),
        }
    }

    fn take_ipv4(&mut self, packet: &[u8], left: Left) -> Result<(), Dropped> {
        let packet = Ipv4Packet::new_checked(packet).map_err(|_| Dropped::Malformed)?;
        if packet.version() != 4 || packet.header_len() < 20 {
            return Err(Dropped::Malformed);
        }
        // What is fuzzed is what comes behind it.
        if !packet.verify_checksum() && !cfg!(fuzzing) {
            return Err(Dropped::Checksum);
        }
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        let nobody_yet = from == Ipv4Addr::UNSPECIFIED && packet.next_header() == IpProtocol::Udp;
        if !plan::is_guest(from.into()) && !nobody_yet {
            return Err(Dropped::Spoofed);
        }
        if packet.more_frags() || packet.frag_offset() != 0 {
            return Err(Dropped::Fragment);
        }
        let ends = Ends {
            from: from.into(),
            to: to.into(),
        };
        match packet.next_header() {
            IpProtocol::Icmp => self.take_icmpv4(ends, packet.payload()),
            protocol => self.take_transport(ends, protocol, packet.payload(), left),
        }
    }

    fn take_ipv6(&mut self, packet: &[u8], left: Left) -> Result<(), Dropped> {
        let packet = Ipv6Packet::new_checked(packet).map_err(|_| Dropped::Malformed)?;
        if packet.version() != 6 {
            return Err(Dropped::Malformed);
        }
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        // Who has no address yet looks for neighbours and routers, and reports what groups it is in.
        let nobody_yet = from == Ipv6Addr::UNSPECIFIED
            && matches!(
                packet.next_header(),
                IpProtocol::Icmpv6 | IpProtocol::HopByHop
            );
        if !plan::is_guest(from.into()) && !nobody_yet {
            return Err(Dropped::Spoofed);
        }
        let ends = Ends {
            from: from.into(),
            to: to.into(),
        };
        match packet.next_header() {
            IpProtocol::Icmpv6 => {
                self.take_icmpv6((from, to), packet.hop_limit(), packet.payload())
            }
            IpProtocol::Ipv6Frag => Err(Dropped::Fragment),
            protocol => self.take_transport(ends, protocol, packet.payload(), left),
        }
    }

    fn take_transport(
        &mut self,
        ends: Ends,
        protocol: IpProtocol,
        payload: &[u8],
        left: Left,
    ) -> Result<(), Dropped> {
        match protocol {
            IpProtocol::Tcp => self.take_tcp(ends, payload, left),
            IpProtocol::Udp if !left.cut => self.take_udp(ends, payload, left),
            _ => Err(Dropped::Ignored),
        }
    }

    fn take_tcp(&mut self, ends: Ends, payload: &[u8], left: Left) -> Result<(), Dropped> {
        let packet = TcpPacket::new_checked(payload).map_err(|_| Dropped::Malformed)?;
        let (from, to) = (IpAddress::from(ends.from), IpAddress::from(ends.to));
        if !left.checksum && !packet.verify_checksum(&from, &to) {
            return Err(Dropped::Checksum);
        }
        let key = key(Transport::Tcp, ends, packet.src_port(), packet.dst_port())?;
        self.take_segment(key, &Segment::of(&packet));
        Ok(())
    }

    fn take_udp(&mut self, ends: Ends, payload: &[u8], left: Left) -> Result<(), Dropped> {
        let packet = UdpPacket::new_checked(payload).map_err(|_| Dropped::Malformed)?;
        let (from, to) = (IpAddress::from(ends.from), IpAddress::from(ends.to));
        // Over IPv6 there must be one (RFC 8200 §8.1).
        let absent = packet.checksum() == 0 && ends.from.is_ipv6();
        if !left.checksum && (absent || !packet.verify_checksum(&from, &to)) {
            return Err(Dropped::Checksum);
        }
        let to_server = matches!(ends.to, IpAddr::V4(Ipv4Addr::BROADCAST | plan::GATEWAY));
        if packet.dst_port() == DHCP_PORT && to_server {
            return self.take_dhcp(packet.payload());
        }
        if ends.from.is_unspecified() {
            return Err(Dropped::Spoofed);
        }
        let key = key(Transport::Udp, ends, packet.src_port(), packet.dst_port())?;
        match plan::behind(ends.to) {
            Behind::Relay if key.remote.1 == DNS_PORT => self.ask(key, packet.payload()),
            // Groups and broadcasts are not complained about (RFC 1122 §3.2.2).
            Behind::Nothing => return Err(Dropped::Ignored),
            _ => self.take_datagram(key, packet.payload()),
        }
        Ok(())
    }
}

/// Port 0 is nobody's.
fn key(transport: Transport, ends: Ends, from: u16, to: u16) -> Result<Key, Dropped> {
    if from == 0 || to == 0 {
        return Err(Dropped::Malformed);
    }
    Ok(Key {
        transport,
        guest: (ends.from, from),
        remote: (ends.to, to),
    })
}
