//! A driver's frames, honest and not, over a pair of sockets in the place of a TAP.
mod moves;

use std::{
    io::ErrorKind,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    Net, Options, Tap,
    config::feature,
    header::{self, PREFIX, Refused, Terms},
};
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
            taps.push(Tap::stand_in(OwnedFd::from(tap)));
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
fn a_frame_comes_in_over_as_many_buffers_as_it_takes() {
    let mut bench = Bench::with(1, false, ALL | feature::GUEST_TSO4);
    for buffer in 0..u64::from(SIZE) {
        bench.queues[0].offer(&[], &[(DATA + 0x800 * buffer, 0x500)]);
    }
    bench.ring(0);
    let big = frame(OTHER, 3000);
    for _ in 0..2 {
        let sent = bench.hosts[0].send(&[&PLAIN[..], &big].concat()).unwrap();
        assert_eq!(sent, 3012);
    }
    for first in [0u32, 3] {
        assert_eq!(bench.used(0), (first, 0x500));
        assert_eq!(bench.used(0), (first + 1, 0x500));
        assert_eq!(bench.used(0), (first + 2, 3012 - 2 * 0x500));
        let at = DATA + 0x800 * u64::from(first);
        assert_eq!(bench.read(at + 10, 2), [3, 0]);
        let whole = [
            bench.read(at + 12, 0x500 - 12),
            bench.read(at + 0x800, 0x500),
            bench.read(at + 0x1000, 3012 - 2 * 0x500),
        ];
        assert_eq!(whole.concat(), big);
    }
}

#[test]
fn without_merging_each_frame_has_a_chain_of_its_own() {
    let mut bench = Bench::with(1, false, 0);
    let halves = |at: u64| [(at, 12u32), (at + 0x1000, 1518)];
    bench.queues[0].offer(&[], &halves(DATA));
    bench.queues[0].offer(&[], &halves(DATA + 0x4000));
    bench.ring(0);
    // The first is longer than its buffers: it is dropped, and they wait for the next.
    for length in [1600, 1518, 60] {
        let sent = [&PLAIN[..], &frame(OTHER, length)].concat();
        bench.hosts[0].send(&sent).unwrap();
    }
    assert_eq!(bench.used(0), (0, 1530));
    assert_eq!(bench.used(0), (2, 72));
    assert_eq!(bench.read(DATA + 10, 2), [1, 0]);
    assert_eq!(bench.read(DATA + 0x1000, 1518), frame(OTHER, 1518));
    assert_eq!(bench.net.counters().rx_dropped.get(), 1);
}

#[test]
fn a_guest_without_buffers_is_waited_for() {
    let mut bench = Bench::with(1, false, 0);
    let sent = [&PLAIN[..], &frame(OTHER, 100)].concat();
    bench.hosts[0].send(&sent).unwrap();
    while bench.net.counters().rx_starved.get() == 0 {
        std::thread::yield_now();
    }
    let waits = bench.net.counters().waits.get();
    bench.queues[0].offer(&[], &[(DATA, 2048)]);
    bench.ring(0);
    assert_eq!(bench.used(0), (0, 112));
    assert!(bench.net.counters().waits.get() <= waits + 3);
}

#[test]
fn a_guest_that_leaves_few_buffers_gets_what_has_room_in_them() {
    let mut bench = Bench::with(1, false, ALL | feature::GUEST_TSO4);
    bench.queues[0].offer(&[], &[(DATA, 2048)]);
    bench.ring(0);
    let sent = [&PLAIN[..], &frame(OTHER, 100)].concat();
    bench.hosts[0].send(&sent).unwrap();
    assert_eq!(bench.used(0), (0, 112));
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

fn terms(features: u64) -> Terms {
    Terms {
        features,
        mtu: 1500,
        source: None,
    }
}

/// The header of a TCP packet that is to be cut.
fn long(kind: u8, header_length: u16, size: u16, start: u16, offset: u16) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..2].copy_from_slice(&[1, kind]);
    for (at, value) in [(2, header_length), (4, size), (6, start), (8, offset)] {
        prefix[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    prefix
}

#[test]
fn a_header_asks_for_what_was_agreed_on() {
    let judge = |mut prefix: [u8; PREFIX], length, features| {
        header::judge(&mut prefix, length, &terms(features))
    };
    let agreed = feature::CSUM | feature::HOST_TSO4 | feature::HOST_ECN;
    assert_eq!(judge(long(1, 54, 1448, 34, 16), 60_000, agreed), Ok(()));
    assert_eq!(judge(long(0x81, 54, 1448, 34, 16), 60_000, agreed), Ok(()));
    for (prefix, features) in [
        (long(1, 54, 1448, 34, 16), feature::CSUM),
        (long(4, 54, 1448, 34, 16), agreed),
        (long(5, 54, 1448, 34, 6), agreed),
        (long(3, 54, 1448, 34, 6), agreed),
        (long(1, 54, 0, 34, 16), agreed),
        (long(1, 54, 7, 34, 16), agreed),
        (long(1, 54, 0xffff, 34, 16), agreed),
        (long(1, 60_001, 1448, 34, 16), agreed),
        (long(1, 54, 1448, 34, 0xffff), agreed),
        (long(1, 54, 1448, 3, 16), agreed),
        (long(0x81, 54, 1448, 34, 16), agreed & !feature::HOST_ECN),
    ] {
        assert_eq!(judge(prefix, 60_000, features), Err(Refused::Header));
    }
    assert_eq!(judge(long(0, 0, 0, 34, 16), 60, 0), Err(Refused::Header));
}

#[test]
fn buffers_in_more_pieces_than_a_call_takes_are_room_all_the_same() {
    let mut bench = Bench::with(1, false, ALL | feature::GUEST_TSO4);
    // 1200 pieces of 16 bytes, in two tables.
    let entry = |index: u64, flags: u16| {
        let words = 16 | u64::from(flags) << 32 | (index + 1) << 48;
        [DATA + 16 * index, words].map(u64::to_le_bytes).concat()
    };
    for (table, at) in [(0u64, 0x20_0000u64), (1, 0x20_8000)] {
        for index in 0..600 {
            let flags = if index < 599 { 3 } else { 2 };
            let bytes = entry(600 * table + index, flags);
            let place = GuestAddress(at + 16 * index);
            bench.memory.write_slice(&bytes, place).unwrap();
            let next = (index + 1).to_le_bytes();
            let place = GuestAddress(at + 16 * index + 14);
            bench.memory.write_slice(&next[..2], place).unwrap();
        }
        let head = u16::try_from(table).unwrap();
        bench.queues[0].describe(head, at, 600 * 16, 4, 0);
        bench.queues[0].offer_head(head);
    }
    bench.ring(0);
    for head in 0..2 {
        let sent = [&PLAIN[..], &frame(OTHER, 5000)].concat();
        bench.hosts[0].send(&sent).unwrap();
        assert_eq!(bench.used(0), (head, 5012));
    }
}

proptest! {
    /// Whatever passes can be done: the checksum lies in the frame, pieces are of a size that there is.
    #[test]
    fn what_passes_can_be_done(bytes: [u8; PREFIX], length in 0..70_000usize, features: u64) {
        let mut prefix = bytes;
        if header::judge(&mut prefix, length, &terms(features)).is_ok() {
            let field = |at: usize| usize::from(u16::from_le_bytes([prefix[at], prefix[at + 1]]));
            prop_assert!((14..=header::MAX_FRAME).contains(&length));
            prop_assert!(prefix[0] <= 1);
            prop_assert!(prefix[0] == 0 || field(6) + field(8) + 2 <= length);
            prop_assert!(prefix[1] == 0 || (prefix[0] == 1 && field(4) >= 8 && field(2) <= length));
            prop_assert_eq!(&prefix[12..], &bytes[12..]);
        }
    }

    /// Frames of any size into buffers of any size, in order and whole.
    #[test]
    fn frames_come_in_whole(
        buffers in proptest::collection::vec(12..4096u32, 20..60),
        lengths in proptest::collection::vec(14..3000usize, 1..8),
    ) {
        let mut bench = Bench::with(1, false, ALL | feature::GUEST_TSO4);
        let mut places = Vec::new();
        for (index, length) in buffers.iter().enumerate() {
            let at = DATA + 0x1000 * index as u64;
            places.push(at);
            bench.queues[0].offer(&[], &[(at, *length)]);
        }
        bench.ring(0);
        let mut room: usize = buffers.iter().map(|length| *length as usize).sum();
        for length in lengths {
            if room < length + 12 + 4096 {
                break;
            }
            let sent = frame(OTHER, length);
            bench.hosts[0].send(&[&PLAIN[..], &sent].concat()).unwrap();
            let (mut got, mut count, mut expected) = (Vec::new(), 0u16, 1u16);
            while count < expected {
                let (head, written) = bench.used(0);
                let at = places[head as usize];
                let bytes = bench.read(at, written as usize);
                if count == 0 && bytes.len() >= 12 {
                    expected = u16::from_le_bytes([bytes[10], bytes[11]]);
                }
                room -= buffers[head as usize] as usize;
                got.extend(bytes);
                count += 1;
            }
            prop_assert_eq!(&got[12..], &sent[..]);
        }
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
