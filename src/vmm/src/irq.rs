//! Interrupts: messages to local APICs, and the lines that devices pull when they want the guest's attention.
use std::sync::Arc;

use crate::kvm::Vm;

/// Sends message-signalled interrupts to local APICs.
pub trait MessageSender: Send + Sync {
    /// Delivers the message `data` written to `address`, as a PCI device would (Intel SDM 3A §11.11).
    fn send(&self, address: u32, data: u32);
}

impl MessageSender for Vm {
    fn send(&self, address: u32, data: u32) {
        // A vector or destination that no local APIC accepts is the guest's own mistake: hardware loses it too.
        let _ = self.signal_msi(address, data);
    }
}

/// Takes edges on numbered lines (global system interrupts).
pub trait Controller: Send + Sync {
    /// One edge on line `gsi`; unknown lines are ignored.
    fn trigger(&self, gsi: u8);
}

/// One edge-triggered line.
#[derive(Clone)]
pub struct Line {
    controller: Arc<dyn Controller>,
    gsi: u8,
}

impl Line {
    /// The line `gsi` of `controller`.
    pub fn new(controller: Arc<dyn Controller>, gsi: u8) -> Self {
        Self { controller, gsi }
    }

    /// One edge.
    pub fn trigger(&self) {
        self.controller.trigger(self.gsi);
    }
}
