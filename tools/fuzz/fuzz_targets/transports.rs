//! Any accesses of a driver to a device over MMIO and to another on a PCI bus, with any bytes in its rings, while the device takes what is
//! offered and gives it back: never a panic, and no queue moves after it was taken. Wherever the driver has got to, each device is saved,
//! and what was saved is restored.
#![no_main]

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex},
};

use libfuzzer_sys::fuzz_target;
use rustix::event::EventfdFlags;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::{
    bus::{Bus, Registers},
    irq::{Controller, Line, MessageSender},
    kvm::Ring,
    pci::{ConfigPorts, Ecam, Function, Host, Space, Window},
    virtio::{
        ConfigSpace, Confine, Device, Interrupt, OwnState,
        queue::{Chain, Progress, Queue},
        transport::{Doorbells, SharedDevice, mmio::Mmio, pci::Pci},
    },
    worker::NotPaused,
};
use vmm_sys_util::eventfd::EventFd;

const RAM: usize = 64 << 10;
/// Where the MMIO device is, in a bus of its own.
const MMIO: u64 = 0xd000_0000;
/// Where configuration spaces are mapped.
const ECAM: u64 = 0xf000_0000;

struct Nowhere;

impl MessageSender for Nowhere {
    fn send(&self, _: u32, _: u32) {}
}

impl Controller for Nowhere {
    fn trigger(&self, _: u8) {}
}

impl Doorbells for Nowhere {
    fn connect(&self, _: Ring, _: &EventFd) -> bool {
        true
    }
    fn disconnect(&self, _: Ring, _: &EventFd) {}
}

/// Gives back at once what it is offered.
struct Echo {
    bells: [EventFd; 2],
    config: ConfigSpace,
    queues: Vec<Option<Queue>>,
    interrupt: Option<Interrupt>,
    chain: Chain,
}

impl Echo {
    fn shared() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            bells: [(); 2].map(|()| {
                EventFd::new(EventfdFlags::NONBLOCK.bits().cast_signed()).expect("an eventfd")
            }),
            config: ConfigSpace::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9]),
            queues: Vec::new(),
            interrupt: None,
            chain: Chain::default(),
        }))
    }

    /// Serves what its queues hold: no more than the entries of each.
    fn serve(&mut self) {
        let mut broken = false;
        for queue in self.queues.iter_mut().flatten() {
            broken |= serve_queue(queue, &mut self.chain).is_err();
        }
        if let Some(interrupt) = &self.interrupt {
            interrupt.used_buffers(0);
            if broken {
                interrupt.needs_reset();
                self.queues.clear();
            }
        }
    }
}

fn serve_queue(queue: &mut Queue, chain: &mut Chain) -> Result<(), vmm::virtio::queue::Broken> {
    for _ in 0..64 {
        if !queue.pop(chain)? {
            break;
        }
        queue.push(chain.head, 1)?;
    }
    queue.wants_interrupt()?;
    queue.disable_doorbell()?;
    queue.enable_doorbell().map(drop)
}

impl Device for Echo {
    fn kind(&self) -> u32 {
        2
    }
    fn features(&self) -> u64 {
        0b101
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 64]
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn doorbell(&self, index: usize) -> Option<&EventFd> {
        self.bells.get(index)
    }
    fn start_threads(&mut self, _: &Confine) -> io::Result<()> {
        Ok(())
    }
    fn activate(&mut self, _: u64, queues: Vec<Option<Queue>>, interrupt: &Interrupt) {
        assert!(self.queues.is_empty(), "a device is activated once");
        self.queues = queues;
        self.interrupt = Some(interrupt.clone());
    }
    fn stop_queue(&mut self, index: usize) {
        if let Some(queue) = self.queues.get_mut(index) {
            *queue = None;
        }
    }
    fn reset(&mut self) {
        self.queues.clear();
        self.interrupt = None;
    }
    fn pause(&mut self) {}
    fn resume(&mut self) {}
    fn progress(&self) -> Result<Vec<Option<Progress>>, NotPaused> {
        let progress = |queue: &Option<Queue>| queue.as_ref().map(Queue::progress);
        Ok(self.queues.iter().map(progress).collect())
    }
    fn save(&self) -> OwnState {
        OwnState::Nothing
    }
    fn fits(&self, saved: &OwnState) -> bool {
        *saved == OwnState::Nothing
    }
    fn restore(&mut self, _: &OwnState) {}
}

fn bus<const N: usize>(devices: [(Range<u64>, Arc<dyn Registers>); N]) -> Bus {
    let mut bus = Bus::default();
    for (range, registers) in devices {
        bus.insert("device", range, registers)
            .expect("disjoint ranges");
    }
    bus
}

/// A guest with both, on buses as a machine has them.
struct Guest {
    memory: GuestMemoryMmap,
    devices: [Arc<Mutex<Echo>>; 2],
    mmio: Arc<Mmio>,
    function: Arc<Pci>,
    host: Arc<Host>,
    ports: Bus,
    addresses: Bus,
}

impl Guest {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("some memory");
        let devices = [Echo::shared(), Echo::shared()];
        let [on_mmio, on_pci] = devices
            .each_ref()
            .map(|device| -> SharedDevice { device.clone() });
        let line = Line::new(Arc::new(Nowhere), 0);
        let mmio = Mmio::new(MMIO, on_mmio, memory.clone(), line, Arc::new(Nowhere));
        let mmio = Arc::new(mmio);
        let function = Arc::new(Pci::new(
            (0, 1),
            on_pci,
            memory.clone(),
            Arc::new(Nowhere),
            Arc::new(Nowhere),
        ));
        let host = Arc::new(Host::new(vec![function.clone() as Arc<dyn Function>]));
        let window = |space| Arc::new(Window(host.clone(), space)) as Arc<dyn Registers>;
        Self {
            memory,
            devices,
            ports: bus([
                (0xcf8..0xd00, Arc::new(ConfigPorts(host.clone()))),
                (Space::Ports.window(), window(Space::Ports)),
            ]),
            addresses: bus([
                (mmio.range(), mmio.clone()),
                (Space::Memory.window(), window(Space::Memory)),
                (ECAM..ECAM + (1 << 20), Arc::new(Ecam(host.clone()))),
            ]),
            mmio,
            function,
            host,
        }
    }

    fn write(&self, address: u64, value: u32, length: usize) {
        let bytes = u64::from(value).to_le_bytes();
        let _ = self.addresses.write(address, &bytes[..length]);
    }

    /// Each device becomes what it is.
    fn restore_all(&self) {
        let saved = self.mmio.save().expect("paused");
        self.mmio.restore(&saved).expect("a state that is");
        let saved = (self.function.save().expect("paused"), self.host.save());
        self.function.restore(&saved.0).expect("a state that is");
        self.host.restore(&saved.1).expect("a state that is");
    }

    /// What every driver does first, so that not each input has to find it out.
    fn shake_hands(&self, at: impl Fn(u64) -> u64, rings: u32) {
        for (register, value) in [
            (0x70, 0),
            (0x70, 1),
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x24, 0),
            (0x20, 0x3000_0005),
            (0x70, 11),
            (0x30, 0),
            (0x38, 16),
            (0x80, rings & 0xfff0),
            (0x90, (rings >> 8) & 0xfffe),
            (0xa0, (rings >> 16) & 0xfffc),
            (0x44, 1),
            (0x70, 15),
        ] {
            self.write(at(register), value, 4);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let guest = Guest::new();
    for operation in bytes.chunks_exact(8) {
        let &[kind, a, b, c, d, e, f, g] = operation else {
            unreachable!("chunks of eight")
        };
        let offset = u32::from_le_bytes([a, b, c, 0]);
        let value = u32::from_le_bytes([d, e, f, g]);
        let length = [1, 2, 4, 8][usize::from(kind >> 6)];
        let mut data = [0; 8];
        match kind % 16 {
            0 | 1 => guest.write(MMIO + u64::from(offset & 0x1ff), value, length),
            2 => {
                _ = guest
                    .addresses
                    .read(MMIO + u64::from(offset & 0x1ff), &mut data[..length])
            }
            3 | 4 => guest.write(
                Space::Memory.window().start + u64::from(offset),
                value,
                length,
            ),
            5 => {
                let address = Space::Memory.window().start + u64::from(offset);
                _ = guest.addresses.read(address, &mut data[..length]);
            }
            6 => {
                _ = guest.ports.write(
                    Space::Ports.window().start + u64::from(offset & 0x3fff),
                    &value.to_le_bytes()[..length.min(4)],
                )
            }
            7 => {
                let select = (1 << 31 | offset & 0xfffc).to_le_bytes();
                _ = guest.ports.write(0xcf8, &select);
                _ = guest.ports.write(
                    0xcfc + u64::from(kind >> 4 & 3),
                    &value.to_le_bytes()[..length.min(4)],
                );
            }
            8 => guest.write(ECAM + u64::from(offset & 0xf_ffff), value, length),
            9 => {
                _ = guest
                    .addresses
                    .read(ECAM + u64::from(offset & 0xf_ffff), &mut data[..length])
            }
            10 => guest.shake_hands(|register| MMIO + register, value),
            // Anywhere in its memory, as words: rings, tables, requests.
            11..=13 => {
                _ = guest
                    .memory
                    .write_obj(value, GuestAddress(u64::from(offset) % (RAM as u64 - 4)))
            }
            14 => guest.restore_all(),
            _ => {
                let device = &guest.devices[usize::from(kind >> 4 & 1)];
                device.lock().expect("nobody panicked").serve();
            }
        }
    }
});
