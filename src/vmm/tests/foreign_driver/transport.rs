//! What the driver asks of a transport, by registers: their places are another's to know.
use std::sync::{Arc, atomic::Ordering};

use virtio_drivers::{
    Error, PhysAddr, Result,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::board::Board;

/// A register that every transport has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    Status,
    Generation,
    QueueSelect,
    QueueSizeMax,
    QueueSize,
    QueueEnable,
    Descriptors,
    Available,
    Used,
}

/// Where a transport has its registers.
pub(crate) trait Registers {
    fn get(&self, register: Register) -> u32;
    fn set(&self, register: Register, value: u64);
    /// Reads the device's own configuration.
    fn config(&self, offset: usize, data: &mut [u8]);
    fn kind(&self) -> u32;
    fn ring(&self, queue: u16);
    /// Why there was an interrupt; it is heard by that.
    fn reasons(&self) -> u32;
    /// Gives a queue a way to interrupt.
    fn choose_vector(&self);
    /// Stops a queue that is selected, where a transport can.
    fn stop_queue(&self);
}

/// The transport, as the driver wants it.
pub(crate) struct Wire {
    pub(crate) board: Arc<Board>,
    pub(crate) registers: Box<dyn Registers>,
}

impl Transport for Wire {
    fn device_type(&self) -> DeviceType {
        self.registers.kind().try_into().unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |index: u32| {
            self.registers
                .set(Register::DeviceFeatureSelect, index.into());
            u64::from(self.registers.get(Register::DeviceFeature)) << (32 * index)
        };
        (half(0) | half(1)) & !self.board.withheld
    }

    fn write_driver_features(&mut self, features: u64) {
        for half in 0..2 {
            self.registers.set(Register::DriverFeatureSelect, half);
            let bits = features >> (32 * half) & 0xffff_ffff;
            self.registers.set(Register::DriverFeature, bits);
        }
        self.board.agreed.store(features, Ordering::Relaxed);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.registers.set(Register::QueueSelect, queue.into());
        self.registers.get(Register::QueueSizeMax)
    }

    fn notify(&mut self, queue: u16) {
        self.registers.ring(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.registers.get(Register::Status))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.registers.set(Register::Status, status.bits().into());
        assert_eq!(self.get_status(), status);
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        available: PhysAddr,
        used: PhysAddr,
    ) {
        self.registers.set(Register::QueueSelect, queue.into());
        self.registers.set(Register::QueueSize, size.into());
        self.registers.choose_vector();
        self.registers.set(Register::Descriptors, descriptors);
        self.registers.set(Register::Available, available);
        self.registers.set(Register::Used, used);
        self.registers.set(Register::QueueEnable, 1);
        assert!(self.queue_used(queue));
    }

    fn queue_unset(&mut self, queue: u16) {
        self.registers.set(Register::QueueSelect, queue.into());
        self.registers.stop_queue();
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.registers.set(Register::QueueSelect, queue.into());
        self.registers.get(Register::QueueEnable) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_retain(self.registers.reasons())
    }

    fn read_config_generation(&self) -> u32 {
        self.registers.get(Register::Generation)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut bytes = vec![0; size_of::<T>()];
        self.registers.config(offset, &mut bytes);
        T::read_from_bytes(&bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<()> {
        Err(Error::Unsupported)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.set_status(DeviceStatus::empty());
        assert_eq!(self.board.connected(), 0);
    }
}
