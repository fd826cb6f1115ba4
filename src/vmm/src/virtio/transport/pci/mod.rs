//! Virtio over PCI (virtio 1.3 §4.1): modern devices only, with MSI-X and without pins.
mod common;
mod function;
mod state;
#[cfg(test)]
mod tests;
mod vectors;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestMemoryMmap;

pub use state::PciState;
pub use vectors::NO_VECTOR;

use self::{
    common::Selected,
    function::{MAX_QUEUES, MEMORY_BAR, NOTIFY_STRIDE, PORTS_BAR, Places, access, area},
    vectors::Vectors,
};
use super::{Doorbells, Negotiation, SharedDevice, Step};
use crate::{
    irq::MessageSender,
    kvm::{Place, Ring},
    pci::{Function, Host, Placement, Space, msix::Msix},
    virtio::Interrupt,
};

/// One device on the bus.
pub struct Pci {
    doorbells: Arc<dyn Doorbells>,
    interrupt: Interrupt,
    vectors: Arc<Vectors>,
    msix: Arc<Msix>,
    state: Mutex<State>,
}

struct State {
    places: Places,
    negotiation: Negotiation,
    selected: Selected,
    /// The queues' bells, and how the driver rings them without an exit: as far as that was tried, and whether it can be had.
    tried: Vec<(usize, Ring, bool)>,
}

impl Pci {
    /// Puts `device` on a bus, where its driver finds it as after a reset; it is the `index`th of `count` there.
    ///
    /// # Panics
    /// When it has more than 64 queues: a defect of this program.
    pub fn new(
        (index, count): (usize, usize),
        device: SharedDevice,
        memory: GuestMemoryMmap,
        sender: Arc<dyn MessageSender>,
        doorbells: Arc<dyn Doorbells>,
    ) -> Self {
        let (kind, queues) = {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            (device.kind(), device.queue_sizes().len())
        };
        assert!(queues <= MAX_QUEUES);
        let vectors = u16::try_from(queues + 1).expect("at most 65");
        let msix = Arc::new(Msix::new(vectors, sender));
        let vectors = Arc::new(Vectors::new(queues, msix.clone()));
        let interrupt = Interrupt::new(vectors.clone());
        let shares_slot = Host::is_shared(index, count);
        Self {
            doorbells,
            vectors,
            msix,
            state: Mutex::new(State {
                places: function::places(kind, index, queues, shares_slot),
                negotiation: Negotiation::new(device, memory, interrupt.clone()),
                selected: Selected::default(),
                tried: Vec::new(),
            }),
            interrupt,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        let mut state = self.lock();
        let state = &mut *state;
        let step = common::write(
            &mut state.selected,
            &mut state.negotiation,
            &self.vectors,
            offset,
            data,
        );
        self.follow(state, step);
    }

    /// Connects the bells or disconnects them, as the device has now got queues or lost them.
    fn follow(&self, state: &mut State, step: Step) {
        match step {
            Step::None => {}
            Step::Activated => self.connect_ports(state),
            Step::Reset => {
                self.disconnect(state);
                self.vectors.reset();
            }
        }
    }

    /// Lets every queue be rung by its port without an exit: it is the way that drivers take. The other way is connected when it is
    /// taken first, as each connection makes a vCPU wait for a grace period.
    fn connect_ports(&self, state: &mut State) {
        for queue in 0..state.negotiation.queues() {
            self.connect(state, Space::Ports, queue);
        }
    }

    /// Connects the bell of `queue` in `space`, unless that was tried, or the bus does not pass on what is written there.
    fn connect(&self, state: &mut State, space: Space, queue: usize) {
        let Some(place) = state.doorbell(space, queue) else {
            return;
        };
        let ring = Ring { place, value: None };
        if state.tried.iter().any(|(_, tried, _)| *tried == ring) {
            return;
        }
        let connected = state.negotiation.with_device(|device| {
            let bell = device.doorbell(queue);
            bell.is_some_and(|bell| self.doorbells.connect(ring, bell))
        });
        state.tried.push((queue, ring, connected));
    }

    fn disconnect(&self, state: &mut State) {
        let tried = std::mem::take(&mut state.tried);
        state.negotiation.with_device(|device| {
            for (queue, ring, connected) in tried {
                if let (true, Some(bell)) = (connected, device.doorbell(queue)) {
                    self.doorbells.disconnect(ring, bell);
                }
            }
        });
    }

    /// A ring that was an exit, at `offset` of the doorbells in `space`.
    fn ring(&self, space: Space, offset: u64) {
        let stride = u64::from(NOTIFY_STRIDE);
        let Ok(queue) = usize::try_from(offset / stride) else {
            return;
        };
        let mut state = self.lock();
        if offset.is_multiple_of(stride) && queue < state.negotiation.queues() {
            if state.negotiation.is_active() {
                self.connect(&mut state, space, queue);
            }
            state.negotiation.ring(queue);
        }
    }

    /// Which registers the capability for access through the configuration space is set to; none if there are no such.
    fn accessed(state: &State) -> Option<(u8, u64, usize)> {
        let (space, at) = (&state.places.space, state.places.access);
        let [bar, ..] = space.word(at + access::BAR).to_le_bytes();
        let offset = u64::from(space.word(at + access::OFFSET));
        let length = space.word(at + access::LENGTH);
        let valid = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length.into());
        valid.then_some((bar, offset, usize::try_from(length).ok()?))
    }
}

impl State {
    /// MSI-X's message control register.
    fn control(&self) -> u16 {
        let [low, high, ..] = self.places.space.word(self.places.control).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Where the driver rings for `queue`.
    fn doorbell(&self, space: Space, queue: usize) -> Option<Place> {
        let placements = self.places.space.placements();
        let start = placements
            .iter()
            .find(|placement| placement.space == space)?
            .range
            .start;
        let offset = u64::from(NOTIFY_STRIDE) * u64::try_from(queue).ok()?;
        match space {
            Space::Ports => Some(Place::Port(u16::try_from(start + offset).ok()?)),
            Space::Memory => Some(Place::Memory(start + area::NOTIFY + offset)),
        }
    }
}

impl Function for Pci {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let state = self.lock();
        state.places.space.read(offset, data);
        if offset == state.places.access + access::DATA
            && let Some((bar, register, length)) = Self::accessed(&state)
        {
            drop(state);
            let mut bytes = [0xff; 4];
            self.read(bar, register, &mut bytes[..length]);
            for (to, from) in data.iter_mut().zip(&bytes[..length]) {
                *to = *from;
            }
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) -> bool {
        let mut state = self.lock();
        let before = state.places.space.placements();
        state.places.space.write(offset, data);
        let moved = state.places.space.placements() != before;
        if moved && state.negotiation.is_active() {
            self.disconnect(&mut state);
            self.connect_ports(&mut state);
        }
        let control = state.places.control;
        let written = offset..offset + data.len();
        if written.start < control + 2 && control < written.end {
            self.msix.set_control(state.control());
        }
        if offset == state.places.access + access::DATA
            && let Some((bar, register, length)) = Self::accessed(&state)
            && let Some(data) = data.get(..length)
        {
            drop(state);
            self.write(bar, register, data);
        }
        moved
    }

    fn placements(&self) -> Vec<Placement> {
        self.lock().places.space.placements()
    }

    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if bar != MEMORY_BAR {
            return;
        }
        let within = |start: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
        match offset {
            area::COMMON..area::ISR => {
                let state = self.lock();
                let image = common::image(state.selected, &state.negotiation, &self.vectors);
                let rest = image.get(within(area::COMMON)..).unwrap_or_default();
                for (to, from) in data.iter_mut().zip(rest) {
                    *to = *from;
                }
            }
            // Reading takes the reasons (§4.1.4.5).
            area::ISR => {
                let reasons = self.interrupt.acknowledge(u32::MAX).to_le_bytes();
                for (to, from) in data.iter_mut().zip(reasons) {
                    *to = from;
                }
            }
            area::DEVICE..area::NOTIFY => {
                let room = usize::try_from(area::NOTIFY - offset).unwrap_or(0);
                let length = data.len().min(room);
                self.lock()
                    .negotiation
                    .read_config(offset - area::DEVICE, &mut data[..length]);
            }
            area::TABLE..area::PENDING => self.msix.read_table(within(area::TABLE), data),
            area::PENDING..area::END => self.msix.read_pending(within(area::PENDING), data),
            _ => {}
        }
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        match (bar, offset) {
            (PORTS_BAR, _) => self.ring(Space::Ports, offset),
            (MEMORY_BAR, area::COMMON..area::ISR) => self.write_common(offset, data),
            (MEMORY_BAR, area::DEVICE..area::NOTIFY) => {
                let offset = offset - area::DEVICE;
                self.lock().negotiation.write_config(offset, data);
            }
            (MEMORY_BAR, area::NOTIFY..area::TABLE) => {
                self.ring(Space::Memory, offset - area::NOTIFY);
            }
            (MEMORY_BAR, area::TABLE..area::PENDING) => {
                let within = usize::try_from(offset - area::TABLE).unwrap_or(usize::MAX);
                self.msix.write_table(within, data);
            }
            _ => {}
        }
    }
}
