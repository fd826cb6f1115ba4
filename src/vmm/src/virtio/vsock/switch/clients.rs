//! What happens on the host: clients come, and sockets have something, take something, or go.
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::event::epoll;

use super::{ANSWER_TIME, ASK_AGAIN, CLOSE_TIME, GREETING_TIME, MOST_RESETS, Switch, count};
use crate::virtio::vsock::{
    connection::{Asking, Connection, Owed, Phase},
    greeting::{self, Greeting},
    host::{self, Received},
    packet::{Ports, ending},
    table::Token,
};

impl Switch {
    /// A client has come.
    pub(in super::super) fn client(&mut self, socket: OwnedFd) {
        if self.table.is_full() {
            self.common.counters.refused.count();
            return;
        }
        let connection = Connection::new(socket, Phase::Greeting, None, self.room());
        let token = self.table.insert(connection);
        self.common.counters.opened.count();
        if self.watch(token).is_err() {
            self.remove(token);
            return;
        }
        self.table
            .set_deadline(token, Some(Instant::now() + GREETING_TIME));
    }

    /// Something has changed at a connection's socket.
    pub(in super::super) fn event(&mut self, token: Token, flags: epoll::EventFlags, driver: bool) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let is = |flag| flags.intersects(flag);
        connection.readable |= is(epoll::EventFlags::IN
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::HUP
            | epoll::EventFlags::ERR);
        connection.writable |= is(epoll::EventFlags::OUT);
        connection.closing |= is(epoll::EventFlags::RDHUP);
        connection.hung_up |= is(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        match connection.phase {
            Phase::Greeting => {
                self.greet(token, driver);
                self.leave_if_unheard(token);
            }
            Phase::Asking(_) => self.leave_if_unheard(token),
            Phase::Leaving => {}
            Phase::Open | Phase::Draining => {
                self.flush(token);
                self.leave_if_done(token);
            }
        }
    }

    /// Lets the host's end go once it is gone and nothing of what it sent is wanted.
    pub(super) fn leave_if_done(&mut self, token: Token) {
        if let Some(connection) = self.table.get(token)
            && connection.phase == Phase::Open
            && connection.hung_up
            && (connection.ended || connection.guest_ending & ending::RECEIVE != 0)
        {
            self.host_ends(token);
            self.table.line_up(token);
        }
    }

    /// Reads what a client says first, and asks the guest.
    pub(super) fn greet(&mut self, token: Token, driver: bool) {
        let greeting = match self.read_greeting(token) {
            None => return,
            Some(Err(())) => {
                self.common.counters.refused.count();
                self.remove(token);
                return;
            }
            Some(Ok(greeting)) => greeting,
        };
        if !driver && greeting.patience.is_none() {
            self.common.counters.refused.count();
            self.remove(token);
            return;
        }
        let host = self.table.free_port(greeting.port);
        self.table.name(
            token,
            Ports {
                guest: greeting.port,
                host,
            },
        );
        let now = Instant::now();
        let until = now
            + greeting.patience.map_or(ANSWER_TIME, |patience| {
                patience.max(Duration::from_millis(1))
            });
        let again = greeting.patience.map(|_| ASK_AGAIN.0);
        if let Some(connection) = self.table.get(token) {
            connection.phase = Phase::Asking(Asking { until, again });
            connection.owed.request = driver;
        }
        self.table.set_deadline(token, Some(until));
        self.table.line_up(token);
    }

    /// The greeting, once all of it is there; an error when it is none.
    pub(super) fn read_greeting(&mut self, token: Token) -> Option<Result<Greeting, ()>> {
        let connection = self.table.get(token)?;
        let socket = connection.socket()?;
        let mut line = [0u8; greeting::LONGEST];
        let mut read = |length: usize, peek: bool| {
            let mut vectors = [libc::iovec {
                iov_base: line.as_mut_ptr().cast(),
                iov_len: length,
            }];
            host::receive(socket, &mut vectors, length, peek)
        };
        let length = match read(greeting::LONGEST, true) {
            Received::Nothing => return None,
            Received::End => return Some(Err(())),
            Received::Bytes(length, _) => length,
        };
        let end = line[..length].iter().position(|byte| *byte == b'\n');
        match end {
            None if length < greeting::LONGEST && !connection.hung_up => None,
            None => Some(Err(())),
            Some(end) => {
                // Nothing behind it: that is the guest's.
                let mut again = [0u8; greeting::LONGEST];
                let mut vectors = [libc::iovec {
                    iov_base: again.as_mut_ptr().cast(),
                    iov_len: end + 1,
                }];
                host::receive(socket, &mut vectors, end + 1, false);
                Some(greeting::parse(&line[..end]).ok_or(()))
            }
        }
    }

    /// Forgets a client that has gone before the guest has answered: of what has happened to its socket, nothing is told again.
    fn leave_if_unheard(&mut self, token: Token) {
        if let Some(connection) = self.table.get(token)
            && matches!(connection.phase, Phase::Asking(_))
            && connection.hung_up
        {
            self.client_left(token);
        }
    }

    /// A client went before the guest has answered.
    pub(super) fn client_left(&mut self, token: Token) {
        let asked = self
            .table
            .get(token)
            .filter(|connection| !connection.owed.request);
        let ports = asked.and_then(|connection| connection.ports);
        if let Some(ports) = ports
            && self.resets.len() < MOST_RESETS
        {
            // Where there is no room, it is reset when the guest answers.
            self.resets.push_back(ports);
        }
        self.remove(token);
    }

    /// Sends on what is kept for a socket that takes something again.
    pub(super) fn flush(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if connection.writable && !connection.backlog.is_empty() {
            let flushed = connection.flush();
            connection.forwarded(flushed);
            connection.end_writing();
            self.common.counters.bytes_from_guest.add(count(flushed));
            if flushed > 0 && connection.phase == Phase::Draining {
                self.table
                    .set_deadline(token, Some(Instant::now() + CLOSE_TIME));
            }
        }
        self.end_if_finished(token);
        self.table.line_up(token);
    }

    /// Ends what neither side needs any more.
    pub(super) fn end_if_finished(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if connection.hung_up {
            connection.backlog.clear();
        }
        if connection.is_finished() {
            self.reset(token);
        }
    }

    /// Ends a connection at once: the guest is told, if it knows of it.
    pub(super) fn reset(&mut self, token: Token) {
        self.table.set_deadline(token, None);
        let Some(connection) = self.table.get(token) else {
            return;
        };
        connection.close();
        if connection.ports.is_none() {
            self.remove(token);
            return;
        }
        connection.phase = Phase::Leaving;
        connection.owed = Owed {
            reset: true,
            ..Default::default()
        };
        self.table.line_up(token);
    }
}
