//! Any bytes as the frames of a guest's, from the channel to sockets on this host's loopback: never a panic or a hang, and never more
//! flows than there may be.
#![no_main]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use vmm::usernet::{Counters, Network, Options, plan, policy::Policy};

/// As the seeds have it.
const MAC: [u8; 6] = [0x06, 0, 0xac, 0x10, 0, 2];
const FLOWS: u64 = 64;
/// What frames may be sent to: a seed's ports are replaced by the real ones.
const PORT: u16 = 0x4141;

/// A network whose thread lives as long as the process.
struct Bench {
    frames: OwnedFd,
    counters: Arc<Counters>,
    features: Arc<AtomicU64>,
    server: TcpListener,
    port: u16,
    streams: Vec<TcpStream>,
    _datagrams: UdpSocket,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    // One port for both, so that one number in a frame finds either.
    let (server, datagrams) = loop {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = server.local_addr().expect("it is bound");
        if let Ok(datagrams) = UdpSocket::bind(address) {
            break (server, datagrams);
        }
    };
    server.set_nonblocking(true).expect("a socket");
    let port = server.local_addr().expect("it is bound").port();
    let rules = ["deny".to_owned(), format!("allow=127.0.0.1:{port}")];
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| rule.parse().expect("a rule"))
        .collect();
    let features = Arc::new(AtomicU64::new(0));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (frames, device) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("two sockets");
    let options = Options {
        mac: MAC,
        mtu: plan::MTU,
        features: features.clone(),
        ipv6: true,
        published: Vec::new(),
        resolvers: Vec::new(),
        hostname: Some("fuzz".into()),
        search: vec!["example.org".into()],
        policy: Policy::new(&rules),
        flows: usize::try_from(FLOWS).expect("a small number"),
    };
    let network = Network::new(options, device).expect("a network");
    let counters = network.counters().clone();
    thread::spawn(|| network.run());
    Mutex::new(Bench {
        frames,
        counters,
        features,
        server,
        port,
        streams: Vec::new(),
        _datagrams: datagrams,
    })
});

impl Bench {
    /// Takes what has come for the guest, and plays the host's side.
    fn go_on(&mut self) {
        let mut frame = [0; 70_000];
        while recv(&self.frames, &mut frame[..], RecvFlags::DONTWAIT)
            .is_ok_and(|(_, bytes)| bytes > 0)
        {}
        while let Ok((stream, _)) = self.server.accept() {
            stream.set_nonblocking(true).expect("a socket");
            self.streams.push(stream);
        }
        for stream in &mut self.streams {
            let mut data = [0; 512];
            if let Ok(bytes) = stream.read(&mut data) {
                // Nobody waits for it.
                let _ = stream.write(&data[..bytes]);
            }
        }
    }

    fn put(&mut self, message: &[u8]) {
        let mut message = message.to_vec();
        for at in 12..message.len().saturating_sub(1) {
            if message[at..at + 2] == PORT.to_be_bytes() {
                message[at..at + 2].copy_from_slice(&self.port.to_be_bytes());
            }
        }
        while send(&self.frames, &message, SendFlags::NOSIGNAL).is_err() {
            self.go_on();
            thread::sleep(Duration::from_micros(50));
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&features, mut bytes)) = bytes.split_first() else {
        return;
    };
    let mut bench = BENCH.lock().expect("nobody panicked");
    // GUEST_CSUM, and what needs it.
    let features = [0, 1 << 1, 1 << 1 | 1 << 7 | 1 << 8][usize::from(features % 3)];
    bench.features.store(features, Ordering::Relaxed);
    let mut expected = bench.counters.frames_from_guest.get();
    // Each message behind its length.
    while let Some(([low, high], rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (message, rest) = rest.split_at(length.min(rest.len()));
        if !message.is_empty() {
            bench.put(message);
            expected += 1;
        }
        bytes = rest;
    }
    for _ in 0..200_000 {
        bench.go_on();
        let counters = &bench.counters;
        if counters.frames_from_guest.get() >= expected {
            // One may be counted that is not yet in the table.
            assert!(
                counters.opened.get() - counters.closed.get() <= FLOWS + 1,
                "{counters:?}"
            );
            bench.streams.clear();
            return;
        }
        thread::sleep(Duration::from_micros(50));
    }
    panic!("frames are left: {:?}", bench.counters);
});
