//! Any bytes as the rings and requests of a balloon's driver, on any of its queues: never a panic or a hang.
#![no_main]

use std::sync::{Arc, LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::{
    irq::{Controller, Line},
    virtio::{
        Confine, Device, Interrupt,
        balloon::{Balloon, Options},
        queue::Setup,
    },
};

const RAM: usize = 32 << 10;
/// Where the rings are: input is what lies there too, until the balloon has given that page away.
const RINGS: (u64, u64, u64) = (0, 0x400, 0x500);

struct Nowhere;

impl Controller for Nowhere {
    fn trigger(&self, _: u8) {}
}

/// A balloon whose thread lives as long as the process: what starts it is not what this is about.
struct Bench {
    memory: GuestMemoryMmap,
    balloon: Balloon,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    let options = Options {
        hinting: true,
        reporting: true,
        ..Options::default()
    };
    let mut balloon = Balloon::new(options).expect("a balloon");
    let confine: Confine = Arc::new(|_| {});
    balloon.start_threads(&confine).expect("a thread");
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("some memory");
    Mutex::new(Bench { memory, balloon })
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else {
        return;
    };
    let mut bench = BENCH.lock().expect("nobody panicked");
    let mut ram = [0; RAM];
    let length = bytes.len().min(RAM);
    ram[..length].copy_from_slice(&bytes[..length]);
    let write = bench.memory.write_slice(&ram, GuestAddress(0));
    write.expect("it fits");
    let (descriptors, available, used) = RINGS;
    let setup = Setup {
        size: 32,
        descriptors,
        available,
        used,
        ready: true,
        ..Setup::new(256)
    };
    let queue = setup.freeze(&bench.memory, choice & 1 != 0);
    let mut queues: Vec<_> = bench.balloon.queue_sizes().iter().map(|_| None).collect();
    let place = usize::from(choice >> 1) % queues.len();
    queues[place] = Some(queue.expect("a sound queue"));
    let features = bench.balloon.features();
    let line = Line::new(Arc::new(Nowhere), 0);
    bench
        .balloon
        .activate(features, queues, &Interrupt::new(line));
    bench.balloon.handle().start_hints(choice & 0x80 != 0);
    // A pause begins when the thread has taken the queue up, and looked at it as far as it got.
    bench.balloon.pause();
    bench.balloon.handle().set_interval(u32::from(choice >> 6));
    bench.balloon.resume();
    let counters = bench.balloon.counters().clone();
    let served = || counters.inflations.get() + counters.statistics.get() + counters.hints.get();
    let mut before = u64::MAX;
    while before != served() {
        before = served();
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    bench.balloon.reset();
});
