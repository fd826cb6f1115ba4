//! A machine's buses with one disk, as its processor sees them: there is no KVM, and no processor but the test.
use std::{
    fs::File,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use vm_memory::GuestMemoryMmap;
use vmm::{
    arch::x86_64::layout,
    bus::{Bus, Outcome},
    irq::{Controller, MessageSender},
    kvm::{Place, Ring},
    pci::{ConfigPorts, Ecam, Host, Space, Window},
    testing::virtqueue::Edges,
    virtio::{
        Confine, Device,
        block::{Block, Cache, Choice, Counters, Image, Options},
        transport::{Doorbells, SharedDevice, mmio::Mmio, pci::Pci},
    },
};
use vmm_sys_util::eventfd::EventFd;

use super::{SECTORS, SERIAL, Way, Where, pages};

/// The board, and what is to be seen of the disk from outside of its machine.
pub(crate) struct Board {
    ports: Bus,
    memory: Bus,
    bells: Arc<Bells>,
    /// Interrupts.
    pub(crate) edges: Arc<Edges>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) file: File,
    /// Features that the driver does not get to see.
    pub(crate) withheld: u64,
    /// Features that it took.
    pub(crate) agreed: AtomicU64,
}

impl Board {
    pub(crate) fn new(way: &Way, contents: &[u8], read_only: bool) -> Self {
        let memory = pages::power_on();
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, contents, 0).unwrap();
        let (device, counters) = disk(&file, way.engine, read_only);
        let (edges, line) = Edges::line();
        let bells = Arc::new(Bells::new(way.rings_without_exit));
        let mut board = Self {
            ports: Bus::default(),
            memory: Bus::default(),
            bells: bells.clone(),
            edges: edges.clone(),
            counters,
            file,
            withheld: way.withheld,
            agreed: AtomicU64::new(0),
        };
        match way.place {
            Where::Mmio => {
                let at = layout::VIRTIO_MMIO.0;
                let registers = Arc::new(Mmio::new(at, device, memory, line, bells));
                board
                    .memory
                    .insert("disk", registers.range(), registers)
                    .unwrap();
            }
            Where::Pci { .. } => board.add_bus(device, memory, Arc::new(Messages(edges))),
        }
        board
    }

    fn add_bus(&mut self, device: SharedDevice, memory: GuestMemoryMmap, sender: Arc<Messages>) {
        let function = Pci::new((0, 1), device, memory, sender, self.bells.clone());
        let host = Arc::new(Host::new(vec![Arc::new(function)]));
        let window = |space| Arc::new(Window(host.clone(), space));
        let configuration = Arc::new(ConfigPorts(host.clone()));
        self.ports
            .insert("ports", layout::PCI_CONFIG_PORTS, configuration)
            .unwrap();
        self.ports
            .insert("window", Space::Ports.window(), window(Space::Ports))
            .unwrap();
        self.memory
            .insert("window", Space::Memory.window(), window(Space::Memory))
            .unwrap();
        self.memory
            .insert("ecam", layout::PCI_ECAM, Arc::new(Ecam(host.clone())))
            .unwrap();
    }

    /// The processor writes.
    pub(crate) fn put(&self, place: Place, data: &[u8]) {
        if self.bells.heard(place, data) {
            return;
        }
        let outcome = match place {
            Place::Memory(address) => self.memory.write(address, data),
            Place::Port(port) => self.ports.write(port.into(), data),
        };
        assert_eq!(outcome, Some(Outcome::Nothing), "{place:x?}");
    }

    /// The processor reads.
    pub(crate) fn get(&self, place: Place, data: &mut [u8]) {
        let answered = match place {
            Place::Memory(address) => self.memory.read(address, data),
            Place::Port(port) => self.ports.read(port.into(), data),
        };
        assert!(answered, "{place:x?}");
    }

    /// Features that the driver took.
    pub(crate) fn agreed(&self) -> u64 {
        self.agreed.load(Ordering::Relaxed)
    }

    /// Bells that ring without an exit.
    pub(crate) fn connected(&self) -> usize {
        self.bells.connected.lock().unwrap().len()
    }
}

fn disk(file: &File, engine: Choice, read_only: bool) -> (SharedDevice, Arc<Counters>) {
    file.set_len(512 * SECTORS).unwrap();
    let options = Options {
        image: Image::cached(file.try_clone().unwrap()),
        read_only,
        cache: Cache::WriteBack,
        id: "test".into(),
        serial: SERIAL.into(),
        queues: 1,
    };
    let mut block = Block::new(options, "disk".into(), engine).unwrap();
    let confine: Confine = Arc::new(|_| {});
    block.start_threads(&confine).unwrap();
    let counters = block.counters().clone();
    (Arc::new(Mutex::new(block)), counters)
}

/// KVM's part in a ring: what is connected does not reach the bus.
struct Bells {
    works: bool,
    connected: Mutex<Vec<(Ring, EventFd)>>,
}

impl Bells {
    fn new(works: bool) -> Self {
        Self {
            works,
            connected: Mutex::default(),
        }
    }

    fn heard(&self, place: Place, data: &[u8]) -> bool {
        let connected = self.connected.lock().unwrap();
        let found = connected.iter().find(|(ring, _)| {
            let value = ring.value.map(u32::to_le_bytes);
            ring.place == place && value.is_none_or(|value| value == data)
        });
        found.map(|(_, bell)| bell.write(1).unwrap()).is_some()
    }
}

impl Doorbells for Bells {
    fn connect(&self, ring: Ring, bell: &EventFd) -> bool {
        if self.works {
            let bell = bell.try_clone().unwrap();
            self.connected.lock().unwrap().push((ring, bell));
        }
        self.works
    }

    fn disconnect(&self, ring: Ring, _: &EventFd) {
        let mut connected = self.connected.lock().unwrap();
        let before = connected.len();
        connected.retain(|(other, _)| *other != ring);
        assert_eq!(connected.len(), before - 1);
    }
}

/// What the one vector's message is.
pub(crate) const MESSAGE: (u32, u32) = (0xfee0_0000, 0x31);

/// Messages are as good as edges.
struct Messages(Arc<Edges>);

impl MessageSender for Messages {
    fn send(&self, address: u32, data: u32) {
        assert_eq!((address, data), MESSAGE);
        self.0.trigger(0);
    }
}
