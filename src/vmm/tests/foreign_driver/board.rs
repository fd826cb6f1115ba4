//! A machine's buses with one device, as its processor sees them: there is no KVM, and no processor but the test.
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use vm_memory::GuestMemoryMmap;
use vmm::{
    arch::x86_64::layout,
    bus::{Bus, Outcome},
    irq::{Controller, MessageSender},
    kvm::{Place, Ring},
    pci::{ConfigPorts, Ecam, Host, Space, Window},
    testing::virtqueue::Edges,
    virtio::transport::{Doorbells, SharedDevice, mmio::Mmio, pci::Pci},
};
use vmm_sys_util::eventfd::EventFd;

use super::{Way, Where, pages};

/// The board, and what is to be seen of it from outside of the machine.
pub(crate) struct Board {
    ports: Bus,
    memory: Bus,
    bells: Arc<Bells>,
    /// Interrupts.
    pub(crate) edges: Arc<Edges>,
    /// Features that the driver does not get to see.
    pub(crate) withheld: u64,
    /// Features that it took.
    pub(crate) agreed: AtomicU64,
    _nudge: Nudge,
}

impl Board {
    pub(crate) fn new(way: &Way, device: SharedDevice) -> Self {
        let memory = pages::power_on();
        let (edges, line) = Edges::line();
        let bells = Arc::new(Bells::new(way.rings_without_exit));
        let mut board = Self {
            ports: Bus::default(),
            memory: Bus::default(),
            bells: bells.clone(),
            edges: edges.clone(),
            withheld: way.withheld,
            agreed: AtomicU64::new(0),
            _nudge: Nudge::start(device.clone()),
        };
        match way.place {
            Where::Mmio => {
                let at = layout::VIRTIO_MMIO.0;
                let registers = Arc::new(Mmio::new(at, device, memory, line, bells));
                board
                    .memory
                    .insert("device", registers.range(), registers)
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

/// Rings for the driver, a second after it should have: whether to, the crate asks before what it added is surely to be seen, so that now and
/// then each side waits for the other. A device that needed this more often would be noticed by the time it takes.
struct Nudge {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Nudge {
    fn start(device: SharedDevice) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let device = device.lock().unwrap();
                let bells =
                    (0..device.queue_sizes().len()).filter_map(|queue| device.doorbell(queue));
                bells.for_each(|bell| bell.write(1).unwrap());
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        self.thread.take().unwrap().join().unwrap();
    }
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
