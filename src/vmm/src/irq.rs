//! Interrupt lines: what a device pulls when it wants the guest's attention.
use std::sync::Arc;

use crate::legacy::ioapic::Ioapic;

/// One edge-triggered line, a pin of the I/O APIC.
#[derive(Clone)]
pub struct Line {
    ioapic: Arc<Ioapic>,
    gsi: u8,
}

impl Line {
    /// The line to pin `gsi`.
    pub fn new(ioapic: Arc<Ioapic>, gsi: u8) -> Self {
        Self { ioapic, gsi }
    }

    /// One edge.
    pub fn trigger(&self) {
        self.ioapic.trigger(self.gsi);
    }
}
