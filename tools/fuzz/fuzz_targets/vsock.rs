//! Any bytes as the rings and packets of a socket device's driver, beside a server and a client on the host: never a panic or a hang, and
//! no connection outlives its driver.
#![no_main]

use std::{
    io::Write,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use rustix::{
    fs::{Mode, OFlags},
    net::SendFlags,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::{
    irq::{Controller, Line},
    virtio::{
        Confine, Device, Interrupt,
        queue::Setup,
        vsock::{Options, Vsock},
    },
};

const RAM: usize = 32 << 10;
/// Where each queue's rings are: input is what lies there too.
const RINGS: [(u64, u64, u64); 3] = [
    (0, 0x100, 0x180),
    (0x300, 0x400, 0x480),
    (0x600, 0x700, 0x780),
];

struct Nowhere;

impl Controller for Nowhere {
    fn trigger(&self, _: u8) {}
}

/// A device whose thread lives as long as the process: what starts it is not what this is about.
struct Bench {
    memory: GuestMemoryMmap,
    device: Vsock,
    socket: PathBuf,
    server: UnixListener,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("fuzz-vsock-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let socket = directory.join("v");
    let listener = UnixListener::bind(&socket).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let server = UnixListener::bind(directory.join("v_1")).expect("a socket");
    server.set_nonblocking(true).expect("a socket");
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let options = Options {
        cid: 3,
        listener: listener.into(),
        directory: rustix::fs::open(&directory, flags, Mode::empty()).expect("it is there"),
        name: "v".into(),
        limit: 64,
    };
    let mut device = Vsock::new(options).expect("a device");
    let confine: Confine = Arc::new(|_| {});
    device.start_threads(&confine).expect("a thread");
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("some memory");
    Mutex::new(Bench {
        memory,
        device,
        socket,
        server,
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
    let written = bench.memory.write_slice(&ram, GuestAddress(0));
    written.expect("it fits");
    let queues = RINGS.map(|(descriptors, available, used)| {
        let queue = Setup {
            size: 16,
            descriptors,
            available,
            used,
            ready: true,
            ..Setup::new(256)
        };
        let frozen = queue.freeze(&bench.memory, features & 1 != 0);
        Some(frozen.expect("a sound queue"))
    });
    let line = Line::new(Arc::new(Nowhere), 0);
    bench
        .device
        .activate(0, queues.into(), &Interrupt::new(line));
    // A client that waits, and is gone at the end.
    let client = (features & 2 != 0).then(|| {
        let mut client = UnixStream::connect(&bench.socket).expect("it listens");
        let greeted = client.write_all(b"CONNECT 1 wait=60000\nand data");
        greeted.expect("it is listened to");
        client
    });
    // It looks by itself once it has the queues. What it has not begun by then is not served.
    let counters = bench.device.counters().clone();
    let mut seen = u64::MAX;
    while seen != counters.waits.get() {
        seen = counters.waits.get();
        thread::sleep(Duration::from_micros(50));
        while let Ok((stream, _)) = bench.server.accept() {
            // Nobody waits for it, and the guest may be gone.
            let _ = rustix::net::send(&stream, &[0x5a; 300], SendFlags::NOSIGNAL);
        }
    }
    if features & 4 != 0 {
        bench.device.pause();
        bench.device.progress().expect("it is paused");
        bench.device.resume();
    }
    bench.device.reset();
    drop(client);
    let left = || counters.opened.get() - counters.closed.get();
    for _ in 0..20_000 {
        if left() == 0 {
            return;
        }
        thread::sleep(Duration::from_micros(100));
    }
    panic!("{} connections are left", left());
});
