//! Drivers, honest and not, against the registers of a device over MMIO.
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{Doorbells, SharedDevice, mmio::Mmio, status};
use crate::{
    bus::Registers,
    kvm::{Place, Ring},
    testing::virtqueue::{DriverQueue, Edges},
    virtio::{
        ConfigSpace, Confine, Device, Interrupt, OwnState, feature,
        queue::{Progress, Queue},
    },
    worker::NotPaused,
};

/// A device that only notes what is done to it.
pub(super) struct Notes {
    bell: EventFd,
    config: ConfigSpace,
    pub(super) queues: Option<Vec<Option<Queue>>>,
    /// By which it reaches its driver, from its activation on.
    pub(super) interrupt: Option<Interrupt>,
    pub(super) resets: usize,
    /// What the driver took, when it was activated.
    pub(super) features: u64,
}

impl Notes {
    pub(super) fn new() -> Self {
        Self {
            bell: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            config: ConfigSpace::new(&[1, 2, 3, 4, 5]),
            queues: None,
            interrupt: None,
            resets: 0,
            features: 0,
        }
    }

    /// The device is configured otherwise.
    pub(super) fn change_config(&self) {
        self.config.put(0, &[9]);
    }

    /// Whether somebody rang since this was asked last.
    pub(super) fn was_rung(&self) -> bool {
        self.bell.read().is_ok()
    }
}

impl Device for Notes {
    fn kind(&self) -> u32 {
        2
    }
    fn features(&self) -> u64 {
        1 << 9
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 128]
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn doorbell(&self, index: usize) -> Option<&EventFd> {
        (index < 2).then_some(&self.bell)
    }
    fn start_threads(&mut self, _: &Confine) -> std::io::Result<()> {
        Ok(())
    }
    /// Its last byte is the driver's.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if (offset, data.len()) == (4, 1) {
            self.config.put(4, data);
        }
    }
    fn activate(&mut self, features: u64, queues: Vec<Option<Queue>>, interrupt: &Interrupt) {
        self.features = features;
        self.queues = Some(queues);
        self.interrupt = Some(interrupt.clone());
    }
    fn stop_queue(&mut self, index: usize) {
        if let Some(queues) = &mut self.queues {
            queues[index] = None;
        }
    }
    fn reset(&mut self) {
        self.queues = None;
        self.resets += 1;
    }
    fn pause(&mut self) {}
    fn resume(&mut self) {}
    fn progress(&self) -> Result<Vec<Option<Progress>>, NotPaused> {
        let queues = self.queues.as_deref().unwrap_or(&[const { None }; 2]);
        let progress = |queue: &Option<Queue>| queue.as_ref().map(Queue::progress);
        Ok(queues.iter().map(progress).collect())
    }
    fn save(&self) -> OwnState {
        OwnState::Nothing
    }
    fn fits(&self, saved: &OwnState) -> bool {
        *saved == OwnState::Nothing
    }
    fn restore(&mut self, _: &OwnState) {}
}

/// The bells that are connected.
#[derive(Default)]
pub(super) struct Connected(pub(super) Mutex<Vec<Ring>>);

impl Doorbells for Connected {
    fn connect(&self, ring: Ring, _: &EventFd) -> bool {
        self.0.lock().unwrap().push(ring);
        true
    }
    fn disconnect(&self, ring: Ring, _: &EventFd) {
        self.0.lock().unwrap().retain(|bell| *bell != ring);
    }
}

struct Bench {
    device: Arc<Mutex<Notes>>,
    bells: Arc<Connected>,
    edges: Arc<Edges>,
    memory: GuestMemoryMmap,
    registers: Mmio,
}

const ADDRESS: u64 = 0xd000_0000;

impl Bench {
    fn new() -> Self {
        let device = Arc::new(Mutex::new(Notes::new()));
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let (edges, line) = Edges::line();
        let bells = Arc::new(Connected::default());
        let shared: SharedDevice = device.clone();
        let registers = Mmio::new(ADDRESS, shared, memory.clone(), line, bells.clone());
        Self {
            device,
            bells,
            edges,
            memory,
            registers,
        }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.registers.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        let _ = self.registers.write(offset, &value.to_le_bytes());
    }

    /// Adds bits to the status, and reads it back.
    fn step(&self, bits: u32) -> u32 {
        self.write(0x70, self.read(0x70) | bits);
        self.read(0x70)
    }

    fn agree(&self, features: u64) -> u32 {
        self.step(status::ACKNOWLEDGE);
        self.step(status::DRIVER);
        for half in 0..2 {
            self.write(0x24, half);
            let bits = (features >> (32 * half)) & 0xffff_ffff;
            self.write(0x20, u32::try_from(bits).unwrap());
        }
        self.step(status::FEATURES_OK)
    }

    fn set_up(&self, index: u32, queue: &DriverQueue) {
        let setup = queue.setup();
        self.write(0x30, index);
        self.write(0x38, setup.size.into());
        for (offset, address) in [
            (0x80, setup.descriptors),
            (0x90, setup.available),
            (0xa0, setup.used),
        ] {
            self.write(offset, u32::try_from(address).unwrap());
            self.write(offset + 4, 0);
        }
        self.write(0x44, 1);
    }

    fn start(&self) -> u32 {
        self.agree(feature::VERSION_1);
        self.set_up(0, &DriverQueue::new(self.memory.clone(), 0x1000, 64));
        self.step(status::DRIVER_OK)
    }

    fn active(&self) -> Option<Vec<bool>> {
        let device = self.device.lock().unwrap();
        let queues = device.queues.as_ref()?;
        Some(queues.iter().map(Option::is_some).collect())
    }
}

const READY: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

#[test]
fn a_driver_finds_a_device_and_starts_it() {
    let bench = Bench::new();
    assert_eq!(bench.read(0x00), u32::from_le_bytes(*b"virt"));
    assert_eq!((bench.read(0x04), bench.read(0x08)), (2, 2));
    assert_eq!(bench.read(0x34), 64);
    bench.write(0x14, 1);
    assert_eq!(bench.read(0x10), 1);
    assert_eq!(bench.start(), READY);
    assert_eq!(bench.active(), Some(vec![true, false]));
    let bells = bench.bells.0.lock().unwrap().clone();
    let ring = |value| Ring {
        place: Place::Memory(ADDRESS + 0x50),
        value: Some(value),
    };
    assert_eq!(bells, [ring(0), ring(1)]);
}

#[test]
fn features_that_were_not_offered_are_not_agreed_to() {
    for features in [
        0,
        1 << 9,
        feature::VERSION_1 | 1,
        feature::VERSION_1 | 1 << 33,
        u64::MAX,
    ] {
        let bench = Bench::new();
        assert_eq!(
            bench.agree(features) & status::FEATURES_OK,
            0,
            "{features:#x}"
        );
        assert_eq!(bench.step(status::DRIVER_OK) & status::DRIVER_OK, 0);
        assert_eq!(bench.active(), None);
    }
    let bench = Bench::new();
    bench.step(status::ACKNOWLEDGE);
    bench.step(status::DRIVER);
    bench.write(0x24, 7);
    bench.write(0x20, 1);
    assert_eq!(bench.agree(feature::VERSION_1) & status::FEATURES_OK, 0);
}

#[test]
fn from_driver_ok_on_no_queue_moves() {
    let bench = Bench::new();
    bench.start();
    for offset in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        bench.write(offset, 0);
    }
    assert_eq!(bench.read(0x44), 1, "still ready");
    bench.write(0x24, 0);
    bench.write(0x20, 1 << 9);
    assert_eq!(bench.read(0x70), READY);
}

#[test]
fn a_queue_that_its_driver_stops_is_the_devices_no_more() {
    let bench = Bench::new();
    bench.agree(feature::VERSION_1);
    for index in 0..2 {
        let queue = DriverQueue::new(bench.memory.clone(), 0x1000 + 0x8000 * u64::from(index), 64);
        bench.set_up(index, &queue);
    }
    assert_eq!(bench.step(status::DRIVER_OK), READY);
    assert_eq!(bench.active(), Some(vec![true, true]));
    bench.write(0x30, 1);
    bench.write(0x44, 0);
    assert_eq!(bench.read(0x44), 0);
    assert_eq!(bench.active(), Some(vec![true, false]));
    // Again, and one that is not there.
    bench.write(0x44, 0);
    bench.write(0x30, 2);
    bench.write(0x44, 0);
    // Only a reset gives the device a queue.
    bench.write(0x30, 1);
    bench.write(0x80, 0x2000);
    bench.write(0x44, 1);
    assert_eq!(bench.read(0x44), 0);
    assert_eq!(bench.active(), Some(vec![true, false]));
    assert_eq!(bench.read(0x70), READY);
    bench.write(0x70, 0);
    assert_eq!(bench.start(), READY);
    assert_eq!(bench.active(), Some(vec![true, false]));
}

#[test]
fn a_queue_that_lies_nowhere_asks_for_a_reset() {
    for spoil in [
        |bench: &Bench| bench.write(0x80, 0x10_0000),
        |bench: &Bench| bench.write(0x84, u32::MAX),
        |bench: &Bench| bench.write(0x90, 0x1001),
        |bench: &Bench| bench.write(0xa0, 0xf_fffc),
        |bench: &Bench| bench.write(0x38, 0),
        |bench: &Bench| bench.write(0x38, 65_536 + 64),
        |bench: &Bench| bench.write(0x38, 128),
        |bench: &Bench| bench.write(0x38, 63),
    ] {
        let bench = Bench::new();
        bench.agree(feature::VERSION_1);
        bench.set_up(0, &DriverQueue::new(bench.memory.clone(), 0x1000, 64));
        bench.write(0x44, 0);
        spoil(&bench);
        bench.write(0x44, 1);
        assert_ne!(bench.step(status::DRIVER_OK) & status::NEEDS_RESET, 0);
        assert_eq!(bench.active(), None);
        assert_eq!(bench.read(0x60), Interrupt::CONFIGURATION);
        assert_eq!(bench.edges.count(), 1);
        bench.write(0x70, 0);
        assert_eq!(bench.start(), READY);
    }
}

#[test]
fn a_reset_is_a_beginning() {
    let bench = Bench::new();
    bench.start();
    bench.write(0x70, 0);
    assert_eq!(bench.read(0x70), 0);
    assert_eq!(bench.active(), None);
    assert_eq!(bench.device.lock().unwrap().resets, 1);
    assert!(bench.bells.0.lock().unwrap().is_empty());
    assert_eq!(bench.read(0x44), 0);
    assert_eq!(bench.start(), READY);
}

#[test]
fn an_interrupt_has_a_reason_until_the_driver_has_heard_it() {
    let bench = Bench::new();
    let (edges, line) = Edges::line();
    let interrupt = Interrupt::new(line);
    interrupt.used_buffers(0);
    assert_eq!((interrupt.reasons(), edges.count()), (1, 1));
    interrupt.needs_reset();
    assert_eq!(interrupt.acknowledge(1), 3);
    assert_eq!(interrupt.reasons(), Interrupt::CONFIGURATION);
    assert_eq!(bench.read(0x60), 0);
}

#[test]
fn the_configuration_is_read_in_any_width_and_ends() {
    let bench = Bench::new();
    let read = |offset, length| {
        let mut data = vec![0xff; length];
        bench.registers.read(offset, &mut data);
        data
    };
    assert_eq!(read(0x101, 2), [2, 3]);
    assert_eq!(read(0x100, 8), [1, 2, 3, 4, 5, 0, 0, 0]);
    assert_eq!(read(0x1ff, 1), [0]);
    let _ = bench.registers.write(0x100, &[9; 4]);
    assert_eq!(read(0x100, 1), [1]);
}

#[test]
fn a_driver_writes_the_configuration_once_it_knows_the_device() {
    let bench = Bench::new();
    let (mut byte, at) = ([0], 0x104);
    let _ = bench.registers.write(at, &[7]);
    bench.registers.read(at, &mut byte);
    assert_eq!(byte, [5]);
    bench.start();
    let _ = bench.registers.write(at, &[7]);
    bench.registers.read(at, &mut byte);
    assert_eq!(byte, [7]);
    assert_eq!(bench.device.lock().unwrap().features, feature::VERSION_1);
}

#[test]
fn a_ring_that_is_an_exit_rings_too() {
    let bench = Bench::new();
    bench.start();
    bench.write(0x50, 1);
    bench.write(0x50, 2);
    bench.write(0x50, u32::MAX);
    assert_eq!(bench.device.lock().unwrap().bell.read().unwrap(), 1);
}

proptest! {
    /// Any traffic on the registers: no panic, and the device has queues exactly from an accepted DRIVER_OK to the next reset.
    #[test]
    fn any_traffic_leaves_a_device_in_order(
        writes in proptest::collection::vec(
            (prop_oneof![(0..0x60u64).prop_map(|word| word * 4), 0..0x200u64], 0..9usize, any::<[u8; 8]>(), any::<bool>()),
            0..200,
        ),
    ) {
        let bench = Bench::new();
        for (offset, length, data, small) in writes {
            let mut data = data;
            if small {
                data = [data[0], 0, 0, 0, 0, 0, 0, 0];
            }
            let _ = bench.registers.write(offset, &data[..length]);
            bench.registers.read(offset, &mut data[..length]);
            let up = bench.read(0x70) & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK;
            prop_assert_eq!(bench.active().is_some(), up);
        }
    }
}
