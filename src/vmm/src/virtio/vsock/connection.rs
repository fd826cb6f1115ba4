//! One connection: a client or a server on the host, a port in the guest, and what is on its way between them.
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{Shutdown, shutdown};

use super::{
    backlog::Backlog,
    credit::Credit,
    host,
    packet::{Ports, ending},
};

/// Where in its life a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A client on the host has yet to say where it wants to go.
    Greeting,
    /// The guest is asked, or will be asked again: nobody has answered yet.
    Asking(Asking),
    /// Data goes both ways, or one.
    Open,
    /// The guest is done with it; what it sent is still on its way.
    Draining,
    /// The host's end is gone; the guest is to say that it has understood.
    Leaving,
}

/// A client on the host that waits for the guest's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asking {
    /// When it gives up.
    pub(super) until: Instant,
    /// How long after a refusal the guest is asked again, if at all.
    pub(super) again: Option<Duration>,
}

/// Packets that the guest is yet to get, one of each kind at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) request: bool,
    pub(super) response: bool,
    pub(super) shutdown: bool,
    pub(super) reset: bool,
    pub(super) credit: bool,
    pub(super) credit_request: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// None before a client has greeted, and when the guest has forgotten it.
    pub(super) ports: Option<Ports>,
    pub(super) phase: Phase,
    socket: Option<OwnedFd>,
    pub(super) credit: Credit,
    pub(super) backlog: Backlog,
    pub(super) owed: Owed,
    /// Whether there may be something to read.
    pub(super) readable: bool,
    /// Whether the socket may take something.
    pub(super) writable: bool,
    /// Whether the host's end has said that it sends no more.
    pub(super) closing: bool,
    /// Whether the host's end does not read any more either: it is gone.
    pub(super) hung_up: bool,
    /// Whether all is read that there will ever be.
    pub(super) ended: bool,
    /// Whether the guest was asked for credit since it gave some.
    pub(super) asked_for_credit: bool,
    /// What the guest will not do any more.
    pub(super) guest_ending: u32,
    /// What the guest was told that the host will not do any more.
    pub(super) host_ending: u32,
    /// Whether it stands in the line of those with something for the guest.
    pub(super) in_line: bool,
    /// When something is done about it though nothing happens.
    pub(super) deadline: Option<Instant>,
}

impl Connection {
    /// A connection by `socket`, with room for `room` bytes of the guest's.
    pub(super) fn new(socket: OwnedFd, phase: Phase, ports: Option<Ports>, room: u32) -> Self {
        Self {
            ports,
            phase,
            socket: Some(socket),
            credit: Credit::new(room),
            backlog: Backlog::default(),
            owed: Owed::default(),
            readable: true,
            writable: true,
            closing: false,
            hung_up: false,
            ended: false,
            asked_for_credit: false,
            guest_ending: 0,
            host_ending: 0,
            in_line: false,
            deadline: None,
        }
    }

    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    /// Whether the guest would get data of the host's now, if it had buffers.
    pub(super) fn has_data(&self) -> bool {
        self.phase == Phase::Open
            && self.readable
            && !self.ended
            && self.guest_ending & ending::RECEIVE == 0
    }

    /// Whether there is something to be said to the guest.
    pub(super) fn has_something(&self) -> bool {
        let can_read = self.has_data() && (self.credit.free() > 0 || !self.asked_for_credit);
        self.owed != Owed::default() || can_read
    }

    /// Sends the backlog on, as far as the socket takes it; how many bytes that was.
    pub(super) fn flush(&mut self) -> usize {
        let Some(socket) = &self.socket else {
            return 0;
        };
        match self.backlog.flush(socket) {
            Ok((flushed, all)) => {
                self.writable = all;
                flushed
            }
            Err(_) => {
                self.hung_up = true;
                let lost = self.backlog.len();
                self.backlog.clear();
                lost
            }
        }
    }

    /// So much of what the guest sent has gone on.
    pub(super) fn forwarded(&mut self, bytes: usize) {
        // A connection's backlog is smaller than 4 GiB.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Who sends no more needs no room.
        self.owed.credit |= self.credit.forward(bytes) && self.guest_ending & ending::SEND == 0;
    }

    /// The guest will not do `flags` any more.
    pub(super) fn guest_ends(&mut self, flags: u32) {
        self.guest_ending |= flags & ending::BOTH;
        if flags & ending::RECEIVE != 0
            && let Some(socket) = &self.socket
        {
            // Who writes there is told. It fails only when nobody does.
            let _ = shutdown(socket, Shutdown::Read);
        }
        self.end_writing();
    }

    /// Tells the host's end that nothing more comes, once all is sent.
    pub(super) fn end_writing(&self) {
        if self.guest_ending & ending::SEND != 0
            && self.backlog.is_empty()
            && let Some(socket) = &self.socket
        {
            let _ = shutdown(socket, Shutdown::Write);
        }
    }

    /// Whether the guest needs nothing of it any more and has sent nothing that is still here.
    pub(super) fn is_finished(&self) -> bool {
        self.guest_ending == ending::BOTH && self.backlog.is_empty()
    }

    /// Lets the host's end go.
    pub(super) fn close(&mut self) {
        self.socket = None;
        self.backlog.clear();
        self.readable = false;
    }

    /// The port that the client is told of.
    pub(super) fn answer_client(&mut self, port: u32) {
        let answer = format!("OK {port}\n");
        let Some(socket) = &self.socket else {
            return;
        };
        // Nothing was sent before: there is room, or nobody who would read it.
        if host::send_bytes(socket, answer.as_bytes()).is_err() {
            self.hung_up = true;
        }
    }
}
