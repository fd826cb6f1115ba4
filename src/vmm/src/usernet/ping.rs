//! Echo requests to others than the neighbour, by sockets that an ordinary user may have (icmp(7), `ping_group_range`).
use std::{
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::SendFlags};

use super::{
    engine::{Engine, watch},
    host,
    policy::Protocol,
    table::{Flow, Key, Kind, Token, Transport},
};

/// How long after the last request an answer is waited for.
const IDLE: Duration = Duration::from_secs(30);
/// Answers that are taken before others have their turn.
const TURN: usize = 16;
/// Of an echo.
const HEADER: usize = 8;
const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

/// An echo request, or the reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Echo<'a> {
    pub(super) ident: u16,
    pub(super) number: u16,
    pub(super) data: &'a [u8],
}

/// The requests of one identifier to one host.
#[derive(Debug)]
pub(super) struct Ping {
    socket: OwnedFd,
    pub(super) readable: bool,
    last: Instant,
}

impl Ping {
    pub(super) fn due(&self) -> Instant {
        self.last + IDLE
    }
}

impl Engine {
    /// Passes a request on.
    pub(super) fn pass_echo(&mut self, key: Key, host: IpAddr, echo: Echo<'_>) {
        let Some(token) = self.table.find(&key).or_else(|| self.open_ping(key, host)) else {
            return;
        };
        let now = self.now;
        let Some(flow) = self.table.get(token) else {
            return;
        };
        let Kind::Ping(ping) = &mut flow.kind else {
            return;
        };
        flow.used = true;
        ping.last = now;
        // The kernel puts in an identifier of its own, and the checksum.
        let mut message = vec![0; HEADER + echo.data.len()];
        message[0] = if host.is_ipv4() { REQUEST } else { REQUEST6 };
        message[6..8].copy_from_slice(&echo.number.to_be_bytes());
        message[HEADER..].copy_from_slice(echo.data);
        // Whether it arrives, the answer shows.
        let _ = rustix::net::send(&ping.socket, &message, SendFlags::NOSIGNAL);
        self.settle(token);
    }

    fn open_ping(&mut self, key: Key, host: IpAddr) -> Option<Token> {
        if !self.may_reach(Protocol::Icmp, host, 0) {
            return None;
        }
        if !self.has_room() {
            self.counters.exhausted.count();
            return None;
        }
        let Ok(socket) = host::connect_ping(&SocketAddr::new(host, 0)) else {
            self.counters.failed.count();
            return None;
        };
        let ping = Ping {
            socket,
            readable: false,
            last: self.now,
        };
        self.counters.opened.count();
        let token = self.table.insert(Flow::new(key, Kind::Ping(ping)));
        if let Kind::Ping(ping) = &self.table.get(token)?.kind
            && watch(&self.poll, &ping.socket, token.to_bits()).is_err()
        {
            self.remove(token);
            return None;
        }
        Some(token)
    }

    /// Passes replies on.
    pub(super) fn serve_ping(&mut self, token: Token) {
        for _ in 0..TURN {
            let Some(Flow {
                key,
                kind: Kind::Ping(ping),
                ..
            }) = self.table.get(token)
            else {
                return;
            };
            let key = *key;
            if !self.channel.writable {
                return;
            }
            let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
            let reply = match host::receive(&ping.socket, &mut buffer) {
                Ok(Some(reply)) => reply,
                Ok(None) => {
                    ping.readable = false;
                    return;
                }
                // Somebody on the way said no: the guest notices that nothing comes.
                Err(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::CONNREFUSED) => continue,
                Err(_) => {
                    ping.readable = false;
                    return;
                }
            };
            let [kind, _, _, _, _, _, a, b, data @ ..] = reply else {
                continue;
            };
            if matches!(*kind, REPLY | REPLY6) {
                let echo = Echo {
                    ident: key.guest.1,
                    number: u16::from_be_bytes([*a, *b]),
                    data,
                };
                debug_assert_eq!(key.transport, Transport::Ping);
                self.send_echo_reply((key.remote.0, key.guest.0), echo);
            }
        }
    }
}
