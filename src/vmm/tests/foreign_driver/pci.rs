//! Registers over PCI (virtio 1.3 §4.1), which are where the device's capabilities say. The bus is looked through by foreign code
//! too.
use std::sync::Arc;

use virtio_drivers::transport::{
    DeviceType,
    pci::{
        bus::{BarInfo, Command, ConfigurationAccess, DeviceFunction, PCI_CAP_ID_VNDR, PciRoot},
        virtio_device_type,
    },
};
use vmm::{arch::x86_64::layout, kvm::Place, pci::Space};

use super::{
    board::{Board, MESSAGE},
    transport::{Register, Registers, Wire},
};

/// The way to the configuration spaces.
#[derive(Clone)]
struct Configuration {
    board: Arc<Board>,
    /// By memory, and not by ports.
    by_memory: bool,
}

impl Configuration {
    /// Where the register is, once it is selected.
    fn place(&self, function: DeviceFunction, register: u8) -> Place {
        let DeviceFunction {
            bus,
            device,
            function,
        } = function;
        let function = u32::from(bus) << 8 | u32::from(device) << 3 | u32::from(function);
        if self.by_memory {
            let offset = u64::from(function) << 12 | u64::from(register);
            return Place::Memory(layout::PCI_ECAM.start + offset);
        }
        let select = 1 << 31 | function << 8 | u32::from(register);
        self.board.put(Place::Port(0xcf8), &select.to_le_bytes());
        Place::Port(0xcfc)
    }
}

impl ConfigurationAccess for Configuration {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let mut data = [0xff; 4];
        self.board.get(self.place(function, register), &mut data);
        u32::from_le_bytes(data)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        let place = self.place(function, register);
        self.board.put(place, &data.to_le_bytes());
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

/// Where the structures of the device are.
struct Pci {
    board: Arc<Board>,
    kind: DeviceType,
    common: Place,
    isr: Place,
    config: Place,
    doorbells: (Place, u32),
    vectors: Place,
}

/// Finds the device, and lets it answer, and send messages. Of the ways to ring it, the one in `rings` is taken.
pub(crate) fn wire(board: Arc<Board>, by_memory: bool, rings: Space) -> Wire {
    let configuration = Configuration {
        board: board.clone(),
        by_memory,
    };
    let mut root = PciRoot::new(configuration.clone());
    let found: Vec<_> = root.enumerate_bus(0).collect();
    assert_eq!(found.len(), 2, "a bridge and a device: {found:?}");
    let (function, about) = &found[1];
    let kind = virtio_device_type(about).unwrap();
    let on = Command::IO_SPACE | Command::MEMORY_SPACE | Command::BUS_MASTER;
    root.set_command(*function, on);
    let pci = Pci::new(
        board.clone(),
        &mut root,
        configuration,
        *function,
        kind,
        rings,
    );
    pci.unmask(MESSAGE);
    Wire {
        board,
        registers: Box::new(pci),
    }
}

/// `offset` bytes behind `place`.
fn behind(place: Place, offset: u32) -> Place {
    match place {
        Place::Memory(address) => Place::Memory(address + u64::from(offset)),
        Place::Port(port) => Place::Port(port + u16::try_from(offset).unwrap()),
    }
}

fn is_in(place: Place, space: Space) -> bool {
    matches!(
        (place, space),
        (Place::Memory(_), Space::Memory) | (Place::Port(_), Space::Ports)
    )
}

impl Pci {
    fn new(
        board: Arc<Board>,
        root: &mut PciRoot<Configuration>,
        mut configuration: Configuration,
        function: DeviceFunction,
        kind: DeviceType,
        rings: Space,
    ) -> Self {
        let bars = root.bars(function).unwrap();
        let bar = |index: u8, offset: u32| {
            let start = match bars[usize::from(index)].as_ref().unwrap() {
                BarInfo::Memory { address, .. } => Place::Memory(*address),
                BarInfo::IO { address, .. } => Place::Port(u16::try_from(*address).unwrap()),
            };
            behind(start, offset)
        };
        let (mut structures, mut doorbells, mut vectors) = ([None; 5], None, None);
        for capability in root.capabilities(function) {
            let word = |at| configuration.read_word(function, capability.offset + at);
            match capability.id {
                PCI_CAP_ID_VNDR => {
                    let [_, kind] = capability.private_header.to_le_bytes();
                    let [index, ..] = word(4).to_le_bytes();
                    match kind {
                        2 => {
                            let place = bar(index, word(8));
                            if is_in(place, rings) {
                                doorbells = doorbells.or(Some((place, word(16))));
                            }
                        }
                        1 | 3 | 4 => structures[usize::from(kind)] = Some(bar(index, word(8))),
                        _ => {}
                    }
                }
                0x11 => {
                    let [index, ..] = (word(4) & 7).to_le_bytes();
                    vectors = Some((capability.offset, bar(index, word(4) & !7)));
                }
                _ => {}
            }
        }
        let (control, vectors) = vectors.unwrap();
        configuration.write_word(function, control, 1 << 31);
        let [_, common, _, isr, config] = structures;
        Self {
            board,
            kind,
            common: common.unwrap(),
            isr: isr.unwrap(),
            config: config.unwrap(),
            doorbells: doorbells.unwrap(),
            vectors,
        }
    }

    /// Lets the first vector send `message`.
    fn unmask(&self, (address, data): (u32, u32)) {
        for (at, word) in [(0, address), (4, 0), (8, data), (12, 0)] {
            self.board
                .put(behind(self.vectors, at), &word.to_le_bytes());
        }
    }
}

/// Where a register is in the common configuration, and its bytes (§4.1.4.3).
fn field(register: Register) -> (u32, usize) {
    match register {
        Register::DeviceFeatureSelect => (0x00, 4),
        Register::DeviceFeature => (0x04, 4),
        Register::DriverFeatureSelect => (0x08, 4),
        Register::DriverFeature => (0x0c, 4),
        Register::Status => (0x14, 1),
        Register::Generation => (0x15, 1),
        Register::QueueSelect => (0x16, 2),
        Register::QueueSizeMax | Register::QueueSize => (0x18, 2),
        Register::QueueEnable => (0x1c, 2),
        Register::Descriptors => (0x20, 8),
        Register::Available => (0x28, 8),
        Register::Used => (0x30, 8),
    }
}

const QUEUE_VECTOR: u32 = 0x1a;
const QUEUE_NOTIFY_OFFSET: u32 = 0x1e;

impl Registers for Pci {
    fn get(&self, register: Register) -> u32 {
        let (offset, bytes) = field(register);
        let mut data = [0; 4];
        self.board
            .get(behind(self.common, offset), &mut data[..bytes]);
        u32::from_le_bytes(data)
    }

    fn set(&self, register: Register, value: u64) {
        let (offset, bytes) = field(register);
        let data = &value.to_le_bytes()[..bytes];
        self.board.put(behind(self.common, offset), data);
    }

    fn config(&self, offset: usize, data: &mut [u8]) {
        let offset = u32::try_from(offset).unwrap();
        self.board.get(behind(self.config, offset), data);
    }

    /// The driver was told by the device's id.
    fn kind(&self) -> u32 {
        self.kind as u32
    }

    fn ring(&self, queue: u16) {
        self.set(Register::QueueSelect, queue.into());
        let mut offset = [0; 2];
        let place = behind(self.common, QUEUE_NOTIFY_OFFSET);
        self.board.get(place, &mut offset);
        let (place, multiplier) = self.doorbells;
        let place = behind(place, multiplier * u32::from(u16::from_le_bytes(offset)));
        self.board.put(place, &queue.to_le_bytes());
    }

    fn reasons(&self) -> u32 {
        let mut data = [0];
        self.board.get(self.isr, &mut data);
        data[0].into()
    }

    fn choose_vector(&self) {
        let place = behind(self.common, QUEUE_VECTOR);
        self.board.put(place, &0u16.to_le_bytes());
        let mut data = [0xff; 2];
        self.board.get(place, &mut data);
        assert_eq!(data, [0; 2]);
    }

    /// Not without a feature of its own (§4.1.4.3.2).
    fn stop_queue(&self) {}
}
