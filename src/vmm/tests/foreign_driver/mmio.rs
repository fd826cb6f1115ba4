//! Registers over MMIO (virtio 1.3 §4.2.2).
use std::sync::Arc;

use vmm::{arch::x86_64::layout, kvm::Place};

use super::{
    board::Board,
    transport::{Register, Registers, Wire},
};

struct Mmio(Arc<Board>);

pub(crate) fn wire(board: Arc<Board>) -> Wire {
    let mmio = Mmio(board.clone());
    assert_eq!(mmio.word(0x000).to_le_bytes(), *b"virt");
    assert_eq!(mmio.word(0x004), 2);
    Wire {
        board,
        registers: Box::new(mmio),
    }
}

fn offset(register: Register) -> u64 {
    match register {
        Register::DeviceFeatureSelect => 0x014,
        Register::DeviceFeature => 0x010,
        Register::DriverFeatureSelect => 0x024,
        Register::DriverFeature => 0x020,
        Register::Status => 0x070,
        Register::Generation => 0x0fc,
        Register::QueueSelect => 0x030,
        Register::QueueSizeMax => 0x034,
        Register::QueueSize => 0x038,
        Register::QueueEnable => 0x044,
        Register::Descriptors => 0x080,
        Register::Available => 0x090,
        Register::Used => 0x0a0,
    }
}

impl Mmio {
    fn place(offset: u64) -> Place {
        Place::Memory(layout::VIRTIO_MMIO.0 + offset)
    }

    fn word(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.0.get(Self::place(offset), &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&self, offset: u64, value: u32) {
        self.0.put(Self::place(offset), &value.to_le_bytes());
    }
}

impl Registers for Mmio {
    fn get(&self, register: Register) -> u32 {
        self.word(offset(register))
    }

    fn set(&self, register: Register, value: u64) {
        let [low, high] = [value & 0xffff_ffff, value >> 32].map(|half| half.try_into().unwrap());
        self.put(offset(register), low);
        if matches!(
            register,
            Register::Descriptors | Register::Available | Register::Used
        ) {
            self.put(offset(register) + 4, high);
        }
    }

    fn config(&self, offset: usize, data: &mut [u8]) {
        let offset = u64::try_from(offset).unwrap();
        self.0.get(Self::place(0x100 + offset), data);
    }

    fn kind(&self) -> u32 {
        self.word(0x008)
    }

    fn ring(&self, queue: u16) {
        self.put(0x050, queue.into());
    }

    fn reasons(&self) -> u32 {
        let reasons = self.word(0x060);
        if reasons != 0 {
            self.put(0x064, reasons);
        }
        reasons
    }

    fn choose_vector(&self) {}

    /// It has stopped when the driver reads so (§4.2.2.2).
    fn stop_queue(&self) {
        self.set(Register::QueueEnable, 0);
        assert_eq!(self.get(Register::QueueEnable), 0);
    }
}
