//! Echoes, and what cannot be reached (RFC 792, RFC 4443).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet,
        Icmpv6Repr, IpProtocol, Ipv4Repr, Ipv6Repr, NdiscRepr,
    },
};

use super::{
    engine::Engine,
    frame::Sent,
    head::Head,
    link::{Dropped, Ends},
    ping::Echo,
    plan::{self, Behind},
    table::{Key, Transport},
};

/// What could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    Network,
    Host,
    Port,
    /// Nobody may.
    Prohibited,
}

/// What of a packet's transport comes back with such news.
const QUOTED: usize = 8;
/// The longest such message: a header, IPv6's, and that.
const LONGEST: usize = 8 + 40 + QUOTED;
/// Hop limits of quoted packets do not matter.
const HOPS: u8 = 64;

impl Engine {
    pub(super) fn take_icmpv4(&mut self, ends: Ends, message: &[u8]) -> Result<(), Dropped> {
        let packet = Icmpv4Packet::new_checked(message).map_err(|_| Dropped::Malformed)?;
        let caps = ChecksumCapabilities::default();
        let Ok(Icmpv4Repr::EchoRequest {
            ident,
            seq_no,
            data,
        }) = Icmpv4Repr::parse(&packet, &caps)
        else {
            return Err(Dropped::Ignored);
        };
        self.take_echo(
            ends,
            Echo {
                ident,
                number: seq_no,
                data,
            },
        );
        Ok(())
    }

    pub(super) fn take_icmpv6(
        &mut self,
        (from, to): (Ipv6Addr, Ipv6Addr),
        hops: u8,
        message: &[u8],
    ) -> Result<(), Dropped> {
        let packet = Icmpv6Packet::new_checked(message).map_err(|_| Dropped::Malformed)?;
        if !packet.verify_checksum(&from, &to) {
            return Err(Dropped::Checksum);
        }
        let caps = ChecksumCapabilities::default();
        match Icmpv6Repr::parse(&from, &to, &packet, &caps) {
            Ok(Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data,
            }) if !from.is_unspecified() => {
                let ends = Ends {
                    from: from.into(),
                    to: to.into(),
                };
                self.take_echo(
                    ends,
                    Echo {
                        ident,
                        number: seq_no,
                        data,
                    },
                );
                Ok(())
            }
            // What has come over a router is none of this link's (RFC 4861 §7.1.1).
            Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }))
                if hops == 255 =>
            {
                self.take_neighbour_solicitation(from, target_addr)
            }
            Ok(Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { .. })) if hops == 255 => {
                self.advertise(from);
                Ok(())
            }
            _ => Err(Dropped::Ignored),
        }
    }

    /// The neighbour answers itself. Others are asked by the host, where it lets us.
    fn take_echo(&mut self, ends: Ends, echo: Echo<'_>) {
        if plan::is_neighbour(ends.to) {
            self.send_echo_reply((ends.to, ends.from), echo);
        } else if let Behind::Host(host) = plan::behind(ends.to) {
            let key = Key {
                transport: Transport::Ping,
                guest: (ends.from, echo.ident),
                remote: (ends.to, 0),
            };
            self.pass_echo(key, host, echo);
        }
    }

    pub(super) fn send_echo_reply(&mut self, ends: (IpAddr, IpAddr), echo: Echo<'_>) {
        let caps = ChecksumCapabilities::default();
        let Echo {
            ident,
            number: seq_no,
            data,
        } = echo;
        let mut message = vec![0; 8 + data.len()];
        match ends {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let repr = Icmpv4Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                };
                repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message[..]), &caps);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let repr = Icmpv6Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                };
                let mut packet = Icmpv6Packet::new_unchecked(&mut message[..]);
                repr.emit(&from, &to, &mut packet, &caps);
            }
            _ => return,
        }
        self.send_icmp(ends, &message);
    }

    /// Sends a message that is complete.
    pub(super) fn send_icmp(&mut self, ends: (IpAddr, IpAddr), message: &[u8]) {
        let protocol = if ends.0.is_ipv4() {
            IpProtocol::Icmp
        } else {
            IpProtocol::Icmpv6
        };
        let head = Head::new(self.guest_mac, ends, protocol, 0, message.len());
        let sent = head.map(|head| self.channel.send(None, head.bytes(), message));
        if sent != Some(Sent::Yes) {
            self.counters.dropped_full.count();
        }
    }

    /// Tells the guest that what it sent by the flow `key` did not arrive. `word` stands behind the ports: TCP's sequence number.
    pub(super) fn send_unreachable(&mut self, key: &Key, what: Unreachable, word: u32) {
        let mut quoted = [0; QUOTED];
        quoted[..2].copy_from_slice(&key.guest.1.to_be_bytes());
        quoted[2..4].copy_from_slice(&key.remote.1.to_be_bytes());
        quoted[4..].copy_from_slice(&word.to_be_bytes());
        let mut message = [0; LONGEST];
        match (key.guest.0, key.remote.0) {
            (IpAddr::V4(guest), IpAddr::V4(remote)) => {
                let from = if what == Unreachable::Port {
                    remote
                } else {
                    plan::GATEWAY
                };
                let repr = unreachable4((guest, remote), what, protocol(key, false), &quoted);
                let message = &mut message[..repr.buffer_len()];
                let mut packet = Icmpv4Packet::new_unchecked(&mut message[..]);
                repr.emit(&mut packet, &ChecksumCapabilities::default());
                self.send_icmp((from.into(), guest.into()), message);
            }
            (IpAddr::V6(guest), IpAddr::V6(remote)) => {
                let from = if what == Unreachable::Port {
                    remote
                } else {
                    plan::GATEWAY6
                };
                let repr = unreachable6((guest, remote), what, protocol(key, true), &quoted);
                let message = &mut message[..repr.buffer_len()];
                let mut packet = Icmpv6Packet::new_unchecked(&mut message[..]);
                repr.emit(&from, &guest, &mut packet, &ChecksumCapabilities::default());
                self.send_icmp((from.into(), guest.into()), message);
            }
            _ => {}
        }
    }
}

fn protocol(key: &Key, v6: bool) -> IpProtocol {
    match key.transport {
        Transport::Tcp => IpProtocol::Tcp,
        Transport::Udp => IpProtocol::Udp,
        Transport::Ping if v6 => IpProtocol::Icmpv6,
        Transport::Ping => IpProtocol::Icmp,
    }
}

fn unreachable4(
    (src_addr, dst_addr): (Ipv4Addr, Ipv4Addr),
    what: Unreachable,
    next_header: IpProtocol,
    data: &[u8],
) -> Icmpv4Repr<'_> {
    let reason = match what {
        Unreachable::Network => Icmpv4DstUnreachable::NetUnreachable,
        Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
        Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
        Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
    };
    let header = Ipv4Repr {
        src_addr,
        dst_addr,
        next_header,
        payload_len: data.len(),
        hop_limit: HOPS,
    };
    Icmpv4Repr::DstUnreachable {
        reason,
        header,
        data,
    }
}

fn unreachable6(
    (src_addr, dst_addr): (Ipv6Addr, Ipv6Addr),
    what: Unreachable,
    next_header: IpProtocol,
    data: &[u8],
) -> Icmpv6Repr<'_> {
    let reason = match what {
        Unreachable::Network => Icmpv6DstUnreachable::NoRoute,
        Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
        Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
        Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
    };
    let header = Ipv6Repr {
        src_addr,
        dst_addr,
        next_header,
        payload_len: data.len(),
        hop_limit: HOPS,
    };
    Icmpv6Repr::DstUnreachable {
        reason,
        header,
        data,
    }
}
