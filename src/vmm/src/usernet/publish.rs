//! Ports of the host's that lead to the guest.
use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recvfrom, sendto},
};

use super::{
    engine::Engine,
    plan,
    table::{Key, Transport},
};
use crate::config::PortProtocol;

/// Clients and datagrams of one port that are taken before others have their turn.
const TURN: usize = 32;

/// A port of the host's that leads to one of the guest's.
#[derive(Debug)]
pub struct Published {
    /// What is bound there and, if for streams, listens; it does not block.
    pub socket: OwnedFd,
    /// What is heard there.
    pub protocol: PortProtocol,
    /// Where it leads.
    pub guest_port: u16,
}

#[derive(Debug)]
struct Port {
    published: Published,
    readable: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Ports {
    ports: Vec<Port>,
    /// Those of them where somebody may wait.
    knocking: Vec<usize>,
    /// How many flows had gone when a client could not be let in: the next that goes makes room.
    shut_out_at: Option<u64>,
}

impl Ports {
    pub(super) fn new(published: Vec<Published>) -> Self {
        let port = |published| Port {
            published,
            readable: true,
        };
        let ports: Vec<_> = published.into_iter().map(port).collect();
        Self {
            knocking: (0..ports.len()).collect(),
            ports,
            shut_out_at: None,
        }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.ports.iter().map(|port| &port.published.socket)
    }

    /// Somebody knocks.
    pub(super) fn wake(&mut self, number: usize) {
        if let Some(port) = self.ports.get_mut(number) {
            port.readable = true;
            self.shut_out_at = None;
            if !self.knocking.contains(&number) {
                self.knocking.push(number);
            }
        }
    }

    /// Whether somebody may be let in at once.
    pub(super) fn is_busy(&self, writable: bool) -> bool {
        let waits = |number: &usize| match self.ports[*number].published.protocol {
            PortProtocol::Tcp => self.shut_out_at.is_none(),
            PortProtocol::Udp => writable,
        };
        self.knocking.iter().any(waits)
    }

    /// Sends a datagram to a client.
    pub(super) fn send(
        &self,
        number: usize,
        client: &SocketAddr,
        data: &[u8],
    ) -> rustix::io::Result<usize> {
        let port = self.ports.get(number).ok_or(Errno::BADF)?;
        sendto(&port.published.socket, data, SendFlags::NOSIGNAL, client)
    }
}

impl Engine {
    /// Lets those in who knock.
    pub(super) fn let_in(&mut self) {
        let gone = self.counters.closed.get();
        if self
            .published
            .shut_out_at
            .is_some_and(|before| before != gone)
        {
            self.published.shut_out_at = None;
        }
        let knocking = std::mem::take(&mut self.published.knocking);
        for &number in &knocking {
            for _ in 0..TURN {
                let Some(port) = self
                    .published
                    .ports
                    .get(number)
                    .filter(|port| port.readable)
                else {
                    break;
                };
                let more = match port.published.protocol {
                    PortProtocol::Tcp => self.let_client_in(number),
                    PortProtocol::Udp => self.let_datagram_in(number),
                };
                if !more {
                    break;
                }
            }
        }
        self.published.knocking = knocking;
        let ports = &self.published.ports;
        let still = |number: &usize| ports[*number].readable;
        self.published.knocking.retain(still);
    }

    /// Whether there may be another.
    fn let_client_in(&mut self, number: usize) -> bool {
        if self.published.shut_out_at.is_some() {
            return false;
        }
        if !self.has_room() {
            self.shut_out();
            return false;
        }
        let port = &mut self.published.ports[number];
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match acceptfrom_with(&port.published.socket, flags) {
            Ok((socket, _)) => {
                let guest_port = port.published.guest_port;
                self.client_connects(socket, guest_port);
                true
            }
            Err(Errno::INTR | Errno::CONNABORTED) => true,
            Err(Errno::AGAIN) => {
                port.readable = false;
                false
            }
            Err(_) => {
                self.shut_out();
                false
            }
        }
    }

    fn shut_out(&mut self) {
        self.counters.exhausted.count();
        self.published.shut_out_at = Some(self.counters.closed.get());
    }

    /// Whether there may be another.
    fn let_datagram_in(&mut self, number: usize) -> bool {
        if !self.channel.writable {
            return false;
        }
        let mut payload = std::mem::take(&mut self.datagram);
        let port = &mut self.published.ports[number];
        let more = match recvfrom(
            &port.published.socket,
            &mut payload[..],
            RecvFlags::DONTWAIT,
        ) {
            Ok(((data, _), _, from)) => {
                let key = Key {
                    transport: Transport::Udp,
                    guest: (plan::GUEST.into(), port.published.guest_port),
                    remote: (plan::GATEWAY.into(), 0),
                };
                if let Some(client) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                    self.client_sends((number, client), key, data);
                }
                true
            }
            Err(Errno::AGAIN) => {
                port.readable = false;
                false
            }
            Err(_) => {
                port.readable = false;
                false
            }
        };
        self.datagram = payload;
        more
    }
}
