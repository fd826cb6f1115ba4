//! What the ACPI generic event device is interrupted for (ACPI 6.5 §5.6.9): the power button, and PCI slots that have been filled.
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::{
    arch::x86_64::layout::event,
    bus::{Outcome, Registers},
    irq::Line,
};

/// The registers by which the guest learns what happened. Reading takes it away.
pub struct Events {
    line: Line,
    causes: AtomicU8,
    filled: AtomicU32,
}

impl Events {
    /// Nothing has happened yet; what does will be told over `line`.
    pub fn new(line: Line) -> Self {
        Self {
            line,
            causes: AtomicU8::new(0),
            filled: AtomicU32::new(0),
        }
    }

    /// Somebody wants the guest to power off.
    pub fn press_power_button(&self) {
        self.raise(event::POWER_BUTTON);
    }

    /// Slot `slot` of the PCI bus, 0 to 31, has a device now.
    pub fn fill_slot(&self, slot: usize) {
        // Before its cause: who sees the cause finds it.
        self.filled.fetch_or(1 << (slot % 32), Ordering::AcqRel);
        self.raise(event::SLOTS);
    }

    fn raise(&self, cause: u8) {
        self.causes.fetch_or(cause, Ordering::AcqRel);
        self.line.trigger();
    }
}

impl Registers for Events {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (u16::try_from(offset), data) {
            (Ok(event::CAUSES), [causes]) => *causes = self.causes.swap(0, Ordering::AcqRel),
            (Ok(event::FILLED), data) if data.len() == 4 => {
                data.copy_from_slice(&self.filled.swap(0, Ordering::AcqRel).to_le_bytes());
            }
            (_, data) => data.fill(0),
        }
    }

    fn write(&self, _: u64, _: &[u8]) -> Outcome {
        Outcome::Nothing
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::irq::Controller;

    #[derive(Default)]
    struct Edges(AtomicU32);

    impl Controller for Edges {
        fn trigger(&self, gsi: u8) {
            assert_eq!(gsi, 5);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read<const N: usize>(events: &Events, offset: u16) -> [u8; N] {
        let mut bytes = [0xff; N];
        events.read(offset.into(), &mut bytes);
        bytes
    }

    #[test]
    fn each_event_is_an_interrupt_and_is_told_once() {
        let edges = Arc::new(Edges::default());
        let events = Events::new(Line::new(edges.clone(), 5));
        events.press_power_button();
        events.fill_slot(3);
        events.fill_slot(31);
        assert_eq!(edges.0.load(Ordering::Relaxed), 3);
        assert_eq!(read(&events, event::CAUSES), [3]);
        assert_eq!(read(&events, event::CAUSES), [0]);
        assert_eq!(read(&events, event::FILLED), [8, 0, 0, 0x80]);
        assert_eq!(read(&events, event::FILLED), [0; 4]);
    }

    #[test]
    fn odd_accesses_read_as_zero_and_take_nothing() {
        let events = Events::new(Line::new(Arc::new(Edges::default()), 5));
        events.press_power_button();
        assert_eq!(read(&events, event::CAUSES), [0; 4]);
        assert_eq!(read(&events, event::FILLED), [0; 2]);
        assert_eq!(read(&events, event::CAUSES + 1), [0]);
        assert_eq!(events.write(0, &[0xff]), Outcome::Nothing);
        assert_eq!(read(&events, event::CAUSES), [1]);
    }
}
