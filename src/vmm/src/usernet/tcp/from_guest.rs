//! What the guest's segments do to a connection.
use std::time::Instant;

use super::{
    segment::Segment,
    state::{Connection, MOST_WINDOW, Phase, is_after},
};
use crate::usernet::{Counters, host::WASTE};

/// So many acknowledgements of the same mean that something was lost (RFC 5681 §3.2).
const REPEATED: u8 = 3;
/// So many duplicates are owed at most.
const MOST_DUPLICATES: u8 = 3;

/// What taking segments needs besides the connection.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) counters: &'a Counters,
    pub(super) waste: &'a mut [u8; WASTE],
}

impl Connection {
    /// Takes a segment of the guest's.
    pub(super) fn take(&mut self, segment: &Segment<'_>, context: &mut Context<'_>) {
        self.heard = context.now;
        match self.phase {
            Phase::Connecting if segment.rst => self.broken_by_guest(),
            Phase::Asking => self.take_answer(segment, context.now),
            Phase::Answering | Phase::Open => self.take_synchronized(segment, context),
            Phase::Connecting | Phase::Gone => {}
        }
        self.look_after_shut_out(context.now);
    }

    /// Whether the guest takes what the host asks it.
    fn take_answer(&mut self, segment: &Segment<'_>, now: Instant) {
        if segment.ack != Some(self.sent) || self.sent == self.acked {
            return;
        }
        if segment.rst {
            return self.broken_by_guest();
        }
        if segment.syn {
            self.meet(segment);
            self.acked = self.sent;
            self.opened(now);
            self.owed.ack = true;
        }
    }

    /// Both sides have agreed.
    fn opened(&mut self, now: Instant) {
        self.phase = Phase::Open;
        self.owed.syn = false;
        self.alarm = None;
        self.tries = 0;
        self.heard = now;
        self.readable = true;
    }

    fn take_synchronized(&mut self, segment: &Segment<'_>, context: &mut Context<'_>) {
        if segment.rst {
            // One that is elsewhere is an old one's. The guest may have been further when the window was shut.
            let ahead = segment.seq.wrapping_sub(self.expected);
            if usize::try_from(ahead).is_ok_and(|ahead| ahead <= MOST_WINDOW) {
                self.broken_by_guest();
            }
            return;
        }
        if segment.syn {
            let again = self.phase == Phase::Answering && segment.seq == self.irs;
            self.owed.syn |= again;
            // Who has forgotten this connection breaks it off when it hears of it (RFC 9293 §3.5.1).
            self.owed.ack |= !again;
            return;
        }
        let Some(ack) = segment.ack else {
            return;
        };
        if self.phase == Phase::Answering {
            if ack != self.sent || self.sent == self.acked {
                return;
            }
            self.acked = ack;
            self.opened(context.now);
        }
        if self.take_ack(segment, ack, context) {
            self.take_data(segment, context.counters);
        }
    }

    /// Whether what comes with it counts.
    fn take_ack(&mut self, segment: &Segment<'_>, ack: u32, context: &mut Context<'_>) -> bool {
        let more = ack.wrapping_sub(self.acked);
        if more > self.sent.wrapping_sub(self.acked) {
            // It is an old one, or of what was never sent.
            let unsent = is_after(ack, self.sent);
            self.owed.ack |= unsent;
            return !unsent;
        }
        let window = u32::from(segment.window) << self.scale.unwrap_or(0);
        if more == 0 {
            let same = window == self.window && segment.payload.is_empty() && !segment.fin;
            if same && self.in_flight() > 0 && segment.seq == self.expected {
                self.count_repeated(context.counters);
            } else if window != self.window {
                self.repeated = 0;
                // From here on it is not the probes that count.
                self.alarm = self.alarm.filter(|_| self.in_flight() > 0);
                self.tries = 0;
            }
        } else {
            self.advance(ack, more, context);
        }
        self.window = window;
        self.largest_window = self.largest_window.max(window);
        self.phase == Phase::Open
    }

    fn count_repeated(&mut self, counters: &Counters) {
        self.repeated = self.repeated.saturating_add(1);
        if self.repeated == REPEATED && self.recovery.is_none() {
            counters.retransmits.count();
            self.recovery = Some(self.sent);
            self.rewind();
        }
    }

    /// The guest has `more` than before.
    fn advance(&mut self, ack: u32, more: u32, context: &mut Context<'_>) {
        let end_too = self.end.is_some_and(|end| is_after(ack, end));
        self.end_acked |= end_too;
        let data = usize::try_from(more - u32::from(end_too)).unwrap_or(0);
        if !self.stream.take(data, context.waste) {
            return self.broken_by_host();
        }
        let ahead = is_after(ack, self.next);
        self.acked = ack;
        if ahead {
            // It had been sent before it was to be sent again. Taking it has moved where the next look begins.
            self.next = ack;
            self.stream.look_from(0);
        }
        if self.recovery.is_some_and(|behind| !is_after(behind, ack)) {
            self.recovery = None;
        }
        self.repeated = 0;
        self.tries = 0;
        self.alarm = None;
        self.mark = None;
        if self.in_flight() > 0 {
            self.set_alarm(context.now);
        }
    }

    fn take_data(&mut self, segment: &Segment<'_>, counters: &Counters) {
        if segment.seq == segment.end() {
            // What lies elsewhere asks whether somebody is there, or for room.
            self.owed.ack |= segment.seq != self.expected;
            return;
        }
        if is_after(segment.seq, self.expected) {
            // Something is missing. To say so at once has it sent at once, which is no use while nothing is taken.
            if self.refused_some {
                self.owed.ack = true;
            } else {
                self.owe_duplicate();
            }
            return;
        }
        self.owed.ack = true;
        let known = self.expected.wrapping_sub(segment.seq);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let Some(data) = segment.payload.get(known..).filter(|_| !self.guest_ended) else {
            return;
        };
        if self.send_on(data, counters) && segment.fin {
            self.expected = self.expected.wrapping_add(1);
            self.guest_ended = true;
            self.stream.end();
        }
    }

    fn owe_duplicate(&mut self) {
        if self.owed.ack {
            self.owed.duplicates = (self.owed.duplicates + 1).min(MOST_DUPLICATES);
        }
        self.owed.ack = true;
    }

    /// Sends data on; whether all of it.
    fn send_on(&mut self, data: &[u8], counters: &Counters) -> bool {
        if data.is_empty() {
            return true;
        }
        let Ok(sent) = self.stream.send(data) else {
            self.broken_by_host();
            return false;
        };
        counters
            .bytes_from_guest
            .add(u64::try_from(sent).unwrap_or(0));
        // A segment is shorter than 64 KiB.
        self.expected = self.expected.wrapping_add(u32::try_from(sent).unwrap_or(0));
        if sent < data.len() {
            self.refused_some = true;
            self.shut_window();
        }
        sent == data.len()
    }
}
