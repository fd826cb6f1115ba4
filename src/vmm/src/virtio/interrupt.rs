use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use crate::irq::Line;

/// How a transport's interrupts get to the driver. Whoever calls waits for nothing.
pub trait Signal: Send + Sync {
    /// Buffers of queue `index` were used.
    fn used_buffers(&self, index: u16);
    /// The configuration has changed, or the device needs a reset.
    fn configuration(&self);
}

/// One line for everything: the driver reads the reason from a register.
impl Signal for Line {
    fn used_buffers(&self, _: u16) {
        self.trigger();
    }

    fn configuration(&self) {
        self.trigger();
    }
}

/// By which a device tells its driver something: used buffers, a new configuration, that it is broken.
///
/// Clones are the same interrupt: the transport has one, and each worker of the device.
#[derive(Clone)]
pub struct Interrupt {
    shared: Arc<Shared<dyn Signal>>,
}

struct Shared<S: ?Sized> {
    reasons: AtomicU32,
    broken: AtomicBool,
    signal: S,
}

impl Interrupt {
    /// The driver gave buffers back to us (§4.2.2, InterruptStatus; §4.1.4.5).
    pub const USED_BUFFER: u32 = 1;
    /// The configuration has changed, or the device needs a reset.
    pub const CONFIGURATION: u32 = 2;

    /// An interrupt that reaches its driver by `signal`.
    pub fn new(signal: impl Signal + 'static) -> Self {
        let shared = Shared {
            reasons: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            signal,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Buffers of queue `index` were used.
    pub fn used_buffers(&self, index: u16) {
        self.give_reason(Self::USED_BUFFER);
        self.shared.signal.used_buffers(index);
    }

    /// The configuration is another.
    pub fn configuration_changed(&self) {
        self.give_reason(Self::CONFIGURATION);
        self.shared.signal.configuration();
    }

    /// The driver broke the rules: the device stops, and says that it needs a reset (§2.1.2).
    pub fn needs_reset(&self) {
        self.shared.broken.store(true, Ordering::Release);
        self.configuration_changed();
    }

    /// Reasons are there before the edge is.
    fn give_reason(&self, reason: u32) {
        self.shared.reasons.fetch_or(reason, Ordering::AcqRel);
    }

    /// Why there was an interrupt.
    pub(super) fn reasons(&self) -> u32 {
        self.shared.reasons.load(Ordering::Acquire)
    }

    /// The driver has heard `reasons`. Comes back with those that there were.
    pub(super) fn acknowledge(&self, reasons: u32) -> u32 {
        self.shared.reasons.fetch_and(!reasons, Ordering::AcqRel)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Acquire)
    }

    /// As it was before the driver came.
    pub(super) fn reset(&self) {
        self.restore(0, false);
    }

    /// As it was once. Nothing is signalled.
    pub(super) fn restore(&self, reasons: u32, broken: bool) {
        self.shared.reasons.store(reasons, Ordering::Release);
        self.shared.broken.store(broken, Ordering::Release);
    }
}
