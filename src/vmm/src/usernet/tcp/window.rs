//! What the guest may send: as much as the host's socket has room for.
use super::state::{Connection, MOST_WINDOW, Phase, SCALE, is_after};

/// Less room is none: segments would become too small.
const LEAST_WINDOW: usize = 4096;
/// Windows of who does not scale, and of a SYN.
const UNSCALED: u32 = 65535;

impl Connection {
    /// What the guest may still send. It may have sent more than that.
    fn left(&self) -> u32 {
        match is_after(self.edge, self.expected) {
            true => self.edge.wrapping_sub(self.expected),
            false => 0,
        }
    }

    /// Asks the kernel for how much there is room, and moves the edge there. It never moves back.
    pub(super) fn look_for_room(&mut self) {
        let room = self.stream.room();
        let free = room.limit.saturating_sub(room.used);
        // What is queued costs the kernel a little more than its bytes.
        let window = (free - free / 8).min(MOST_WINDOW);
        let left = self.left();
        // A socket that takes little in all is given that.
        if window >= LEAST_WINDOW.min(room.limit / 4) {
            let window = u32::try_from(window).unwrap_or(u32::MAX);
            self.edge = self.expected.wrapping_add(window.max(left));
        }
        self.granted = self.left();
        // As `sk_stream_is_writeable` has it: the kernel tells when that is over, and has the socket's buffer grow on such an occasion.
        self.wants_room = free < room.used / 2;
        self.asks_for_room = self.wants_room;
    }

    /// Something was not taken: no more is, before an event tells.
    pub(super) fn shut_window(&mut self) {
        self.edge = self.expected;
        self.granted = 0;
        self.wants_room = true;
    }

    /// The window for a segment. It is looked at again when half of it is used.
    pub(super) fn window_now(&mut self) -> u16 {
        if self.left() <= self.granted / 2 && !self.refused_some && !self.guest_ended {
            self.look_for_room();
        }
        let left = self.left();
        let scaled = match self.scale {
            Some(_) if self.phase == Phase::Open => left >> SCALE,
            _ => left,
        };
        u16::try_from(scaled.min(UNSCALED)).unwrap_or(u16::MAX)
    }

    /// The host's socket takes more.
    pub(super) fn room_again(&mut self) {
        if !self.wants_room {
            return;
        }
        self.look_for_room();
        self.owed.ack = true;
        if std::mem::take(&mut self.refused_some) {
            self.owed.duplicates = 3;
        }
    }
}
