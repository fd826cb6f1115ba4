//! What a connection has to say to the guest.
use std::{ops::Range, time::Instant};

use super::{
    segment::{LONGEST, Outgoing},
    state::{Connection, Phase, QUESTIONS, SCALE, SILENCE},
    state::{MOST_OPENING_TRIES, MOST_TRIES, Owed},
};
use crate::usernet::{
    Counters,
    frame::{Channel, Sent, feature},
    host::{Peeked, WASTE},
    table::Key,
};

/// Bytes of one connection's that the guest gets before the next has its turn.
pub(in crate::usernet) const TURN: usize = 256 << 10;
/// What IPv4 and TCP, or IPv6 and TCP, take of a packet.
const HEADERS: (u16, u16) = (40, 60);
/// Segments are not asked to be longer than this part of what there is room for: a few are to fit.
const SEGMENTS_IN_WINDOW: u32 = 4;
/// More frames than a channel holds.
const CHANNEL: u64 = 2048;
/// What every host takes (RFC 9293 §3.7.1).
const LEAST_SEGMENT: u32 = 536;

/// What sending needs besides the connection.
pub(in crate::usernet) struct Way<'a> {
    pub(in crate::usernet) key: Key,
    pub(in crate::usernet) guest_mac: [u8; 6],
    pub(in crate::usernet) mtu: u16,
    pub(in crate::usernet) now: Instant,
    pub(in crate::usernet) channel: &'a mut Channel,
    pub(in crate::usernet) counters: &'a Counters,
    pub(in crate::usernet) payload: &'a mut [u8; TURN],
    pub(in crate::usernet) waste: &'a mut [u8; WASTE],
}

impl Way<'_> {
    /// Whether it is gone, one way or another.
    fn send(&mut self, segment: &Outgoing<'_>) -> bool {
        segment.send(&self.key, self.guest_mac, self.channel) != Sent::Full
    }
}

impl Connection {
    /// Says what there is to be said, as far as there is room, and not more than others can wait for.
    pub(in crate::usernet) fn serve(&mut self, way: &mut Way<'_>) {
        if self.owed.reset {
            return self.send_reset(way);
        }
        if self.phase == Phase::Gone {
            self.owed = Owed::default();
            return;
        }
        if self.owed.syn && !self.send_syn(way) {
            return;
        }
        if !self.send_data(way) || self.owed.reset {
            return;
        }
        if self.owes_end() && !self.send_end(way) {
            return;
        }
        if !self.send_acks(way) {
            return;
        }
        if self.owed.probe {
            self.send_probe(way);
        }
        self.look_after_shut_out(way.now);
    }

    /// That there is room again may be said and not heard: it is asked for now and then.
    pub(super) fn look_after_shut_out(&mut self, now: Instant) {
        if self.is_shut_out() && self.alarm.is_none() {
            self.set_alarm(now);
        }
    }

    fn blank(&mut self) -> Outgoing<'static> {
        Outgoing {
            seq: self.next,
            ack: Some(self.expected),
            window: self.window_now(),
            cut: u16::MAX,
            ..Outgoing::default()
        }
    }

    fn send_reset(&mut self, way: &mut Way<'_>) {
        let heard_of_guest = self.expected != self.irs;
        let reset = Outgoing {
            seq: self.next,
            ack: heard_of_guest.then_some(self.expected),
            rst: true,
            cut: u16::MAX,
            ..Outgoing::default()
        };
        if way.send(&reset) {
            self.owed = Owed::default();
        }
    }

    /// SYN, or the answer to one.
    fn send_syn(&mut self, way: &mut Way<'_>) -> bool {
        let asking = self.phase == Phase::Asking;
        let headers = if way.key.guest.0.is_ipv4() {
            HEADERS.0
        } else {
            HEADERS.1
        };
        let few = (self.stream.room().limit / 2)
            .try_into()
            .unwrap_or(u32::MAX)
            / SEGMENTS_IN_WINDOW;
        let few = u16::try_from(few.max(LEAST_SEGMENT)).unwrap_or(u16::MAX);
        let blank = self.blank();
        let syn = Outgoing {
            seq: self.acked,
            ack: (!asking).then_some(self.expected),
            syn: true,
            mss: way.mtu.saturating_sub(headers).min(LONGEST).min(few),
            scale: (asking || self.scale.is_some()).then_some(SCALE),
            ..blank
        };
        if !way.send(&syn) {
            return false;
        }
        self.owed.syn = false;
        self.owed.ack = false;
        self.next = self.acked.wrapping_add(1);
        self.sent = self.next;
        self.set_alarm(way.now);
        true
    }

    /// How long a segment may be.
    fn longest(&self, way: &Way<'_>) -> usize {
        let cut = match way.key.guest.0.is_ipv4() {
            true => feature::GUEST_TSO4,
            false => feature::GUEST_TSO6,
        };
        let mss = usize::from(self.mss);
        if way.channel.has(cut) && way.channel.has(feature::GUEST_CSUM) {
            usize::from(LONGEST) / mss * mss
        } else {
            mss
        }
    }

    /// Whether there is room left in the channel.
    fn send_data(&mut self, way: &mut Way<'_>) -> bool {
        let mut turn = TURN;
        while turn > 0 && self.can_send() {
            let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
            let limit = room.min(turn);
            let seen =
                self.stream
                    .peek(self.data_in_flight(), &mut way.payload[..limit], way.waste);
            match seen {
                Peeked::Bytes(bytes) => {
                    if !self.send_pieces(bytes, way) {
                        self.stream.look_from(self.data_in_flight());
                        return false;
                    }
                    turn -= bytes;
                    // Of what follows its last byte it has told already.
                    self.readable = bytes == limit || self.closing;
                }
                Peeked::Nothing if !self.closing => self.readable = false,
                Peeked::Nothing | Peeked::End if !self.host_broke => self.ended = true,
                _ => self.broken_by_host(),
            }
        }
        true
    }

    /// Sends what was looked at, cut as the guest takes it; whether all of it.
    fn send_pieces(&mut self, bytes: usize, way: &mut Way<'_>) -> bool {
        let longest = self.longest(way);
        let mut from = 0;
        while from < bytes {
            let to = bytes.min(from + longest);
            if !self.send_piece(from..to, way) {
                return false;
            }
            from = to;
        }
        true
    }

    fn send_piece(&mut self, range: Range<usize>, way: &mut Way<'_>) -> bool {
        let bytes = range.len();
        let piece = Outgoing {
            payload: &way.payload[range],
            cut: self.mss,
            ..self.blank()
        };
        if piece.send(&way.key, way.guest_mac, way.channel) == Sent::Full {
            return false;
        }
        let count = u32::try_from(bytes).unwrap_or(0);
        way.counters.bytes_to_guest.add(count.into());
        self.moved_on(count, way.now);
        true
    }

    fn moved_on(&mut self, count: u32, now: Instant) {
        let before = self.sent.wrapping_sub(self.acked);
        self.next = self.next.wrapping_add(count);
        if self.in_flight() > before {
            self.sent = self.next;
        }
        self.owed.ack = false;
        if self.alarm.is_none() {
            self.set_alarm(now);
        }
    }

    fn send_end(&mut self, way: &mut Way<'_>) -> bool {
        let blank = self.blank();
        if !way.send(&Outgoing { fin: true, ..blank }) {
            return false;
        }
        self.end = Some(self.next);
        self.moved_on(1, way.now);
        true
    }

    fn send_acks(&mut self, way: &mut Way<'_>) -> bool {
        while self.owed.ack || self.owed.duplicates > 0 {
            let blank = self.blank();
            if !way.send(&blank) {
                return false;
            }
            if !std::mem::take(&mut self.owed.ack) {
                self.owed.duplicates -= 1;
            }
        }
        true
    }

    fn send_probe(&mut self, way: &mut Way<'_>) {
        let blank = self.blank();
        let probe = Outgoing {
            seq: self.acked.wrapping_sub(1),
            ..blank
        };
        self.owed.probe = !way.send(&probe);
    }

    /// What is due.
    pub(in crate::usernet) fn expire(
        &mut self,
        now: Instant,
        channel: &Channel,
        counters: &Counters,
    ) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        // What the guest did not take was not lost.
        let drained = channel.is_drained() || self.is_passed(counters.frames_to_guest.get());
        match self.phase {
            Phase::Connecting => self.broken_by_host(),
            Phase::Answering | Phase::Asking => {
                self.try_again(now, drained, MOST_OPENING_TRIES);
                self.owed.syn = drained && self.phase != Phase::Gone;
            }
            Phase::Open if self.in_flight() > 0 => {
                self.try_again(now, drained, MOST_TRIES);
                if drained && self.phase == Phase::Open {
                    counters.retransmits.count();
                    self.recovery = Some(self.sent);
                    self.rewind();
                }
            }
            Phase::Open if self.is_shut_out() => {
                // As long as it answers, it may take its time.
                self.owed.probe = true;
                self.tries = self.tries.saturating_add(1);
                self.set_alarm(now);
                self.break_off_silent(now, QUESTIONS.0);
            }
            Phase::Open => {
                self.alarm = None;
                if now >= self.heard + SILENCE {
                    self.owed.probe = true;
                    self.alarm = Some(now + QUESTIONS.1);
                    self.break_off_silent(now, SILENCE + QUESTIONS.0);
                }
            }
            Phase::Gone => {}
        }
    }

    /// Whether so much was sent since an answer was late that the channel cannot hold what is to be answered.
    fn is_passed(&mut self, frames: u64) -> bool {
        let mark = *self.mark.get_or_insert(frames);
        let passed = frames.saturating_sub(mark) > CHANNEL;
        self.mark = self.mark.filter(|_| !passed);
        passed
    }

    fn break_off_silent(&mut self, now: Instant, after: std::time::Duration) {
        if now >= self.heard + after {
            self.broken_by_host();
        }
    }

    fn try_again(&mut self, now: Instant, drained: bool, most: u32) {
        self.tries += u32::from(drained);
        self.set_alarm(now);
        if self.tries > most {
            self.broken_by_host();
        }
    }
}
