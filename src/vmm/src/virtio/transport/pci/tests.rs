//! Drivers, honest and not, against a device on a bus: they find it as a kernel does, by its configuration space.
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{super::tests::Connected, super::tests::Notes, Pci};
use crate::{
    bus::Registers,
    irq::MessageSender,
    kvm::{Place, Ring},
    pci::{ConfigPorts, Ecam, Host, Space, Window},
    testing::virtqueue::DriverQueue,
    virtio::{feature, transport::status},
};

/// Messages that were sent: address and data.
#[derive(Default)]
struct Sent(Mutex<Vec<(u32, u32)>>);

impl MessageSender for Sent {
    fn send(&self, address: u32, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

/// The second device of two on a bus, and all ways to it.
struct Bench {
    device: Arc<Mutex<Notes>>,
    bells: Arc<Connected>,
    sent: Arc<Sent>,
    memory: GuestMemoryMmap,
    ports: ConfigPorts,
    ecam: Ecam,
    windows: [Window; 2],
}

/// Where it sits: device 2.
const SLOT: u32 = 2;
/// Offsets in its memory, which a driver learns from its capabilities.
const COMMON: u64 = 0;

impl Bench {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let (bells, sent) = (Arc::new(Connected::default()), Arc::new(Sent::default()));
        let devices = [(); 2].map(|()| Arc::new(Mutex::new(Notes::new())));
        let functions =
            devices
                .iter()
                .enumerate()
                .map(|(index, device)| -> Arc<dyn crate::pci::Function> {
                    Arc::new(Pci::new(
                        (index, 2),
                        device.clone(),
                        memory.clone(),
                        sent.clone(),
                        bells.clone(),
                    ))
                });
        let host = Arc::new(Host::new(functions.collect()));
        Self {
            device: devices[1].clone(),
            bells,
            sent,
            memory,
            ports: ConfigPorts(host.clone()),
            ecam: Ecam(host.clone()),
            windows: [
                Window(host.clone(), Space::Ports),
                Window(host, Space::Memory),
            ],
        }
    }

    /// A configuration register, by ports.
    fn config(&self, slot: u32, register: u32) -> u32 {
        self.select(slot, register);
        let mut data = [0xff; 4];
        self.ports.read(4, &mut data);
        u32::from_le_bytes(data)
    }

    fn set_config(&self, slot: u32, register: u32, value: u32) {
        self.select(slot, register);
        let _ = self.ports.write(4, &value.to_le_bytes());
    }

    fn select(&self, slot: u32, register: u32) {
        let address = 1 << 31 | slot << 11 | register;
        let _ = self.ports.write(0, &address.to_le_bytes());
    }

    /// The base address of its memory, and of its ports.
    fn base(&self, space: Space) -> u64 {
        let (register, mask) = match space {
            Space::Ports => (0x10, !3),
            Space::Memory => (0x14, !15),
        };
        let address = u64::from(self.config(SLOT, register) & mask);
        // Elsewhere the bridge passes nothing on.
        address.saturating_sub(space.window().start)
    }

    fn get(&self, offset: u64, data: &mut [u8]) {
        self.windows[1].read(self.base(Space::Memory) + offset, data);
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let _ = self.windows[1].write(self.base(Space::Memory) + offset, data);
    }

    fn status(&self) -> u32 {
        let mut data = [0];
        self.get(COMMON + 0x14, &mut data);
        data[0].into()
    }

    fn step(&self, bits: u32) -> u32 {
        let value = u8::try_from(self.status() | bits).unwrap();
        self.put(COMMON + 0x14, &[value]);
        self.status()
    }

    /// Lets it answer, and brings it up with `queue` as its second, whose vector is 2.
    fn bring_up(&self, queue: &DriverQueue) {
        self.set_config(SLOT, 4, 7);
        self.agree();
        self.set_up(queue);
        assert_eq!(self.step(status::DRIVER_OK) & 4, 4);
    }

    fn agree(&self) {
        self.step(status::ACKNOWLEDGE);
        self.step(status::DRIVER);
        for half in 0..2u32 {
            self.put(COMMON + 0x08, &half.to_le_bytes());
            let bits = (feature::COMMON >> (32 * half)) & 0xffff_ffff;
            self.put(COMMON + 0x0c, &u32::try_from(bits).unwrap().to_le_bytes());
        }
        assert_eq!(self.step(status::FEATURES_OK) & 8, 8);
    }

    fn set_up(&self, queue: &DriverQueue) {
        let setup = queue.setup();
        self.put(COMMON + 0x16, &1u16.to_le_bytes());
        self.put(COMMON + 0x18, &setup.size.to_le_bytes());
        self.put(COMMON + 0x1a, &2u16.to_le_bytes());
        for (at, address) in [
            (0x20, setup.descriptors),
            (0x28, setup.available),
            (0x30, setup.used),
        ] {
            self.put(COMMON + at, &address.to_le_bytes());
        }
        self.put(COMMON + 0x1c, &1u16.to_le_bytes());
    }

    /// Vector `index` sends `data`, unless it is masked.
    fn set_vector(&self, index: u64, data: u32, masked: bool) {
        let entry = 0x3000 + 16 * index;
        self.put(entry, &0xfee0_0000u32.to_le_bytes());
        self.put(entry + 4, &0u32.to_le_bytes());
        self.put(entry + 8, &data.to_le_bytes());
        self.put(entry + 12, &u32::from(masked).to_le_bytes());
    }

    /// Where the capability is that has this id, or, of virtio's, this type.
    fn capability(&self, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.config(SLOT, 0x34) & 0xff;
        while at != 0 {
            let head = self.config(SLOT, at);
            if wanted(head) {
                return Some(at);
            }
            at = head >> 8 & 0xff;
        }
        None
    }

    fn enable_msix(&self, on: bool) {
        let at = self.capability(|head| head & 0xff == 0x11).unwrap();
        self.set_config(SLOT, at, u32::from(on) << 31);
    }

    fn sent(&self) -> Vec<u32> {
        let mut sent = self.sent.0.lock().unwrap();
        std::mem::take(&mut *sent)
            .into_iter()
            .map(|(_, data)| data)
            .collect()
    }

    fn queue(&self) -> DriverQueue {
        DriverQueue::new(self.memory.clone(), 0x1000, 64)
    }

    fn signal(&self, index: u16) {
        let device = self.device.lock().unwrap();
        device.interrupt.as_ref().unwrap().used_buffers(index);
    }
}

#[test]
fn a_kernel_finds_a_bridge_two_disks_and_nobody_else() {
    let bench = Bench::new();
    assert_eq!(bench.config(0, 8) >> 8, 0x06_0000);
    for slot in [1, SLOT] {
        assert_eq!(bench.config(slot, 0), 0x1042_1af4);
    }
    assert_eq!(bench.config(3, 0), u32::MAX);
    // By memory it is the same.
    let mut data = [0; 4];
    bench.ecam.read(u64::from(SLOT) << 15, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1042_1af4);
    // The sizes, as drivers look for them.
    bench.set_config(SLOT, 0x14, u32::MAX);
    assert_eq!(bench.config(SLOT, 0x14), !0x3fff);
    for kind in 1..=5 {
        let found = bench.capability(|head| head & 0xff == 9 && head >> 24 == kind);
        assert!(found.is_some(), "capability {kind}");
    }
}

#[test]
fn a_device_comes_up_and_is_rung_by_its_port() {
    let bench = Bench::new();
    bench.bring_up(&bench.queue());
    let queues = bench
        .device
        .lock()
        .unwrap()
        .queues
        .as_ref()
        .unwrap()
        .iter()
        .map(Option::is_some)
        .collect::<Vec<_>>();
    assert_eq!(queues, [false, true]);
    let port = u16::try_from(Space::Ports.window().start + bench.base(Space::Ports) + 4).unwrap();
    let ring = Ring {
        place: Place::Port(port),
        value: None,
    };
    assert!(bench.bells.0.lock().unwrap().contains(&ring));
    // Where KVM cannot, the exit rings; by memory as well.
    assert!(!bench.device.lock().unwrap().was_rung());
    let _ = bench.windows[0].write(bench.base(Space::Ports) + 4, &1u16.to_le_bytes());
    assert!(bench.device.lock().unwrap().was_rung());
    bench.put(0x2004, &1u16.to_le_bytes());
    assert!(bench.device.lock().unwrap().was_rung());
    let mut byte = [0];
    bench.put(0x1004, &[7]);
    bench.get(0x1004, &mut byte);
    assert_eq!(byte, [7], "the driver's byte of the configuration");
    // A reset takes everything back.
    bench.put(COMMON + 0x14, &[0]);
    assert_eq!(bench.status(), 0);
    assert!(bench.device.lock().unwrap().queues.is_none());
    assert!(bench.bells.0.lock().unwrap().is_empty());
}

#[test]
fn each_queue_has_its_message_and_a_masked_one_waits() {
    let bench = Bench::new();
    bench.bring_up(&bench.queue());
    bench.set_vector(2, 0x42, false);
    bench.signal(1);
    assert_eq!(bench.sent(), [0; 0], "MSI-X is off");
    bench.enable_msix(true);
    bench.signal(1);
    assert_eq!(bench.sent(), [0x42]);
    // The first queue was given no vector.
    bench.signal(0);
    assert_eq!(bench.sent(), [0; 0]);
    bench.set_vector(2, 0x43, true);
    bench.signal(1);
    bench.signal(1);
    let mut pending = [0; 4];
    bench.get(0x3800, &mut pending);
    assert_eq!((bench.sent().len(), pending[0]), (0, 4));
    bench.set_vector(2, 0x43, false);
    assert_eq!(bench.sent(), [0x43]);
}

#[test]
fn a_queue_in_use_stays_where_it_is() {
    let bench = Bench::new();
    bench.bring_up(&bench.queue());
    bench.put(COMMON + 0x20, &0xdead_0000u64.to_le_bytes());
    bench.put(COMMON + 0x18, &8u16.to_le_bytes());
    let mut address = [0; 8];
    bench.get(COMMON + 0x20, &mut address);
    assert_eq!(
        u64::from_le_bytes(address),
        bench.queue().setup().descriptors
    );
}

#[test]
fn bells_follow_the_ports_and_are_gone_with_them() {
    let bench = Bench::new();
    bench.bring_up(&bench.queue());
    bench.set_config(SLOT, 0x10, 0x4000);
    let places: Vec<_> = bench
        .bells
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|ring| ring.place)
        .collect();
    assert_eq!(places, [Place::Port(0x4000), Place::Port(0x4004)]);
    // Decoding off.
    bench.set_config(SLOT, 4, 0);
    assert!(bench.bells.0.lock().unwrap().is_empty());
    // Outside of what the bridge passes on, there is nobody.
    bench.set_config(SLOT, 4, 7);
    bench.set_config(SLOT, 0x10, 0x3f8);
    assert!(bench.bells.0.lock().unwrap().is_empty());
}

proptest! {
    /// Any traffic, by any way, of any width: no panic, and the device has queues exactly from an accepted DRIVER_OK to the next
    /// reset.
    #[test]
    fn any_traffic_leaves_a_device_in_order(
        accesses in proptest::collection::vec(
            (0..5usize, prop_oneof![0..0x60u64, 0..0x4000u64, any::<u64>()], 0..9usize, any::<[u8; 8]>(), any::<bool>()),
            0..200,
        ),
    ) {
        let bench = Bench::new();
        bench.set_config(SLOT, 4, 7);
        for (way, offset, length, data, small) in accesses {
            let mut data = data;
            if small {
                data = [data[0], 0, 0, 0, 0, 0, 0, 0];
            }
            let data = &mut data[..length];
            let (way, at): (&dyn Registers, u64) = match way {
                0 => (&bench.ports, offset % 8),
                1 => (&bench.ecam, offset % 0x10_0000),
                // Its capabilities.
                2 => (&bench.ecam, u64::from(SLOT) << 15 | (0x40 + offset % 0xc0)),
                3 => (&bench.windows[1], bench.base(Space::Memory) + offset % 0x4000),
                _ => (&bench.windows[0], bench.base(Space::Ports) + offset % 0x10),
            };
            let _ = way.write(at, data);
            way.read(at, data);
        }
        bench.set_config(SLOT, 0x14, u32::try_from(Space::Memory.window().start).unwrap() + 0x10_0000);
        bench.set_config(SLOT, 4, 7);
        let up = bench.status() & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK;
        prop_assert_eq!(bench.device.lock().unwrap().queues.is_some(), up);
    }
}

#[test]
fn a_device_comes_to_a_free_slot_and_stays() {
    let bench = Bench::new();
    let host = &bench.ports.0;
    let device = || -> Arc<dyn crate::pci::Function> {
        Arc::new(Pci::new(
            (2, 3),
            Arc::new(Mutex::new(Notes::new())),
            bench.memory.clone(),
            bench.sent.clone(),
            bench.bells.clone(),
        ))
    };
    assert_eq!(bench.config(3, 0), u32::MAX);
    let saved = host.save();
    assert!(host.insert(2, device()));
    assert_eq!(Host::slot(2), 3);
    assert_eq!(bench.config(3, 0), bench.config(SLOT, 0));
    // It answers where firmware would have put it, as soon as it is let to.
    let mut byte = [0xff];
    let window = &bench.windows[1];
    let at = u64::from(bench.config(3, 0x14) & !15) - Space::Memory.window().start;
    window.read(at, &mut byte);
    assert_eq!(byte, [0xff]);
    bench.set_config(3, 4, 2);
    window.read(at, &mut byte);
    assert_eq!(byte, [0]);
    assert!(!host.insert(2, device()) && !host.insert(0, device()));
    assert_eq!(host.restore(&saved), Ok(()));
    assert_eq!(bench.config(3, 0), bench.config(SLOT, 0));
}
