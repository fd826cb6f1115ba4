//! Any bytes as the rings, frames and commands of a network card's driver: never a panic or a hang, and no frame that the host could not take.
#![no_main]

use std::{
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::{Arc, LazyLock, Mutex},
};

use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::{
    irq::{Controller, Line},
    virtio::{
        Confine, Device, Interrupt,
        net::{Net, Options, Tap},
        queue::Setup,
    },
};

const RAM: usize = 32 << 10;
/// Where the rings of each queue are, from the first one's on: input is what lies there too.
const QUEUE_BYTES: u64 = 0x800;
/// Bytes of the longest frame with its header and two tags.
const LONGEST: usize = 12 + 65535 + 14 + 8;
const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct Nowhere;

impl Controller for Nowhere {
    fn trigger(&self, _: u8) {}
}

/// A card whose threads live as long as the process: what starts them is not what this is about.
struct Bench {
    memory: GuestMemoryMmap,
    host: UnixDatagram,
    net: Net,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    let (tap, host) = UnixDatagram::pair().expect("two sockets");
    tap.set_nonblocking(true).expect("a socket");
    host.set_nonblocking(true).expect("a socket");
    let options = Options {
        taps: vec![Tap::stand_in(OwnedFd::from(tap), Default::default())],
        mac: ADDRESS,
        pinned: true,
        mtu: 1500,
        id: "fuzz".into(),
    };
    let mut net = Net::new(options, "net".into()).expect("a card");
    let confine: Confine = Arc::new(|_| {});
    net.start_threads(&confine).expect("a thread");
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("some memory");
    Mutex::new(Bench { memory, host, net })
});

fuzz_target!(|bytes: &[u8]| {
    let Some((head, bytes)) = bytes.split_at_checked(9) else {
        return;
    };
    let how = head[0];
    let features = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
    let bench = &mut *BENCH.lock().expect("nobody panicked");
    let mut ram = [0; RAM];
    let length = bytes.len().min(RAM);
    ram[..length].copy_from_slice(&bytes[..length]);
    let written = bench.memory.write_slice(&ram, GuestAddress(0));
    written.expect("it fits");
    for length in [12, 26, 100, 1600] {
        // The socket may be full of what the last input left.
        let _ = bench.host.send(&vec![how; length]);
    }
    let queues = (0..3).map(|index| {
        let at = index * QUEUE_BYTES;
        let queue = Setup {
            size: 32,
            descriptors: at,
            available: at + 0x400,
            used: at + 0x500,
            ready: true,
            ..Setup::new(64)
        };
        queue.freeze(&bench.memory, how & 1 != 0).ok()
    });
    let line = Line::new(Arc::new(Nowhere), 0);
    let interrupt = Interrupt::new(line);
    bench.net.activate(features, queues.collect(), &interrupt);
    // A pause is over when the thread has looked at everything once more.
    for _ in 0..1 + (how >> 6) {
        bench.net.pause();
        bench.net.resume();
        if let Some(bell) = bench.net.doorbell(0) {
            bell.write(1).expect("a bell rings");
        }
        std::thread::yield_now();
    }
    bench.net.reset();
    let mut frame = vec![0; LONGEST + 1];
    while let Ok(length) = bench.host.recv(&mut frame) {
        assert!(
            (26..=LONGEST).contains(&length),
            "a frame of {length} bytes"
        );
        assert_eq!(frame[18..24], ADDRESS, "from another address");
        assert!(frame[0] <= 1, "a flag that is not the driver's");
        let field = |at: usize| usize::from(u16::from_le_bytes([frame[at], frame[at + 1]]));
        let sum_ends = field(6) + field(8) + 2;
        assert!(frame[0] == 0 || sum_ends <= length - 12, "a sum outside");
        assert!(
            frame[1] == 0 || field(4) >= 8,
            "pieces of {} bytes",
            field(4)
        );
    }
});
