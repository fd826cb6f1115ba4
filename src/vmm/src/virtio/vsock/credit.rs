//! How much each side may send before the other has taken some of it (virtio 1.3 §5.10.6.3).

/// One connection's counts. All are of bytes, modulo 2³².
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    /// The room that the guest was told of here.
    alloc: u32,
    /// What was taken from the guest and has gone on to the host.
    forwarded: u32,
    /// As much of that as the guest was told.
    told: u32,
    /// The room that the guest has.
    guest_alloc: u32,
    /// What it took out of there.
    guest_forwarded: u32,
    /// What was sent to it.
    sent: u32,
}

impl Credit {
    /// A connection with room for `alloc` bytes here, whose guest has said nothing yet.
    pub(super) fn new(alloc: u32) -> Self {
        Self {
            alloc,
            forwarded: 0,
            told: 0,
            guest_alloc: 0,
            guest_forwarded: 0,
            sent: 0,
        }
    }

    /// The room here.
    pub(super) fn alloc(&self) -> u32 {
        self.alloc
    }

    /// The guest says how much room it has, and what it took out of there.
    pub(super) fn hear(&mut self, alloc: u32, forwarded: u32) {
        self.guest_alloc = alloc;
        self.guest_forwarded = forwarded;
    }

    /// What the guest has room for.
    pub(super) fn free(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_alloc.saturating_sub(under_way)
    }

    /// So much was sent to the guest.
    pub(super) fn send(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// So much went on to the host; whether it is time to tell the guest, which may have half of its room left at least.
    pub(super) fn forward(&mut self, bytes: u32) -> bool {
        self.forwarded = self.forwarded.wrapping_add(bytes);
        self.forwarded.wrapping_sub(self.told) >= self.alloc / 2
    }

    /// What a packet for the guest says: the room here, and what has left it.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.alloc, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_go_around() {
        let mut credit = Credit::new(100);
        credit.sent = u32::MAX - 5;
        credit.hear(64, u32::MAX - 5);
        assert_eq!(credit.free(), 64);
        credit.send(60);
        assert_eq!(credit.free(), 4);
        credit.hear(64, 44);
        assert_eq!(credit.free(), 54);
    }

    #[test]
    fn whoever_takes_more_than_was_sent_or_less_room_than_it_had_gets_nothing() {
        let mut credit = Credit::new(100);
        credit.hear(64, 1);
        assert_eq!(credit.free(), 0);
        credit.hear(64, 0);
        credit.send(64);
        credit.hear(10, 0);
        assert_eq!(credit.free(), 0);
    }

    proptest! {
        /// A guest that keeps to what it is told never waits for ever, and never has more under way than there is room.
        #[test]
        fn a_guest_that_uses_its_credit_goes_on(alloc in 2u32.., sizes in proptest::collection::vec(1u32.., 1..100)) {
            let mut credit = Credit::new(alloc);
            let (mut sent, mut known) = (0u32, credit.tell().1);
            for size in sizes {
                let free = alloc - sent.wrapping_sub(known);
                prop_assert!(free > 0);
                let now = size.min(free);
                sent = sent.wrapping_add(now);
                if credit.forward(now) {
                    known = credit.tell().1;
                }
            }
        }
    }
}
