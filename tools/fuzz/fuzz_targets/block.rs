//! Any bytes as the rings and requests of a disk's driver: never a panic or a hang, and the image keeps its size.
#![no_main]

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::{
    irq::{Controller, Line},
    virtio::{
        Confine, Device, Interrupt,
        block::{Block, Cache, Choice, Image, Options},
        queue::Setup,
    },
};

const RAM: usize = 32 << 10;
const IMAGE: usize = 64 << 10;
/// Where the rings are: input is what lies there too.
const RINGS: (u64, u64, u64) = (0, 0x400, 0x500);

struct Nowhere;

impl Controller for Nowhere {
    fn trigger(&self, _: u8) {}
}

/// A disk whose thread lives as long as the process: what starts it is not what this is about.
struct Bench {
    memory: GuestMemoryMmap,
    image: File,
    disk: Block,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    let image = File::from(memfd_create("image", MemfdFlags::CLOEXEC).expect("a file"));
    image.set_len(IMAGE as u64).expect("room");
    let options = Options {
        image: Image::cached(image.try_clone().expect("a descriptor")),
        read_only: false,
        cache: Cache::WriteBack,
        id: "fuzz".into(),
        serial: "fuzz".into(),
        queues: 1,
    };
    let mut disk = Block::new(options, "disk".into(), Choice::Best).expect("a disk");
    let confine: Confine = Arc::new(|_| {});
    disk.start_threads(&confine).expect("a thread");
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("some memory");
    Mutex::new(Bench {
        memory,
        image,
        disk,
    })
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&features, bytes)) = bytes.split_first() else {
        return;
    };
    let mut bench = BENCH.lock().expect("nobody panicked");
    let mut ram = [0; RAM];
    let length = bytes.len().min(RAM);
    ram[..length].copy_from_slice(&bytes[..length]);
    bench
        .memory
        .write_slice(&ram, GuestAddress(0))
        .expect("it fits");
    bench.image.write_all_at(&[0x5a; IMAGE], 0).expect("room");
    let (descriptors, available, used) = RINGS;
    let queue = Setup {
        size: 32,
        descriptors,
        available,
        used,
        ready: true,
        ..Setup::new(256)
    };
    let queue = queue
        .freeze(&bench.memory, features & 1 != 0)
        .expect("a sound queue");
    let line = Line::new(Arc::new(Nowhere), 0);
    bench
        .disk
        .activate(0, vec![Some(queue)], &Interrupt::new(line));
    // It looks by itself once it has the queue. What it has not begun by then is not served.
    let requests = bench.disk.counters().clone();
    let mut served = u64::MAX;
    while served != requests.requests.get() {
        served = requests.requests.get();
        thread::sleep(Duration::from_micros(50));
    }
    if features & 2 != 0 {
        bench.disk.pause();
        bench.disk.resume();
    }
    bench.disk.reset();
    let size = bench.image.metadata().expect("it is open").len();
    assert_eq!(size, IMAGE as u64, "the image has another size");
});
