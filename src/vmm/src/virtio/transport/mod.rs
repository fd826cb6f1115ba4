//! How a driver finds and starts a device (virtio 1.3 §2.1, §3.1): one state machine, under the registers of each transport.
pub mod mmio;
pub mod pci;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

pub use state::{DeviceState, Misfit};

use super::{
    Device, Interrupt, feature,
    queue::{Queue, Setup},
};
use crate::kvm::{Ring, Vm};

/// A device, which outlives the machine's resets and each of its transports.
pub type SharedDevice = Arc<Mutex<dyn Device>>;

/// Device status bits (§2.1).
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// It knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// The features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device cannot go on.
    pub const NEEDS_RESET: u32 = 64;
    /// The guest has given up.
    pub const FAILED: u32 = 128;
}

/// Lets a guest's write wake a thread without an exit to user space.
pub trait Doorbells: Send + Sync {
    /// From now on, `ring` rings `bell`, and is no exit. Where that cannot be had, it stays one.
    fn connect(&self, ring: Ring, bell: &EventFd) -> bool;
    /// Undoes it.
    fn disconnect(&self, ring: Ring, bell: &EventFd);
}

impl Doorbells for Vm {
    fn connect(&self, ring: Ring, bell: &EventFd) -> bool {
        self.connect_bell(ring, bell).is_ok()
    }

    fn disconnect(&self, ring: Ring, bell: &EventFd) {
        // What is not connected need not be.
        let _ = self.disconnect_bell(ring, bell);
    }
}

/// A device as its driver has brought it along so far.
pub(super) struct Negotiation {
    device: SharedDevice,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    offered: u64,
    accepted: u64,
    /// Whether the driver took a feature that no device can have.
    astray: bool,
    status: u32,
    /// Whether the device has its queues.
    active: bool,
    queues: Vec<Setup>,
}

/// What a change of the status brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing that matters to the transport.
    None,
    /// The device has its queues.
    Activated,
    /// The device has none any more.
    Reset,
}

impl Negotiation {
    pub(super) fn new(device: SharedDevice, memory: GuestMemoryMmap, interrupt: Interrupt) -> Self {
        let (offered, queues) = {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            let queues = device.queue_sizes().iter().copied().map(Setup::new);
            (device.features() | feature::COMMON, queues.collect())
        };
        Self {
            device,
            memory,
            interrupt,
            offered,
            accepted: 0,
            astray: false,
            status: 0,
            active: false,
            queues,
        }
    }

    pub(super) fn with_device<T>(&self, ask: impl FnOnce(&mut dyn Device) -> T) -> T {
        ask(&mut *self.device.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Half of the offered features; further halves are empty.
    pub(super) fn offered(&self, half: u32) -> u32 {
        match half {
            0 => low(self.offered),
            1 => low(self.offered >> 32),
            _ => 0,
        }
    }

    /// Half of the features that the driver took.
    pub(super) fn accepted(&self, half: u32) -> u32 {
        match half {
            0 => low(self.accepted),
            1 => low(self.accepted >> 32),
            _ => 0,
        }
    }

    /// The driver takes features, as long as it may.
    pub(super) fn accept(&mut self, half: u32, bits: u32) {
        if self.status & (status::DRIVER | status::FEATURES_OK) != status::DRIVER {
            return;
        }
        let bits = u64::from(bits);
        match half {
            0 => self.accepted = (self.accepted & !0xffff_ffff) | bits,
            1 => self.accepted = (self.accepted & 0xffff_ffff) | (bits << 32),
            _ => self.astray |= bits != 0,
        }
    }

    /// Whether the device has its queues.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    pub(super) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Fills `data` from `offset` of the configuration space on; beyond its end is zero.
    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.with_device(|device| device.config().read(offset, data));
    }

    /// Writes `data` at `offset` of the configuration space, where the driver knows that there is a device (§2.1.1).
    pub(super) fn write_config(&self, offset: u64, data: &[u8]) {
        if self.status & status::DRIVER != 0 {
            self.with_device(|device| device.write_config(offset, data));
        }
    }

    /// By which a driver sees that two reads of the configuration space were of the same contents.
    pub(super) fn generation(&self) -> u32 {
        self.with_device(|device| device.config().generation())
    }

    /// A ring that was an exit: nobody has connected the bell, or the driver rings for a queue that is not there.
    pub(super) fn ring(&self, index: usize) {
        self.with_device(|device| {
            if let Some(bell) = device.doorbell(index) {
                // It fails only when the count is full, and then its thread is awake.
                let _ = bell.write(1);
            }
        });
    }

    pub(super) fn queue(&self, index: u32) -> Option<&Setup> {
        self.queues.get(usize::try_from(index).ok()?)
    }

    /// Changes a queue, unless it is the device's already: from DRIVER_OK on, nothing moves (§3.1.1).
    pub(super) fn set_up(&mut self, index: u32, change: impl FnOnce(&mut Setup)) {
        let may = status::FEATURES_OK | status::DRIVER_OK | status::FAILED;
        if self.status & may == status::FEATURES_OK
            && let Ok(index) = usize::try_from(index)
            && let Some(queue) = self.queues.get_mut(index)
        {
            change(queue);
        }
    }

    /// The driver uses a queue no more (§4.2.2.2). Where the device has it already, it gives it back, and has none in its place until
    /// the next reset.
    pub(super) fn stop_queue(&mut self, index: u32) {
        if self.status & status::DRIVER_OK == 0 {
            self.set_up(index, |queue| queue.ready = false);
        } else if let Ok(index) = usize::try_from(index)
            && let Some(queue) = self.queues.get_mut(index)
            && queue.ready
        {
            queue.ready = false;
            self.with_device(|device| device.stop_queue(index));
        }
    }

    pub(super) fn status(&self) -> u32 {
        if self.interrupt.is_broken() {
            self.status | status::NEEDS_RESET
        } else {
            self.status
        }
    }

    /// The driver writes the status: it adds bits in their order, or starts over with 0.
    pub(super) fn set_status(&mut self, value: u32) -> Step {
        if value == 0 {
            return self.reset();
        }
        let new = value & !self.status;
        let mut step = Step::None;
        self.status |= new & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if new & status::FEATURES_OK != 0 && self.agrees() {
            self.status |= status::FEATURES_OK;
        }
        if new & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK != 0 {
            self.status |= status::DRIVER_OK;
            step = self.activate();
        }
        step
    }

    /// Nothing that was not offered, and the one feature that nobody does without (§6.1).
    fn agrees(&self) -> bool {
        self.status & status::DRIVER != 0
            && !self.astray
            && self.accepted & !self.offered == 0
            && self.accepted & feature::VERSION_1 != 0
    }

    fn activate(&mut self) -> Step {
        let event_idx = self.accepted & feature::EVENT_IDX != 0;
        let frozen = self
            .queues
            .iter()
            .map(|queue| {
                let freeze = || queue.freeze(&self.memory, event_idx);
                queue.ready.then(freeze).transpose()
            })
            .collect::<Result<Vec<_>, _>>();
        match frozen {
            Ok(queues) => self.start(queues),
            Err(_) => {
                self.interrupt.needs_reset();
                Step::None
            }
        }
    }

    fn start(&mut self, queues: Vec<Option<Queue>>) -> Step {
        self.active = true;
        let features = self.accepted;
        self.with_device(|device| device.activate(features, queues, &self.interrupt));
        Step::Activated
    }

    fn reset(&mut self) -> Step {
        self.with_device(|device| device.reset());
        self.interrupt.reset();
        self.active = false;
        self.status = 0;
        self.accepted = 0;
        self.astray = false;
        for queue in &mut self.queues {
            *queue = Setup::new(queue.max_size);
        }
        Step::Reset
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = (*address & !0xffff_ffff) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = (*address & 0xffff_ffff) | (u64::from(value) << 32);
}

fn low(bits: u64) -> u32 {
    let [a, b, c, d, ..] = bits.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
