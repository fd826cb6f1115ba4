//! Datagrams: a connected socket of the host's for each pair of ends, for as long as it is used.
use std::{
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::SendFlags};
use smoltcp::wire::{IpProtocol, UdpPacket, checksum};

use super::{
    engine::{DNS_PORT, Engine, watch},
    frame::{Leave, Sent, feature},
    head::{Head, pseudo_sum},
    host,
    icmp::Unreachable,
    plan::{self, Behind},
    policy::Protocol,
    table::{Client, Flow, Key, Kind, Token},
};

/// How long a flow is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(60);
/// As [`IDLE`], of what is a question and an answer.
const IDLE_NAMES: Duration = Duration::from_secs(10);
/// Datagrams that are taken before others have their turn.
const TURN: usize = 32;
const HEADER: usize = 8;
/// Where in the header the checksum is.
const CHECKSUM: u16 = 6;

/// How datagrams get out of here.
#[derive(Debug)]
enum Way {
    /// By a socket of the flow's own.
    Socket(OwnedFd),
    /// By the published port that they came in by.
    Published(Client),
}

/// Datagrams between two ends.
#[derive(Debug)]
pub(super) struct Datagrams {
    way: Way,
    pub(super) readable: bool,
    last: Instant,
    idle: Duration,
}

impl Datagrams {
    pub(super) fn due(&self) -> Instant {
        self.last + self.idle
    }

    /// Who talks to the guest by a published port.
    pub(super) fn client(&self) -> Option<Client> {
        match self.way {
            Way::Socket(_) => None,
            Way::Published(client) => Some(client),
        }
    }
}

impl Engine {
    /// The guest sends a datagram.
    pub(super) fn take_datagram(&mut self, key: Key, data: &[u8]) {
        let found = self.table.find(&key);
        let Some(token) = found.or_else(|| self.open_datagrams(key)) else {
            return;
        };
        let now = self.now;
        let Some(flow) = self.table.get(token) else {
            return;
        };
        flow.used = true;
        let Kind::Udp(datagrams) = &mut flow.kind else {
            return;
        };
        datagrams.last = now;
        let sent = match &datagrams.way {
            Way::Socket(socket) => rustix::net::send(socket, data, SendFlags::NOSIGNAL),
            Way::Published((port, client)) => self.published.send(*port, client, data),
        };
        match sent {
            Ok(bytes) => self.counters.bytes_from_guest.add(count(bytes)),
            // That of an earlier one, which has shown by now. The sender sends again, or did not care.
            Err(Errno::CONNREFUSED) => self.send_unreachable(&key, Unreachable::Port, 0),
            Err(Errno::HOSTUNREACH) => self.send_unreachable(&key, Unreachable::Host, 0),
            Err(Errno::NETUNREACH) => self.send_unreachable(&key, Unreachable::Network, 0),
            Err(_) => self.counters.dropped_full.count(),
        }
        self.settle(token);
    }

    fn open_datagrams(&mut self, key: Key) -> Option<Token> {
        let (address, port) = key.remote;
        let host = match plan::behind(address) {
            Behind::Host(host) => host,
            Behind::Relay => {
                self.send_unreachable(&key, Unreachable::Port, 0);
                return None;
            }
            Behind::Nothing => return None,
        };
        if !self.may_reach(Protocol::Udp, host, port) {
            self.send_unreachable(&key, Unreachable::Prohibited, 0);
            return None;
        }
        if !self.has_room() {
            self.counters.exhausted.count();
            return None;
        }
        let socket = match host::connect_udp(&SocketAddr::new(host, port)) {
            Ok(socket) => socket,
            Err(error) => {
                let exhausted = matches!(
                    error,
                    Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM
                );
                let counters = &self.counters;
                let counter = if exhausted {
                    &counters.exhausted
                } else {
                    &counters.failed
                };
                counter.count();
                self.send_unreachable(&key, Unreachable::Network, 0);
                return None;
            }
        };
        let idle = if port == DNS_PORT { IDLE_NAMES } else { IDLE };
        self.begin_datagrams(key, Way::Socket(socket), idle)
    }

    fn begin_datagrams(&mut self, key: Key, way: Way, idle: Duration) -> Option<Token> {
        let datagrams = Datagrams {
            way,
            readable: false,
            last: self.now,
            idle,
        };
        self.counters.opened.count();
        let token = self.table.insert(Flow::new(key, Kind::Udp(datagrams)));
        if let Kind::Udp(Datagrams {
            way: Way::Socket(socket),
            ..
        }) = &self.table.get(token)?.kind
            && watch(&self.poll, socket, token.to_bits()).is_err()
        {
            self.remove(token);
            return None;
        }
        Some(token)
    }

    /// A client of a published port sends a datagram, for the guest's port `port`.
    pub(super) fn client_sends(&mut self, client: Client, key: Key, data: &[u8]) {
        let token = self.table.find_client(&client).or_else(|| {
            if !self.has_room() {
                self.counters.exhausted.count();
                return None;
            }
            let key = self.table.with_free_port(key)?;
            self.begin_datagrams(key, Way::Published(client), IDLE)
        });
        let now = self.now;
        let Some(flow) = token.and_then(|token| self.table.get(token)) else {
            return;
        };
        flow.used = true;
        let key = flow.key;
        if let Kind::Udp(datagrams) = &mut flow.kind {
            datagrams.last = now;
        }
        self.give_datagram(&key, data);
        if let Some(token) = token {
            self.settle(token);
        }
    }

    /// Takes what has come for the guest.
    pub(super) fn serve_datagrams(&mut self, token: Token) {
        let mut payload = std::mem::take(&mut self.datagram);
        for _ in 0..TURN {
            let now = self.now;
            let Some(flow) = self.table.get(token) else {
                break;
            };
            let key = flow.key;
            let Kind::Udp(datagrams) = &mut flow.kind else {
                break;
            };
            let Way::Socket(socket) = &datagrams.way else {
                datagrams.readable = false;
                break;
            };
            if !self.channel.writable {
                break;
            }
            match host::receive(socket, &mut payload) {
                Ok(Some(data)) => {
                    flow.used = true;
                    datagrams.last = now;
                    self.give_datagram(&key, data);
                }
                Ok(None) => {
                    datagrams.readable = false;
                    break;
                }
                Err(Errno::CONNREFUSED) => self.send_unreachable(&key, Unreachable::Port, 0),
                Err(Errno::HOSTUNREACH) => self.send_unreachable(&key, Unreachable::Host, 0),
                Err(Errno::NETUNREACH) => self.send_unreachable(&key, Unreachable::Network, 0),
                Err(_) => {
                    datagrams.readable = false;
                    break;
                }
            }
        }
        self.datagram = payload;
    }

    /// Sends a datagram to the guest. It is lost where there is no room, as datagrams are.
    pub(super) fn give_datagram(&mut self, key: &Key, data: &[u8]) {
        let ends = (key.remote.0, key.guest.0);
        let length = HEADER + data.len();
        let network = if key.guest.0.is_ipv4() { 20 } else { 40 };
        let head = Head::new(self.guest_mac, ends, IpProtocol::Udp, HEADER, length);
        let head = head.filter(|_| network + length <= usize::from(self.mtu));
        let (Some(mut head), Ok(size)) = (head, u16::try_from(length)) else {
            self.counters.dropped_long.count();
            return;
        };
        let pseudo = pseudo_sum(ends, IpProtocol::Udp, length);
        let mut packet = UdpPacket::new_unchecked(head.transport());
        packet.set_src_port(key.remote.1);
        packet.set_dst_port(key.guest.1);
        packet.set_len(size);
        packet.set_checksum(0);
        let leave = self.channel.has(feature::GUEST_CSUM);
        if leave {
            packet.set_checksum(pseudo);
        } else {
            let own = checksum::data(packet.as_ref());
            let sum = !checksum::combine(&[pseudo, own, checksum::data(data)]);
            // None is none (RFC 768).
            packet.set_checksum(if sum == 0 { u16::MAX } else { sum });
        }
        let leave = leave.then(|| Leave {
            start: head.start(),
            offset: CHECKSUM,
            cut: None,
        });
        match self.channel.send(leave, head.bytes(), data) {
            Sent::Yes => self.counters.bytes_to_guest.add(count(data.len())),
            Sent::Full | Sent::Never => self.counters.dropped_full.count(),
        }
    }
}

/// Room for the longest datagram.
pub(super) fn room() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); 1 << 16]
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
