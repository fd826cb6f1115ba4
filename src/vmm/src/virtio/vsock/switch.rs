//! What becomes of connections: by what the guest sends, by what happens on the host, by time.
mod clients;
mod packets;
mod service;

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::epoll;

use super::{
    Common,
    connection::{Asking, Phase},
    packet::Ports,
    table::{Table, Token},
};

/// The room that each of so many connections has; further ones have less: together they hold 128 MiB at most.
const ROOMY: usize = 256;
const ROOM: u32 = 256 << 10;
const LITTLE_ROOM: u32 = 8 << 10;
/// Packets without a connection that the guest gets a reset for, at most, before it takes some.
const MOST_RESETS: usize = 256;
/// How long a client has to say where it wants to go.
const GREETING_TIME: Duration = Duration::from_secs(30);
/// How long a guest has to answer a client.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How often a guest is asked that refused a client which waits: at first, and at last.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// How long either side may take to end what the other has ended, as in Linux (`VSOCK_CLOSE_TIMEOUT`).
const CLOSE_TIME: Duration = Duration::from_secs(8);

/// Bytes of one connection's that the guest gets before the next has its turn.
pub(super) const TURN: usize = 256 << 10;

/// What a driver is to be told before it is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// All of its packets are taken.
    All,
    /// There may be more.
    More,
    /// No more can be taken before it takes what it is owed.
    Held,
}

/// Places for one system call. They stand here only to be allocated once.
#[derive(Default)]
struct Vectors(Vec<libc::iovec>);

// SAFETY: what they point to is looked up anew for each call, by the thread that makes it.
unsafe impl Send for Vectors {}

/// The connections, and what they need.
pub(super) struct Switch {
    common: Arc<Common>,
    poll: OwnedFd,
    pub(super) table: Table,
    /// Connections that there are not, which the guest is to forget.
    resets: VecDeque<Ports>,
    vectors: Vectors,
}

impl Switch {
    pub(super) fn new(common: Arc<Common>, poll: OwnedFd) -> Self {
        Self {
            table: Table::new(common.limit),
            common,
            poll,
            resets: VecDeque::new(),
            vectors: Vectors::default(),
        }
    }

    pub(super) fn poll(&self) -> &OwnedFd {
        &self.poll
    }

    fn room(&self) -> u32 {
        if self.table.len() < ROOMY {
            ROOM
        } else {
            LITTLE_ROOM
        }
    }

    /// Watches a connection's socket from now on: each change is told once.
    fn watch(&mut self, token: Token) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let Some(socket) = self
            .table
            .get(token)
            .and_then(|connection| connection.socket())
        else {
            return Ok(());
        };
        let data = epoll::EventData::new_u64(token.to_bits());
        Ok(epoll::add(&self.poll, socket, data, flags)?)
    }

    fn remove(&mut self, token: Token) {
        if self.table.remove(token).is_some() {
            self.common.counters.closed.count();
        }
    }

    /// Does what is due.
    pub(super) fn expire(&mut self, now: Instant, driver: bool) {
        while let Some(token) = self.table.next_expired(now) {
            let Some(connection) = self.table.get(token) else {
                continue;
            };
            match connection.phase {
                Phase::Greeting => self.refuse(token),
                Phase::Asking(Asking {
                    until,
                    again: Some(_),
                }) if until > now => {
                    connection.owed.request = driver;
                    self.table.set_deadline(token, Some(until));
                    self.table.line_up(token);
                }
                Phase::Asking(_) => {
                    self.common.counters.refused.count();
                    self.client_left(token);
                }
                Phase::Open => {}
                Phase::Draining | Phase::Leaving => self.reset(token),
            }
        }
    }

    fn refuse(&mut self, token: Token) {
        self.common.counters.refused.count();
        self.remove(token);
    }

    /// The guest has a driver that knows of nothing; or none. Who waits, waits for the next one.
    pub(super) fn start_over(&mut self, driver: bool) {
        self.resets.clear();
        for token in self.table.tokens() {
            let Some(connection) = self.table.get(token) else {
                continue;
            };
            match connection.phase {
                Phase::Greeting => {}
                Phase::Asking(Asking {
                    again: Some(_),
                    until,
                }) => {
                    connection.owed.request = driver;
                    self.table.set_deadline(token, Some(until));
                    self.table.line_up(token);
                }
                _ => self.remove(token),
            }
        }
    }
}

/// Bytes as counters count them.
fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
