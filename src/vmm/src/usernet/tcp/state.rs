//! A connection: where in its life it is, what both sides have of the sequence space, and what is owed to the guest.
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use super::segment::{LONGEST, Segment};
use crate::usernet::host::{FURTHEST, Stream};

/// What our windows are scaled by: up to 8 MiB.
pub(super) const SCALE: u8 = 7;
/// The largest that one is.
pub(super) const MOST_WINDOW: usize = 4 << 20;
/// The largest shift of a guest's (RFC 7323 §2.3).
const MOST_SCALE: u8 = 14;
/// Smallest segments: what a guest says below that does not count.
const LEAST_MSS: u16 = 88;
/// Segments of who says nothing of them (RFC 9293 §3.7.1).
const DEFAULT_MSS: u16 = 536;
/// Most bytes on their way to the guest.
pub(super) const MOST_IN_FLIGHT: u32 = 512 << 10;
const _: () = assert!(MOST_IN_FLIGHT as usize <= FURTHEST);
/// As much of them is looked past to see more, where the kernel does not remember it: that is to copy it once again.
const LOOKED_PAST: u32 = 64 << 10;
/// How long the guest has to acknowledge something, at first and at last.
pub(super) const PATIENCE: (Duration, Duration) =
    (Duration::from_millis(300), Duration::from_secs(30));
/// How often something is said again in vain.
pub(super) const MOST_TRIES: u32 = 14;
/// As [`MOST_TRIES`], before there is a connection.
pub(super) const MOST_OPENING_TRIES: u32 = 6;
/// How long a host is tried to be connected to: the guest itself gives up after about as long.
pub(super) const CONNECTING: Duration = Duration::from_secs(120);
/// How long nothing needs to be heard of the guest before it is asked whether it is there (RFC 9293 §3.8.4).
pub(super) const SILENCE: Duration = Duration::from_secs(2 * 60 * 60);
/// How long it is asked, and how often.
pub(super) const QUESTIONS: (Duration, Duration) =
    (Duration::from_secs(10 * 60), Duration::from_secs(75));

/// Where in its life a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest wants it, and the host is asked.
    Connecting,
    /// The host said yes, and the guest is told.
    Answering,
    /// The host wants it, and the guest is asked.
    Asking,
    /// Data goes both ways, or one.
    Open,
    /// Nothing is left but to tell the guest, if that.
    Gone,
}

/// What the guest is yet to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owed {
    /// SYN, and whether it is an answer the phase says.
    pub(super) syn: bool,
    pub(super) ack: bool,
    /// Further acknowledgements of the same: three have the guest send again at once what was not taken.
    pub(super) duplicates: u8,
    pub(super) reset: bool,
    /// An old sequence number, which is answered.
    pub(super) probe: bool,
}

/// A connection.
#[derive(Debug)]
pub(in crate::usernet) struct Connection {
    pub(super) stream: Stream,
    pub(super) phase: Phase,
    pub(super) owed: Owed,

    // From the guest.
    /// The first sequence number.
    pub(super) irs: u32,
    /// What comes next.
    pub(super) expected: u32,
    /// Up to where the guest was told that it may send.
    pub(super) edge: u32,
    /// The window that was granted last, of which half is used before it is looked at again.
    pub(super) granted: u32,
    /// Whether the guest sends no more.
    pub(super) guest_ended: bool,
    /// Whether the guest waits for room that an event will tell of.
    pub(super) wants_room: bool,
    /// Whether the kernel is to be asked for that event.
    pub(super) asks_for_room: bool,
    /// Whether something of the guest's was not taken.
    pub(super) refused_some: bool,

    // To the guest.
    /// The first that is not acknowledged.
    pub(super) acked: u32,
    /// The next to be sent.
    pub(super) next: u32,
    /// Behind all that was ever sent.
    pub(super) sent: u32,
    /// Behind what was sent when something was lost: it is sent again once.
    pub(super) recovery: Option<u32>,
    /// The guest's window, and the largest there was.
    pub(super) window: u32,
    pub(super) largest_window: u32,
    /// What the guest's windows are scaled by, if both scale.
    pub(super) scale: Option<u8>,
    pub(super) mss: u16,
    /// Acknowledgements of the same, in a row.
    pub(super) repeated: u8,
    /// The sequence number of the end, once it was sent.
    pub(super) end: Option<u32>,
    pub(super) end_acked: bool,

    // From the host.
    /// Whether there may be something.
    pub(super) readable: bool,
    /// Whether the host's end sends no more: all of it is there.
    pub(super) closing: bool,
    /// Whether it broke: what is there still goes to the guest, then it hears of that.
    pub(super) host_broke: bool,
    /// Whether all is sent that was there.
    pub(super) ended: bool,

    // Time.
    pub(super) heard: Instant,
    pub(super) alarm: Option<Instant>,
    pub(super) tries: u32,
    /// How many frames had gone to the guest when an answer was late that its channel may still hold.
    pub(super) mark: Option<u64>,
}

impl Connection {
    /// A connection whose first sequence number is `iss`.
    pub(super) fn new(stream: Stream, phase: Phase, iss: u32, now: Instant) -> Self {
        Self {
            stream,
            phase,
            owed: Owed::default(),
            irs: 0,
            expected: 0,
            edge: 0,
            granted: 0,
            guest_ended: false,
            wants_room: false,
            asks_for_room: false,
            refused_some: false,
            acked: iss,
            next: iss,
            sent: iss,
            recovery: None,
            window: 0,
            largest_window: 0,
            scale: None,
            mss: DEFAULT_MSS,
            repeated: 0,
            end: None,
            end_acked: false,
            readable: false,
            closing: false,
            host_broke: false,
            ended: false,
            heard: now,
            alarm: None,
            tries: 0,
            mark: None,
        }
    }

    /// What the guest's SYN says.
    pub(super) fn meet(&mut self, syn: &Segment<'_>) {
        self.irs = syn.seq;
        self.expected = syn.seq.wrapping_add(1);
        self.edge = self.expected;
        self.scale = syn.scale.map(|scale| scale.min(MOST_SCALE));
        self.mss = syn.mss.unwrap_or(DEFAULT_MSS).clamp(LEAST_MSS, LONGEST);
        // A SYN's own window is not scaled.
        self.window = syn.window.into();
        self.largest_window = self.window;
    }

    /// Bytes, and the end, that the guest has not acknowledged.
    pub(super) fn in_flight(&self) -> u32 {
        self.next.wrapping_sub(self.acked)
    }

    /// Bytes of data of those.
    pub(super) fn data_in_flight(&self) -> usize {
        let end = u32::from(self.end_is_sent());
        usize::try_from(self.in_flight().saturating_sub(end)).unwrap_or(0)
    }

    /// Whether the end is among what is on its way, or acknowledged.
    pub(super) fn end_is_sent(&self) -> bool {
        self.end.is_some_and(|end| is_after(self.next, end))
    }

    /// Bytes that the guest would take now.
    pub(super) fn room(&self) -> u32 {
        let room = self.window.min(MOST_IN_FLIGHT);
        room.saturating_sub(self.in_flight())
    }

    /// Whether to wait for more room rather than send little (RFC 9293 §3.8.6.2.1).
    fn room_is_silly(&self) -> bool {
        let enough = u32::from(self.mss).min((self.largest_window / 2).max(1));
        self.room() < enough && self.in_flight() > 0
    }

    /// Whether the guest may have data, and there may be some.
    pub(super) fn can_send(&self) -> bool {
        self.phase == Phase::Open
            && self.readable
            && !self.ended
            && self.room() > 0
            && !self.room_is_silly()
            && (self.stream.remembers() || self.in_flight() <= LOOKED_PAST)
    }

    /// Whether the end is to be sent now.
    pub(super) fn owes_end(&self) -> bool {
        self.phase == Phase::Open && self.ended && !self.end_is_sent() && !self.end_acked
    }

    /// Whether there is data that the guest has no room for, and nothing that it will answer.
    pub(super) fn is_shut_out(&self) -> bool {
        self.phase == Phase::Open
            && self.readable
            && !self.ended
            && self.in_flight() == 0
            && self.room() == 0
    }

    pub(in crate::usernet) fn has_something(&self) -> bool {
        self.owed != Owed::default() || self.can_send() || self.owes_end()
    }

    pub(in crate::usernet) fn is_over(&self) -> bool {
        let told = !self.owed.reset && !self.owed.ack;
        match self.phase {
            Phase::Gone => told,
            Phase::Open => told && self.guest_ended && self.end_acked,
            _ => false,
        }
    }

    pub(in crate::usernet) fn socket(&self) -> &OwnedFd {
        self.stream.socket()
    }

    /// Whether the kernel is to be asked to tell of room, which it is once.
    pub(in crate::usernet) fn asks_for_room(&mut self) -> bool {
        std::mem::take(&mut self.asks_for_room)
    }

    /// Whether one side has not agreed yet.
    pub(in crate::usernet) fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Asking)
    }

    pub(in crate::usernet) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Gone => None,
            Phase::Connecting => Some(self.heard + CONNECTING),
            _ => Some(self.alarm.unwrap_or(self.heard + SILENCE)),
        }
    }

    /// Something that was sent is to be answered from now on.
    pub(super) fn set_alarm(&mut self, now: Instant) {
        let patience = PATIENCE.0 * 2u32.saturating_pow(self.tries.min(10));
        self.alarm = Some(now + patience.min(PATIENCE.1));
    }

    /// From the first that is not acknowledged on all is sent again.
    pub(super) fn rewind(&mut self) {
        self.next = self.acked;
        self.repeated = 0;
        self.readable = true;
        self.ended = false;
        self.stream.look_from(0);
    }

    /// The guest broke it.
    pub(super) fn broken_by_guest(&mut self) {
        self.stream.break_off();
        self.phase = Phase::Gone;
        self.owed = Owed::default();
    }

    /// The host broke it, or nobody can go on.
    pub(super) fn broken_by_host(&mut self) {
        self.stream.break_off();
        self.phase = Phase::Gone;
        self.owed = Owed {
            reset: true,
            ..Owed::default()
        };
    }
}

/// Whether `a` comes after `b` in the sequence space.
pub(super) fn is_after(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead <= u32::MAX / 2
}
