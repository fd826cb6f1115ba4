//! Who has which address (RFC 826): the neighbour has its own, and says so.
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use super::{
    engine::Engine,
    frame::ETHERNET,
    head::ethernet,
    link::Dropped,
    plan::{self, NEIGHBOUR},
};

/// Bytes of a packet about Ethernet and IPv4.
const BYTES: usize = 28;

impl Engine {
    pub(super) fn take_arp(&mut self, packet: &[u8]) -> Result<(), Dropped> {
        let packet = ArpPacket::new_checked(packet).map_err(|_| Dropped::Malformed)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).map_err(|_| Dropped::Malformed)?
        else {
            return Err(Dropped::Ignored);
        };
        // A probe, whether an address is free, comes from none (RFC 5227).
        let source = source_protocol_addr.into();
        let probes = source_protocol_addr.is_unspecified();
        if source_hardware_addr.0 != self.guest_mac || !(plan::is_guest(source) || probes) {
            return Err(Dropped::Spoofed);
        }
        if operation != ArpOperation::Request || !plan::is_neighbour(target_protocol_addr.into()) {
            return Err(Dropped::Ignored);
        }
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(NEIGHBOUR),
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let mut frame = [0; ETHERNET + BYTES];
        ethernet(self.guest_mac, EthernetProtocol::Arp, &mut frame);
        reply.emit(&mut ArpPacket::new_unchecked(&mut frame[ETHERNET..]));
        self.channel.send_lossy(&frame);
        Ok(())
    }
}
