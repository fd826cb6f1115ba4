//! Streams between the guest's TCP and the host's: a relay, whose memory is the host's sockets.
//!
//! What the guest sends is acknowledged when the host's kernel has it. What the host has is looked at and sent, and taken out of its
//! socket when the guest has it.
mod from_guest;
mod opening;
mod segment;
mod state;
mod to_guest;
mod window;

use rustix::event::epoll::EventFlags;

use self::{from_guest::Context, segment::Outgoing, state::Phase};
pub(super) use self::{
    segment::Segment,
    state::Connection,
    to_guest::{TURN, Way},
};
use super::{
    engine::Engine,
    frame::Sent,
    host,
    table::{Key, Token},
};

impl Engine {
    /// The guest sends a segment.
    pub(super) fn take_segment(&mut self, key: Key, segment: &Segment<'_>) {
        let Some(token) = self.table.find(&key) else {
            return match (segment.syn, segment.ack, segment.rst) {
                (true, None, false) => self.guest_connects(key, segment),
                (_, _, true) => {}
                _ => self.reject(&key, segment),
            };
        };
        let mut context = Context {
            now: self.now,
            counters: &self.counters,
            waste: &mut self.waste,
        };
        if let Some((_, connection)) = self.table.tcp(token) {
            connection.take(segment, &mut context);
        }
        self.settle(token);
    }

    /// There is no such connection, and there will not be.
    fn reject(&mut self, key: &Key, segment: &Segment<'_>) {
        let reset = Outgoing {
            seq: segment.ack.unwrap_or(0),
            ack: segment.ack.is_none().then(|| segment.end()),
            rst: true,
            cut: u16::MAX,
            ..Outgoing::default()
        };
        if reset.send(key, self.guest_mac, &mut self.channel) != Sent::Yes {
            self.counters.dropped_full.count();
        }
    }

    /// Something happened to the socket of a connection.
    pub(super) fn tcp_event(&mut self, token: Token, flags: EventFlags) {
        let Some((_, connection)) = self.table.tcp(token) else {
            return;
        };
        let broke = flags.contains(EventFlags::ERR);
        if connection.phase == Phase::Connecting {
            if flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                let error = host::error_of(connection.stream.socket());
                self.host_answers(token, error);
            }
            return;
        }
        let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        connection.closing |= flags.intersects(ends);
        connection.readable |= connection.closing || flags.contains(EventFlags::IN);
        connection.host_broke |= broke;
        if broke && (connection.ended || connection.phase != Phase::Open) {
            connection.broken_by_host();
        }
        if flags.contains(EventFlags::OUT) {
            connection.room_again();
        }
        connection.look_after_shut_out(self.now);
        self.settle(token);
    }
}
