//! A driver's frames, honest and not, over a pair of sockets in the place of a TAP.
mod headers;
mod moves;
mod receiving;

use std::{
    io::ErrorKind,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::Arc,
    time::{Duration, Instant},
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Net, Options, Tap, config::feature};
use crate::{
    rate_limit::Rate,
    testing::virtqueue::{DriverQueue, Edges},
    virtio::{Confine, Device, Interrupt},
};

const RAM: usize = 4 << 20;
/// Where the buffers are.
const DATA: u64 = 0x10_0000;
const MAC: [u8; 6] = [6, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [6, 0, 0, 0, 0, 2];
const SIZE: u16 = 64;

/// A card with one pair of queues or more, its driver, and the other ends of its cables.
struct Bench {
    memory: GuestMemoryMmap,
    net: Net,
    hosts: Vec<UnixDatagram>,
    /// Two for each pair, and the control queue.
    queues: Vec<DriverQueue>,
    edges: Arc<Edges>,
    interrupt: Interrupt,
}

impl Bench {
    fn with(pairs: usize, pinned: bool, features: u64) -> Self {
        let mut bench = Self::idle(pairs, pinned);
        bench.activate(features);
        bench
    }

    fn idle(pairs: usize, pinned: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let (mut taps, mut hosts) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let (tap, host) = UnixDatagram::pair().unwrap();
            tap.set_nonblocking(true).unwrap();
            host.set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            taps.push(Tap::stand_in(OwnedFd::from(tap), Arc::default()));
            hosts.push(host);
        }
        let options = Options {
            taps,
            mac: MAC,
            pinned,
            mtu: 1500,
            id: "test".into(),
        };
        let mut net = Net::new(options, "net".into()).unwrap();
        let confine: Confine = Arc::new(|_| {});
        net.start_threads(&confine).unwrap();
        let (edges, line) = Edges::line();
        let queues = (0..2 * pairs as u64 + 1)
            .map(|index| DriverQueue::new(memory.clone(), 0x8000 * (index + 1), SIZE));
        Self {
            queues: queues.collect(),
            memory,
            net,
            hosts,
            edges,
            interrupt: Interrupt::new(line),
        }
    }

    fn activate(&mut self, features: u64) {
        let freeze = |queue: &DriverQueue| queue.setup().freeze(&self.memory, false).ok();
        let queues = self.queues.iter().map(freeze).collect();
        self.net.activate(features, queues, &self.interrupt);
    }

    /// Sends `frame` behind `header`, in pieces as long as `pieces` says.
    fn send(&mut self, header: &[u8; 12], frame: &[u8], pieces: &[u32]) {
        let whole = [header.as_slice(), frame].concat();
        self.memory.write_slice(&whole, GuestAddress(DATA)).unwrap();
        let (mut at, mut left) = (DATA, u32::try_from(whole.len()).unwrap());
        let mut readable = Vec::new();
        for piece in pieces.iter().copied().chain([u32::MAX]) {
            let piece = piece.min(left);
            if piece > 0 {
                readable.push((at, piece));
            }
            at += u64::from(piece);
            left -= piece;
        }
        self.queues[1].offer(&readable, &[]);
        self.ring(1);
    }

    fn ring(&self, index: usize) {
        self.net.doorbell(index).unwrap().write(1).unwrap();
    }

    /// Waits until a chain of queue `index` comes back.
    fn used(&mut self, index: usize) -> (u32, u32) {
        let queue = &mut self.queues[index];
        let mut used = None;
        self.edges.wait_until(|| {
            used = used.or_else(|| queue.used());
            used.is_some()
        });
        used.unwrap()
    }

    fn heard(&self) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        let length = self.hosts[0].recv(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }

    fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    /// Tells the card to use so many pairs; its answer.
    fn command(&mut self, bytes: &[u8]) -> u8 {
        let at = DATA + 0x8_0000;
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        let control = self.queues.len() - 1;
        let length = u32::try_from(bytes.len()).unwrap();
        self.queues[control].offer(&[(at, length)], &[(at + 0x1000, 1)]);
        self.ring(control);
        assert_eq!(self.used(control).1, 1);
        self.read(at + 0x1000, 1)[0]
    }
}

/// A frame of `length` bytes.
fn frame(source: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(source);
    frame.extend([8, 0]);
    frame.extend((0..=250).cycle().take(length.max(14) - 14));
    frame.truncate(length);
    frame
}

const PLAIN: [u8; 12] = [0; 12];
const ALL: u64 = feature::CSUM | feature::MTU | feature::HOST_TSO4 | feature::MRG_RXBUF;

#[test]
fn a_frame_goes_out_as_it_is_wherever_it_is_cut() {
    let mut bench = Bench::with(1, false, ALL);
    let out = frame(MAC, 1000);
    for pieces in [&[][..], &[12], &[3, 4, 5, 6, 7], &[26], &[12, 14, 1]] {
        bench.send(&PLAIN, &out, pieces);
        assert_eq!(bench.heard(), [&PLAIN[..], &out].concat(), "{pieces:?}");
        assert_eq!(bench.used(1).1, 0);
    }
    assert_eq!(bench.net.counters().tx_frames.get(), 5);
    assert_eq!(bench.net.counters().tx_bytes.get(), 5000);
}

#[test]
fn what_is_no_frame_is_dropped_and_counted_and_the_next_one_is_not() {
    let mut bench = Bench::with(1, true, ALL);
    let wrong_sum = [1, 0, 0, 0, 0, 0, 14, 0, 0xff, 0xff, 0, 0];
    bench.send(&PLAIN, &frame(MAC, 13), &[]);
    bench.send(&PLAIN, &frame(MAC, 1523), &[]);
    bench.send(&PLAIN, &frame(MAC, 66_000), &[]);
    bench.send(&wrong_sum, &frame(MAC, 100), &[]);
    for _ in 0..4 {
        bench.used(1);
    }
    bench.send(&PLAIN, &frame(OTHER, 100), &[]);
    bench.used(1);
    bench.send(&PLAIN, &frame(MAC, 100), &[]);
    assert_eq!(bench.heard().len(), 112);
    let counters = bench.net.counters();
    assert_eq!(counters.tx_malformed.get(), 4);
    assert_eq!(counters.tx_spoofed.get(), 1);
    assert_eq!(counters.tx_frames.get(), 1);
}

#[test]
fn a_host_that_takes_no_more_is_waited_for() {
    let mut bench = Bench::with(1, false, ALL);
    let out = frame(MAC, 100);
    for _ in 0..60 {
        bench.send(&PLAIN, &out, &[]);
    }
    for _ in 0..60 {
        assert_eq!(bench.heard(), [&PLAIN[..], &out].concat());
    }
    for _ in 0..60 {
        bench.used(1);
    }
    assert_eq!(bench.net.counters().tx_dropped.get(), 0);
}

#[test]
fn limits_hold_frames_back_and_are_changed_under_way() {
    let mut bench = Bench::with(1, false, ALL);
    let once = Rate {
        size: 1,
        refill: Duration::from_secs(100_000),
        burst: 0,
    };
    let handle = bench.net.handle();
    handle.limit_tx(None, Some(Some(once)));
    handle.limit_rx(None, Some(Some(once)));
    for _ in 0..2 {
        bench.send(&PLAIN, &frame(MAC, 100), &[]);
        bench.queues[0].offer(&[], &[(DATA + 0x4000, 2048)]);
        let sent = [&PLAIN[..], &frame(OTHER, 100)].concat();
        bench.hosts[0].send(&sent).unwrap();
    }
    bench.ring(0);
    bench.used(0);
    bench.used(1);
    let counters = bench.net.counters().clone();
    while counters.tx_throttled.get() == 0 || counters.rx_throttled.get() == 0 {
        std::thread::yield_now();
    }
    assert_eq!((counters.tx_frames.get(), counters.rx_frames.get()), (1, 1));
    handle.limit_tx(None, Some(None));
    handle.limit_rx(None, Some(None));
    bench.used(0);
    bench.used(1);
    assert_eq!(bench.heard().len(), 112);
}

#[test]
fn a_host_that_goes_away_is_a_link_that_is_down() {
    let mut bench = Bench::with(1, false, ALL | feature::STATUS);
    let status = |bench: &Bench| {
        let mut bytes = [0; 2];
        bench.net.config().read(6, &mut bytes);
        u16::from_le_bytes(bytes)
    };
    assert_eq!(status(&bench), 1);
    bench.hosts.clear();
    for _ in 0..3 {
        bench.send(&PLAIN, &frame(MAC, 100), &[]);
        bench.used(1);
    }
    assert_eq!(status(&bench), 0);
}

#[test]
fn a_pause_holds_everything_and_a_reset_gives_everything_back() {
    let mut bench = Bench::with(1, false, ALL);
    bench.net.pause();
    bench.send(&PLAIN, &frame(MAC, 100), &[]);
    bench.queues[0].offer(&[], &[(DATA + 0x4000, 2048)]);
    bench.ring(0);
    bench.hosts[0].set_nonblocking(true).unwrap();
    let silence = bench.hosts[0].recv(&mut [0; 10]).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    bench.hosts[0].set_nonblocking(false).unwrap();
    bench.net.resume();
    assert_eq!(bench.heard().len(), 112);
    let sent = [&PLAIN[..], &frame(OTHER, 60)].concat();
    bench.hosts[0].send(&sent).unwrap();
    assert_eq!(bench.used(0).1, 72);
    bench.net.reset();
    for (index, queue) in bench.queues.iter_mut().enumerate() {
        *queue = DriverQueue::new(bench.memory.clone(), 0x8000 * (index as u64 + 1), SIZE);
        // A new driver's rings are empty.
        for at in [0x4000, 0x5000] {
            let at = GuestAddress(0x8000 * (index as u64 + 1) + at);
            bench.memory.write_slice(&[0; 1024], at).unwrap();
        }
    }
    bench.activate(ALL);
    bench.send(&PLAIN, &frame(MAC, 200), &[]);
    assert_eq!(bench.heard().len(), 212);
}

#[test]
fn commands_are_done_or_refused() {
    let features = feature::CTRL_VQ | feature::MQ | feature::CTRL_MAC_ADDR;
    let mut bench = Bench::with(2, false, features);
    assert_eq!(bench.command(&[4, 0, 2, 0]), 0);
    assert_eq!(bench.command(&[4, 0, 1, 0]), 0);
    for wrong in [
        &[4, 0, 0, 0][..],
        &[4, 0, 3, 0],
        &[4, 0, 1],
        &[4, 1, 1, 0],
        &[3, 0],
        &[9, 9],
        &[1],
    ] {
        assert_eq!(bench.command(wrong), 1, "{wrong:?}");
    }
    assert_eq!(bench.command(&[1, 1, 2, 3, 4, 5, 6, 7]), 0);
    let mut mac = [0; 6];
    bench.net.config().read(0, &mut mac);
    assert_eq!(mac, [2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_driver_of_one_pair_finds_the_control_queue_behind_it() {
    let mut bench = Bench::idle(2, false);
    bench.queues.truncate(3);
    bench.activate(feature::CTRL_VQ | feature::CTRL_MAC_ADDR);
    assert_eq!(bench.command(&[1, 1, 2, 3, 4, 5, 6, 7]), 0);
    assert_eq!(bench.command(&[4, 0, 1, 0]), 1);
}

#[test]
fn each_pair_has_a_cable_of_its_own() {
    let mut bench = Bench::with(2, false, feature::CTRL_VQ | feature::MQ);
    bench.queues[2].offer(&[], &[(DATA, 2048)]);
    bench.ring(2);
    let sent = [&PLAIN[..], &frame(OTHER, 60)].concat();
    bench.hosts[1].send(&sent).unwrap();
    assert_eq!(bench.used(2), (0, 72));
}

#[test]
fn a_driver_that_breaks_the_rules_is_told_and_the_host_lives() {
    type Pieces = &'static [(u64, u32)];
    let breaks: [(usize, Pieces, Pieces); 5] = [
        (0, &[], &[(u64::MAX - 10, 2048)]),
        (0, &[(DATA, 100)], &[(DATA, 2048)]),
        (0, &[], &[(DATA, 11)]),
        (1, &[(DATA, 60)], &[(DATA, 1)]),
        (1, &[(0x3f_fff0, 100)], &[]),
    ];
    for (index, readable, writable) in breaks {
        let mut bench = Bench::idle(1, false);
        bench.queues[index].offer(readable, writable);
        bench.activate(ALL);
        let interrupt = bench.interrupt.clone();
        bench.edges.wait_until(|| interrupt.is_broken());
        bench.net.reset();
    }
}

#[test]
fn a_flood_does_not_keep_the_card_from_stopping() {
    let mut bench = Bench::with(1, false, ALL);
    let host = bench.hosts[0].try_clone().unwrap();
    host.set_nonblocking(true).unwrap();
    let until = Instant::now() + Duration::from_millis(300);
    let flood = std::thread::spawn(move || {
        let sent = [&PLAIN[..], &frame(OTHER, 100)].concat();
        while Instant::now() < until {
            let _ = host.send(&sent);
        }
    });
    for _ in 0..20 {
        bench.queues[0].offer(&[], &[(DATA, 2048)]);
        bench.ring(0);
        bench.net.pause();
        bench.net.resume();
    }
    bench.net.reset();
    flood.join().unwrap();
}
