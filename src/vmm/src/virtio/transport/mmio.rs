//! Virtio over MMIO (virtio 1.3 §4.2), version 2: registers at a place that the ACPI tables tell of (`LNRO0005`).
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{DeviceState, Doorbells, Misfit, Negotiation, SharedDevice, Step, set_high, set_low};
use crate::{
    arch::x86_64::layout,
    bus::{Outcome, Registers},
    irq::Line,
    kvm::{Place, Ring},
    virtio::{Interrupt, queue::Setup},
    worker::NotPaused,
};

/// Offsets (§4.2.2).
mod register {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE: u64 = 0x008;
    pub(super) const VENDOR: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(super) const QUEUE_SELECT: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const DESCRIPTORS_LOW: u64 = 0x080;
    pub(super) const DESCRIPTORS_HIGH: u64 = 0x084;
    pub(super) const AVAILABLE_LOW: u64 = 0x090;
    pub(super) const AVAILABLE_HIGH: u64 = 0x094;
    pub(super) const USED_LOW: u64 = 0x0a0;
    pub(super) const USED_HIGH: u64 = 0x0a4;
    pub(super) const SHARED_MEMORY: std::ops::Range<u64> = 0x0b0..0x0c0;
    pub(super) const GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "AMPL".
const VENDOR: u32 = 0x4c50_4d41;

/// The registers of one device.
pub struct Mmio {
    address: u64,
    doorbells: Arc<dyn Doorbells>,
    interrupt: Interrupt,
    state: Mutex<State>,
}

/// The state of a device over MMIO, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioState {
    device: DeviceState,
    device_half: u32,
    driver_half: u32,
    queue: u32,
}

struct State {
    negotiation: Negotiation,
    device_half: u32,
    driver_half: u32,
    queue: u32,
    /// Whether writes to QueueNotify ring without an exit.
    connected: Vec<bool>,
}

impl Mmio {
    /// Puts `device` at `address`, where its driver finds it as after a reset.
    pub fn new(
        address: u64,
        device: SharedDevice,
        memory: GuestMemoryMmap,
        line: Line,
        doorbells: Arc<dyn Doorbells>,
    ) -> Self {
        let interrupt = Interrupt::new(line);
        let negotiation = Negotiation::new(device, memory, interrupt.clone());
        Self {
            address,
            doorbells,
            interrupt,
            state: Mutex::new(State {
                negotiation,
                device_half: 0,
                driver_half: 0,
                queue: 0,
                connected: Vec::new(),
            }),
        }
    }

    /// Where its registers are.
    pub fn range(&self) -> Range<u64> {
        self.address..self.address + u64::from(layout::VIRTIO_MMIO_WINDOW)
    }

    /// The registers, and the device under them, which is paused, while no vCPU runs.
    ///
    /// # Errors
    /// When the device is not paused.
    pub fn save(&self) -> Result<MmioState, NotPaused> {
        let state = self.lock();
        Ok(MmioState {
            device: state.negotiation.save()?,
            device_half: state.device_half,
            driver_half: state.driver_half,
            queue: state.queue,
        })
    }

    /// Becomes what was saved of another of the same kind, on the same memory, and goes on there: at once, or when the device is
    /// resumed. The driver is interrupted, so the interrupt controllers are restored before; no vCPU runs.
    ///
    /// # Errors
    /// When it does not fit: then everything is as before.
    pub fn restore(&self, saved: &MmioState) -> Result<(), Misfit> {
        let mut state = self.lock();
        let state = &mut *state;
        let frozen = state.negotiation.check(&saved.device)?;
        let step = state.negotiation.reset();
        self.follow(state, step);
        state.device_half = saved.device_half;
        state.driver_half = saved.driver_half;
        state.queue = saved.queue;
        let step = state.negotiation.apply(&saved.device, frozen);
        self.follow(state, step);
        state.negotiation.nudge();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        if offset == register::INTERRUPT_STATUS {
            return self.interrupt.reasons();
        }
        let state = self.lock();
        let queue = state.negotiation.queue(state.queue);
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE => state.negotiation.with_device(|device| device.kind()),
            register::VENDOR => VENDOR,
            register::DEVICE_FEATURES => state.negotiation.offered(state.device_half),
            register::QUEUE_SIZE_MAX => queue.map_or(0, |queue| queue.max_size.into()),
            register::QUEUE_READY => queue.is_some_and(|queue| queue.ready).into(),
            register::STATUS => state.negotiation.status(),
            // There is none (§4.2.2): its length and base read as all ones.
            offset if register::SHARED_MEMORY.contains(&offset) => u32::MAX,
            register::GENERATION => state.negotiation.generation(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        if offset == register::INTERRUPT_ACK {
            let _ = self.interrupt.acknowledge(value);
            return;
        }
        let mut state = self.lock();
        let state = &mut *state;
        match offset {
            register::DEVICE_FEATURES_SELECT => state.device_half = value,
            register::DRIVER_FEATURES => state.negotiation.accept(state.driver_half, value),
            register::DRIVER_FEATURES_SELECT => state.driver_half = value,
            register::QUEUE_SELECT => state.queue = value,
            register::QUEUE_NOTIFY => {
                let queue = usize::try_from(value).unwrap_or(usize::MAX);
                state.negotiation.ring(queue);
            }
            register::QUEUE_READY if value & 1 == 0 => state.negotiation.stop_queue(state.queue),
            register::STATUS => {
                let step = state.negotiation.set_status(value);
                self.follow(state, step);
            }
            _ => state
                .negotiation
                .set_up(state.queue, |queue| set_up(queue, offset, value)),
        }
    }

    /// Connects the bells or disconnects them, as the device has now got queues or lost them.
    fn follow(&self, state: &mut State, step: Step) {
        match step {
            Step::None => {}
            Step::Activated => {
                let queues = state.negotiation.queues();
                state.connected = self.each_bell(state, 0..queues, |ring, bell| {
                    self.doorbells.connect(ring, bell)
                });
            }
            Step::Reset => {
                let connected = std::mem::take(&mut state.connected);
                let connected = (0..).zip(connected).filter_map(|(at, is)| is.then_some(at));
                self.each_bell(state, connected, |ring, bell| {
                    self.doorbells.disconnect(ring, bell);
                    true
                });
            }
        }
    }

    /// Calls `each` with how the driver rings the bell of each of `queues`.
    fn each_bell(
        &self,
        state: &State,
        queues: impl Iterator<Item = usize>,
        each: impl Fn(Ring, &EventFd) -> bool,
    ) -> Vec<bool> {
        let place = Place::Memory(self.address + register::QUEUE_NOTIFY);
        state.negotiation.with_device(|device| {
            queues
                .map(
                    |index| match (u32::try_from(index), device.doorbell(index)) {
                        (Ok(value), Some(bell)) => {
                            let value = Some(value);
                            each(Ring { place, value }, bell)
                        }
                        _ => false,
                    },
                )
                .collect()
        })
    }
}

/// Writes one of the selected queue's registers. What a queue is made of stays as it is while it is ready.
fn set_up(queue: &mut Setup, offset: u64, value: u32) {
    if queue.ready {
        return;
    }
    match offset {
        register::QUEUE_READY => queue.ready = true,
        // Freezing refuses what is no size.
        register::QUEUE_SIZE => queue.size = u16::try_from(value).unwrap_or(0),
        register::DESCRIPTORS_LOW => set_low(&mut queue.descriptors, value),
        register::DESCRIPTORS_HIGH => set_high(&mut queue.descriptors, value),
        register::AVAILABLE_LOW => set_low(&mut queue.available, value),
        register::AVAILABLE_HIGH => set_high(&mut queue.available, value),
        register::USED_LOW => set_low(&mut queue.used, value),
        register::USED_HIGH => set_high(&mut queue.used, value),
        _ => {}
    }
}

impl Registers for Mmio {
    /// Registers are read as 32 bits (§4.2.2.2), the configuration space in any way.
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.lock().negotiation.read_config(offset, data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    /// Registers are written as 32 bits, and anything else is lost.
    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.lock().negotiation.write_config(offset, data);
        } else if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
        Outcome::Nothing
    }
}
