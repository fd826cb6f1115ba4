//! The guest's address, by DHCP (RFC 2131): there is one, and it has it.
use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, IpProtocol, UdpPacket,
    checksum,
};

use super::{
    engine::Engine,
    frame::Sent,
    head::{Head, pseudo_sum},
    link::Dropped,
    plan::{DNS, GATEWAY, GUEST, MASK},
};

/// How long the address is the guest's: it is for good, but clients ask again, and that keeps them in order.
const LEASE: u32 = 24 * 60 * 60;
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Of UDP.
const HEADER: usize = 8;
/// The longest reply: every client takes it (RFC 2131 §2).
const LONGEST: usize = 548;
/// The longest list of domains that it has room for.
const MOST_SEARCH: usize = 128;

/// Option codes (RFC 2132, RFC 3397).
mod code {
    pub(super) const DNS: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const DOMAIN_NAME: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const DOMAIN_SEARCH: u8 = 119;
}

/// What a guest is told besides its address.
#[derive(Debug)]
pub(super) struct Lease {
    hostname: Option<String>,
    domain: Option<String>,
    /// As in the option.
    search: Vec<u8>,
    mtu: [u8; 2],
    dns: [u8; 4],
}

impl Lease {
    pub(super) fn new(hostname: Option<String>, search: Vec<String>, mtu: u16) -> Self {
        let short = |name: &String| (1..64).contains(&name.len());
        let mut encoded = Vec::new();
        for domain in &search {
            let before = encoded.len();
            if !encode(domain, &mut encoded) || encoded.len() > MOST_SEARCH {
                encoded.truncate(before);
            }
        }
        Self {
            hostname: hostname.filter(short),
            domain: search.into_iter().next().filter(short),
            search: encoded,
            mtu: mtu.to_be_bytes(),
            dns: DNS.octets(),
        }
    }

    fn options(&self) -> Vec<DhcpOption<'_>> {
        let name = |kind, name: &'_ Option<String>| name.is_some().then_some(kind);
        let mut options = vec![
            DhcpOption {
                kind: code::DNS,
                data: &self.dns,
            },
            DhcpOption {
                kind: code::MTU,
                data: &self.mtu,
            },
        ];
        if let (Some(kind), Some(host)) = (name(code::HOST_NAME, &self.hostname), &self.hostname) {
            options.push(DhcpOption {
                kind,
                data: host.as_bytes(),
            });
        }
        if let (Some(kind), Some(domain)) = (name(code::DOMAIN_NAME, &self.domain), &self.domain) {
            options.push(DhcpOption {
                kind,
                data: domain.as_bytes(),
            });
        }
        if !self.search.is_empty() {
            options.push(DhcpOption {
                kind: code::DOMAIN_SEARCH,
                data: &self.search,
            });
        }
        options
    }
}

/// Writes a name as labels; whether it is one.
fn encode(name: &str, to: &mut Vec<u8>) -> bool {
    for label in name.trim_end_matches('.').split('.') {
        let Some(length) = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))
        else {
            return false;
        };
        to.push(length);
        to.extend(label.as_bytes());
    }
    to.push(0);
    true
}

impl Engine {
    pub(super) fn take_dhcp(&mut self, message: &[u8]) -> Result<(), Dropped> {
        let packet = DhcpPacket::new_checked(message).map_err(|_| Dropped::Malformed)?;
        let request = DhcpRepr::parse(&packet).map_err(|_| Dropped::Malformed)?;
        if request.client_hardware_address != EthernetAddress(self.guest_mac) {
            return Err(Dropped::Spoofed);
        }
        if let Some(kind) = answer(&request) {
            self.send_lease(&request, kind);
        }
        Ok(())
    }

    fn send_lease(&mut self, request: &DhcpRepr<'_>, kind: DhcpMessageType) {
        let options = self.lease.options();
        let ack = kind != DhcpMessageType::Nak;
        // Who has an address already asked for nothing but the rest (§3.4).
        let informs = request.message_type == DhcpMessageType::Inform;
        let reply = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: if ack {
                request.client_ip
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            your_ip: if ack && !informs {
                GUEST
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            server_ip: GATEWAY,
            router: ack.then_some(GATEWAY),
            subnet_mask: ack.then_some(MASK),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(GATEWAY),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: (ack && !informs).then_some(LEASE),
            renew_duration: None,
            rebind_duration: None,
            additional_options: if ack { &options } else { &[] },
        };
        let mut bytes = [0; LONGEST];
        let length = reply.buffer_len();
        if length > LONGEST
            || reply
                .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..length]))
                .is_err()
        {
            return;
        }
        // A client that has no address yet hears what is sent to all.
        let to = if informs {
            request.client_ip
        } else {
            Ipv4Addr::BROADCAST
        };
        self.send_dhcp(to, &bytes[..length]);
    }

    fn send_dhcp(&mut self, to: Ipv4Addr, message: &[u8]) {
        let ends: (IpAddr, IpAddr) = (GATEWAY.into(), to.into());
        let length = HEADER + message.len();
        let head = Head::new(self.guest_mac, ends, IpProtocol::Udp, HEADER, length);
        let (Some(mut head), Ok(size)) = (head, u16::try_from(length)) else {
            return;
        };
        let mut packet = UdpPacket::new_unchecked(head.transport());
        packet.set_src_port(SERVER_PORT);
        packet.set_dst_port(CLIENT_PORT);
        packet.set_len(size);
        packet.set_checksum(0);
        let sums = [
            pseudo_sum(ends, IpProtocol::Udp, length),
            checksum::data(packet.as_ref()),
            checksum::data(message),
        ];
        // A client that is no part of a kernel may not know that a checksum can be left to it: it is always complete.
        let sum = !checksum::combine(&sums);
        packet.set_checksum(if sum == 0 { u16::MAX } else { sum });
        if self.channel.send(None, head.bytes(), message) != Sent::Yes {
            self.counters.dropped_full.count();
        }
    }
}

/// What is answered, if anything is.
fn answer(request: &DhcpRepr<'_>) -> Option<DhcpMessageType> {
    match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        // Another server was chosen.
        DhcpMessageType::Request
            if request
                .server_identifier
                .is_some_and(|server| server != GATEWAY) =>
        {
            None
        }
        DhcpMessageType::Request => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            Some(if wanted == GUEST {
                DhcpMessageType::Ack
            } else {
                DhcpMessageType::Nak
            })
        }
        // There is nothing to be remembered.
        _ => None,
    }
}
