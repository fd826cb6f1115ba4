//! A driver that brings a device up by its transport's registers, and the machine around it: a bus, bells and interrupts.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::virtqueue::Edges;
use crate::{
    bus::Registers,
    irq::Line,
    kvm::Ring,
    pci::{ConfigPorts, Host, HostState, Space, Window},
    virtio::{
        queue::Setup,
        transport::{
            Doorbells, SharedDevice,
            mmio::{Mmio, MmioState},
            pci::{Pci, PciState},
        },
    },
};

/// The bells that are connected, in place of KVM.
#[derive(Default)]
pub struct Bells(Mutex<Vec<Ring>>);

impl Bells {
    /// Which writes ring one without an exit.
    pub fn connected(&self) -> Vec<Ring> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Ring>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doorbells for Bells {
    fn connect(&self, ring: Ring, _: &EventFd) -> bool {
        self.lock().push(ring);
        true
    }

    fn disconnect(&self, ring: Ring, _: &EventFd) {
        self.lock().retain(|bell| *bell != ring);
    }
}

/// By which transport a driver reaches its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Registers in memory, and a line.
    Mmio,
    /// A function on a bus, and MSI-X.
    Pci,
}

/// A device in a machine, as its driver sees it.
pub struct Attached {
    bus: Bus,
    bells: Arc<Bells>,
}

enum Bus {
    Mmio(Mmio),
    Pci { function: Arc<Pci>, host: Arc<Host> },
}

/// What both save.
#[derive(Serialize, Deserialize)]
enum Saved {
    Mmio(MmioState),
    Pci(PciState, HostState),
}

/// Where the MMIO device is.
const ADDRESS: u64 = 0xd000_0000;
/// Where the driver moves a function's registers, from the beginning of the bus's memory, and its doorbells.
const MOVED: u64 = 0x10_0000;
const PORTS: u32 = 0x4000;
/// The function's place on the bus, as port 0xcf8 wants it.
const SELECT: u32 = 1 << 31 | 1 << 11;

impl Attached {
    /// Puts `device` into a machine of its own.
    pub fn new(
        way: Way,
        device: SharedDevice,
        memory: &GuestMemoryMmap,
        edges: &Arc<Edges>,
    ) -> Self {
        let bells = Arc::new(Bells::default());
        let memory = memory.clone();
        let bus = match way {
            Way::Mmio => {
                let line = Line::new(edges.clone(), 0);
                Bus::Mmio(Mmio::new(ADDRESS, device, memory, line, bells.clone()))
            }
            Way::Pci => {
                let sender = edges.clone();
                let function = Arc::new(Pci::new((0, 1), device, memory, sender, bells.clone()));
                let host = Arc::new(Host::new(vec![function.clone()]));
                Bus::Pci { function, host }
            }
        };
        Self { bus, bells }
    }

    /// Its bells.
    pub fn bells(&self) -> &Bells {
        &self.bells
    }

    /// All that must outlive it, in JSON.
    ///
    /// # Panics
    /// When the device is not paused.
    pub fn save(&self) -> String {
        const PAUSED: &str = "the device is paused";
        let saved = match &self.bus {
            Bus::Mmio(registers) => Saved::Mmio(registers.save().expect(PAUSED)),
            Bus::Pci { function, host } => Saved::Pci(function.save().expect(PAUSED), host.save()),
        };
        serde_json::to_string(&saved).expect("states are JSON")
    }

    /// Takes what another has saved.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub fn restore(&self, saved: &str) -> Result<(), String> {
        let saved = serde_json::from_str(saved).map_err(|error| error.to_string())?;
        match (&self.bus, saved) {
            (Bus::Mmio(registers), Saved::Mmio(saved)) => {
                registers.restore(&saved).map_err(|error| error.to_string())
            }
            (Bus::Pci { function, host }, Saved::Pci(saved, bridge)) => {
                let restored = function.restore(&saved);
                restored.map_err(|error| error.to_string())?;
                host.restore(&bridge).map_err(|error| error.to_string())
            }
            _ => Err("another transport's".to_owned()),
        }
    }

    /// What a driver of a bus does before all else: it moves the function, and lets it answer and send messages, one for each of
    /// `queues`.
    pub fn prepare(&self, queues: u16) {
        let Bus::Pci { .. } = &self.bus else {
            return;
        };
        let start = u32::try_from(Space::Memory.window().start + MOVED).expect("below 4 GiB");
        self.set_config(0x10, PORTS);
        self.set_config(0x14, start);
        self.set_config(4, 7);
        for vector in 0..=queues {
            let entry = 0x3000 + 16 * u64::from(vector);
            self.put(entry, &0xfee0_0000u32.to_le_bytes());
            self.put(entry + 8, &u32::from(vector).to_le_bytes());
            self.put(entry + 12, &0u32.to_le_bytes());
        }
        let mut at = self.config(0x34) & 0xff;
        while at != 0 && self.config(at) & 0xff != 0x11 {
            at = self.config(at) >> 8 & 0xff;
        }
        self.set_config(at, 1 << 31);
    }

    /// The device status.
    pub fn status(&self) -> u32 {
        match &self.bus {
            Bus::Mmio(_) => self.word(0x70),
            Bus::Pci { .. } => self.word(0x14) & 0xff,
        }
    }

    /// Writes the device status.
    pub fn set_status(&self, value: u32) {
        match &self.bus {
            Bus::Mmio(_) => self.put(0x70, &value.to_le_bytes()),
            Bus::Pci { .. } => self.put(0x14, &value.to_le_bytes()[..1]),
        }
    }

    /// Adds `bits` to the device status, and reads it back.
    pub fn step(&self, bits: u32) -> u32 {
        self.set_status(self.status() | bits);
        self.status()
    }

    /// Half of the features that the device offers.
    pub fn offered(&self, half: u32) -> u32 {
        let (select, bits) = match &self.bus {
            Bus::Mmio(_) => (0x14, 0x10),
            Bus::Pci { .. } => (0x00, 0x04),
        };
        self.put(select, &half.to_le_bytes());
        self.word(bits)
    }

    /// Takes half of the features.
    pub fn accept(&self, half: u32, bits: u32) {
        let at = match &self.bus {
            Bus::Mmio(_) => [0x24, 0x20],
            Bus::Pci { .. } => [0x08, 0x0c],
        };
        self.put(at[0], &half.to_le_bytes());
        self.put(at[1], &bits.to_le_bytes());
    }

    /// Sets queue `index` up.
    pub fn set_up(&self, index: u16, setup: &Setup) {
        let places = [setup.descriptors, setup.available, setup.used];
        let halves = |at: u64, stride: u64| {
            for (number, place) in (0..).zip(places) {
                let bytes = place.to_le_bytes();
                self.put(at + stride * number, &bytes[..4]);
                self.put(at + stride * number + 4, &bytes[4..]);
            }
        };
        match &self.bus {
            Bus::Mmio(_) => {
                self.put(0x30, &u32::from(index).to_le_bytes());
                self.put(0x38, &u32::from(setup.size).to_le_bytes());
                halves(0x80, 0x10);
                self.put(0x44, &1u32.to_le_bytes());
            }
            Bus::Pci { .. } => {
                // The configuration's message is the first, the queues' are the others.
                self.put(0x10, &0u16.to_le_bytes());
                self.put(0x16, &index.to_le_bytes());
                self.put(0x18, &setup.size.to_le_bytes());
                self.put(0x1a, &(index + 1).to_le_bytes());
                halves(0x20, 8);
                self.put(0x1c, &1u16.to_le_bytes());
            }
        }
    }

    /// Stops queue `index`; whether the transport has a way to.
    pub fn stop(&self, index: u16) -> bool {
        let is_mmio = matches!(self.bus, Bus::Mmio(_));
        if is_mmio {
            self.put(0x30, &u32::from(index).to_le_bytes());
            self.put(0x44, &0u32.to_le_bytes());
        }
        is_mmio
    }

    /// Rings for queue `index`.
    pub fn ring(&self, index: u16) {
        match &self.bus {
            Bus::Mmio(_) => self.put(0x50, &u32::from(index).to_le_bytes()),
            Bus::Pci { host, .. } => {
                let ports = Window(host.clone(), Space::Ports);
                let start = u64::from(PORTS) - Space::Ports.window().start;
                let _ = ports.write(start + 4 * u64::from(index), &index.to_le_bytes());
            }
        }
    }

    /// Says that an interrupt was heard, where a driver has to.
    pub fn acknowledge(&self) {
        if let Bus::Mmio(_) = &self.bus {
            let reasons = self.word(0x60);
            self.put(0x64, &reasons.to_le_bytes());
        }
    }

    /// Writes `data` at `offset` of the registers, whatever is there.
    pub fn poke(&self, offset: u64, data: &[u8]) {
        self.put(offset, data);
    }

    /// Writes a register of the configuration space, where there is one.
    pub fn poke_config(&self, register: u32, value: u32) {
        self.set_config(register & 0xfc, value);
    }

    fn word(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        match &self.bus {
            Bus::Mmio(registers) => registers.read(offset, &mut data),
            Bus::Pci { host, .. } => {
                Window(host.clone(), Space::Memory).read(MOVED + offset, &mut data);
            }
        }
        u32::from_le_bytes(data)
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let _ = match &self.bus {
            Bus::Mmio(registers) => registers.write(offset, data),
            Bus::Pci { host, .. } => {
                Window(host.clone(), Space::Memory).write(MOVED + offset, data)
            }
        };
    }

    fn config(&self, register: u32) -> u32 {
        let mut data = [0xff; 4];
        if let Some(ports) = self.select(register) {
            ports.read(4, &mut data);
        }
        u32::from_le_bytes(data)
    }

    fn set_config(&self, register: u32, value: u32) {
        if let Some(ports) = self.select(register) {
            let _ = ports.write(4, &value.to_le_bytes());
        }
    }

    fn select(&self, register: u32) -> Option<ConfigPorts> {
        let Bus::Pci { host, .. } = &self.bus else {
            return None;
        };
        let ports = ConfigPorts(host.clone());
        let _ = ports.write(0, &(SELECT | register).to_le_bytes());
        Some(ports)
    }
}
