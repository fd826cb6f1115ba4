//! How connections begin.
use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use super::{
    segment::Segment,
    state::{Connection, Phase},
};
use crate::usernet::{
    engine::{DNS_PORT, Engine, watch},
    host::{self, Stream},
    icmp::Unreachable,
    plan::{self, Behind},
    policy::Protocol,
    table::{Flow, Key, Kind, Token, Transport},
};

/// Connections of which one side has not agreed yet, at most.
const MOST_OPENING: usize = 256;

impl Engine {
    /// The guest asks for a connection: the host is asked, if the guest may have it.
    pub(super) fn guest_connects(&mut self, key: Key, syn: &Segment<'_>) {
        let (address, port) = key.remote;
        let opened = match plan::behind(address) {
            Behind::Host(host) if self.may_reach(Protocol::Tcp, host, port) => {
                self.connect(&SocketAddr::new(host, port))
            }
            Behind::Relay if port == DNS_PORT => self.open_relay(),
            Behind::Host(_) | Behind::Relay | Behind::Nothing => Err(Errno::CONNREFUSED),
        };
        let (stream, phase) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.turn_down(&key, syn, error),
        };
        let mut connection = self.new_connection(stream, phase);
        connection.meet(syn);
        if phase == Phase::Answering {
            connection.look_for_room();
            connection.owed.syn = true;
        }
        self.begin(key, connection);
    }

    fn new_connection(&mut self, stream: Stream, phase: Phase) -> Connection {
        let [a, b, c, d, ..] = self.table.random().to_le_bytes();
        // What is fuzzed is what comes of guesses that are right.
        let guessed = if cfg!(fuzzing) { [0; 4] } else { [a, b, c, d] };
        Connection::new(stream, phase, u32::from_le_bytes(guessed), self.now)
    }

    fn connect(&mut self, address: &SocketAddr) -> rustix::io::Result<(Stream, Phase)> {
        if !self.has_room() {
            return Err(Errno::MFILE);
        }
        let socket = host::socket(address, SocketType::STREAM, None)?;
        let stream = Stream::tcp(socket, self.remembers_peeks)?;
        match rustix::net::connect(stream.socket(), address) {
            // The event comes all the same.
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok((stream, Phase::Connecting)),
            Err(error) => Err(error),
        }
    }

    /// A stream to our own relay of names.
    fn open_relay(&mut self) -> rustix::io::Result<(Stream, Phase)> {
        if !self.has_room() {
            return Err(Errno::MFILE);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        self.serve_names(theirs)?;
        Ok((Stream::local(ours), Phase::Answering))
    }

    /// Tells the guest that it does not get its connection.
    fn turn_down(&mut self, key: &Key, syn: &Segment<'_>, error: Errno) {
        match error {
            Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN => {
                self.counters.failed.count();
                let what = if error == Errno::NETUNREACH {
                    Unreachable::Network
                } else {
                    Unreachable::Host
                };
                self.send_unreachable(key, what, syn.seq);
            }
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => {
                self.counters.exhausted.count();
                self.reject(key, syn);
            }
            _ => {
                self.counters.failed.count();
                self.reject(key, syn);
            }
        }
    }

    /// Enters a connection into the table, and watches it.
    fn begin(&mut self, key: Key, connection: Connection) {
        if connection.is_opening() {
            self.limit_opening();
        }
        let opening = connection.is_opening();
        let token = self.table.insert(Flow::new(key, Kind::Tcp(connection)));
        self.counters.opened.count();
        if opening {
            self.opening.push_back(token);
        }
        let Some((_, connection)) = self.table.tcp(token) else {
            return;
        };
        if watch(&self.poll, connection.stream.socket(), token.to_bits()).is_err() {
            connection.broken_by_host();
        }
        self.settle(token);
    }

    /// The oldest of those that wait make room: the guest asks again, if it still wants to.
    fn limit_opening(&mut self) {
        if self.opening.len() < MOST_OPENING {
            return;
        }
        let table = &mut self.table;
        let mut opens = |token: &Token| {
            let connection = table.tcp(*token);
            connection.is_some_and(|(_, connection)| connection.is_opening())
        };
        self.opening.retain(&mut opens);
        while self.opening.len() >= MOST_OPENING {
            let Some(token) = self.opening.pop_front() else {
                return;
            };
            self.counters.evicted.count();
            if let Some((_, connection)) = self.table.tcp(token) {
                connection.stream.break_off();
            }
            self.remove(token);
        }
    }

    /// The host said whether it connected.
    pub(super) fn host_answers(&mut self, token: Token, error: Option<Errno>) {
        let Some((key, connection)) = self.table.tcp(token) else {
            return;
        };
        match error {
            None => {
                connection.phase = Phase::Answering;
                connection.heard = self.now;
                connection.look_for_room();
                connection.owed.syn = true;
            }
            Some(error @ (Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN)) => {
                let what = if error == Errno::NETUNREACH {
                    Unreachable::Network
                } else {
                    Unreachable::Host
                };
                let seq = connection.irs;
                self.counters.failed.count();
                self.send_unreachable(&key, what, seq);
                self.remove(token);
            }
            Some(_) => {
                self.counters.failed.count();
                connection.broken_by_host();
            }
        }
        self.settle(token);
    }

    /// A client of a published port: the guest is asked.
    pub(in crate::usernet) fn client_connects(&mut self, socket: OwnedFd, port: u16) {
        let key = Key {
            transport: Transport::Tcp,
            guest: (plan::GUEST.into(), port),
            remote: (plan::GATEWAY.into(), 0),
        };
        let key = self.table.with_free_port(key);
        let stream = Stream::tcp(socket, self.remembers_peeks);
        let (Some(key), Ok(stream)) = (key, stream) else {
            self.counters.exhausted.count();
            return;
        };
        let mut connection = self.new_connection(stream, Phase::Asking);
        connection.look_for_room();
        connection.owed.syn = true;
        self.begin(key, connection);
    }
}
