//! Frames that come in, into the buffers that a driver left.
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::{super::config::feature, ALL, Bench, DATA, OTHER, PLAIN, SIZE, frame};

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
