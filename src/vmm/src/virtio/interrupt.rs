use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use crate::irq::Line;

/// By which a device tells its driver something: used buffers, a new configuration, that it is broken.
///
/// Clones are the same interrupt: the transport has one, and each worker of the device.
#[derive(Clone)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

struct Shared {
    line: Line,
    reasons: AtomicU32,
    broken: AtomicBool,
}

impl Interrupt {
    /// The driver gave buffers back to us (§4.2.2, InterruptStatus).
    pub const USED_BUFFER: u32 = 1;
    /// The configuration has changed, or the device needs a reset.
    pub const CONFIGURATION: u32 = 2;

    /// An interrupt on `line`.
    pub fn new(line: Line) -> Self {
        let shared = Shared {
            line,
            reasons: AtomicU32::new(0),
            broken: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Buffers were used.
    pub fn used_buffers(&self) {
        self.raise(Self::USED_BUFFER);
    }

    /// The configuration is another.
    pub fn configuration_changed(&self) {
        self.raise(Self::CONFIGURATION);
    }

    /// The driver broke the rules: the device stops, and says that it needs a reset (§2.1.2).
    pub fn needs_reset(&self) {
        self.shared.broken.store(true, Ordering::Release);
        self.raise(Self::CONFIGURATION);
    }

    fn raise(&self, reason: u32) {
        // Reasons are there before the edge is.
        self.shared.reasons.fetch_or(reason, Ordering::AcqRel);
        self.shared.line.trigger();
    }

    /// Why there was an interrupt.
    pub(super) fn reasons(&self) -> u32 {
        self.shared.reasons.load(Ordering::Acquire)
    }

    /// The driver has heard `reasons`.
    pub(super) fn acknowledge(&self, reasons: u32) {
        self.shared.reasons.fetch_and(!reasons, Ordering::AcqRel);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Acquire)
    }

    /// As it was before the driver came.
    pub(super) fn reset(&self) {
        self.shared.reasons.store(0, Ordering::Release);
        self.shared.broken.store(false, Ordering::Release);
    }
}
