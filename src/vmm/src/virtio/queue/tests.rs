//! Rings as drivers leave them, honest and not.
use proptest::prelude::*;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Broken, Chain, MAX_SEGMENTS, Progress, Queue, Segment, Setup};
use crate::testing::virtqueue::{DriverQueue, flag};

const BASE: u64 = 0x1000;
const TABLE: u64 = 0x2_0000;

fn bench(size: u16) -> (GuestMemoryMmap, DriverQueue, Queue) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let driver = DriverQueue::new(memory.clone(), BASE, size);
    let queue = driver.setup().freeze(&memory, false).unwrap();
    (memory, driver, queue)
}

fn pop(queue: &mut Queue) -> Result<Option<Chain>, Broken> {
    let mut chain = Chain::default();
    Ok(queue.pop(&mut chain)?.then_some(chain))
}

/// A descriptor of a table in guest memory.
fn describe(memory: &GuestMemoryMmap, index: u64, flags: u16, next: u16) {
    let words = 512 | u64::from(flags) << 32 | u64::from(next) << 48;
    let at = TABLE + 16 * index;
    memory.write_obj(0x8_0000u64, GuestAddress(at)).unwrap();
    memory.write_obj(words, GuestAddress(at + 8)).unwrap();
}

#[test]
fn chains_come_in_order_with_what_to_read_before_what_to_write() {
    let (_, mut driver, mut queue) = bench(8);
    assert!(pop(&mut queue).unwrap().is_none());
    let first = driver.offer(&[(0x100, 16)], &[(0x200, 512), (0x400, 1)]);
    let second = driver.offer(&[(0x300, 4)], &[]);
    let chain = pop(&mut queue).unwrap().unwrap();
    assert_eq!(
        (chain.head, chain.readable.len(), chain.writable.len()),
        (first, 1, 2)
    );
    assert_eq!(chain.writable[0].length, 512);
    let chain = pop(&mut queue).unwrap().unwrap();
    assert_eq!(
        (chain.head, chain.readable.len(), chain.writable.len()),
        (second, 1, 0)
    );
    assert!(pop(&mut queue).unwrap().is_none());
    queue.push(second, 0).unwrap();
    queue.push(first, 513).unwrap();
    assert_eq!(driver.used(), Some((second.into(), 0)));
    assert_eq!(driver.used(), Some((first.into(), 513)));
    assert_eq!(queue.push(8, 0), Err(Broken));
}

#[test]
fn a_queue_of_1024_entries_goes_round_whole() {
    let (_, mut driver, mut queue) = bench(1024);
    for round in 0..3 {
        let heads: Vec<_> = (0..1024)
            .map(|_| driver.offer(&[(0x100, 16)], &[]))
            .collect();
        for head in heads {
            assert_eq!(pop(&mut queue).unwrap().unwrap().head, head);
            queue.push(head, round).unwrap();
            assert_eq!(driver.used(), Some((head.into(), round)));
        }
        assert!(pop(&mut queue).unwrap().is_none());
    }
}

#[test]
fn a_table_of_descriptors_is_a_chain() {
    let (memory, mut driver, mut queue) = bench(8);
    describe(&memory, 0, flag::NEXT, 1);
    describe(&memory, 1, flag::WRITE, 0);
    driver.describe(3, TABLE, 32, flag::INDIRECT, 0);
    driver.offer_head(3);
    let chain = pop(&mut queue).unwrap().unwrap();
    assert_eq!(
        (chain.head, chain.readable.len(), chain.writable.len()),
        (3, 1, 1)
    );
}

#[test]
fn chains_against_the_rules_break_the_queue() {
    type Spoil = fn(&GuestMemoryMmap, &mut DriverQueue);
    let spoils: [Spoil; 8] = [
        // More requests than entries.
        |_, driver| driver.claim(9),
        // A head that is no entry.
        |_, driver| driver.offer_head(8),
        // A loop.
        |_, driver| {
            driver.describe(0, 0, 1, flag::NEXT, 1);
            driver.describe(1, 0, 1, flag::NEXT, 0);
            driver.offer_head(0);
        },
        // On to what is no entry.
        |_, driver| {
            driver.describe(0, 0, 1, flag::NEXT, 8);
            driver.offer_head(0);
        },
        // Something to read behind something to write.
        |_, driver| {
            driver.describe(0, 0, 1, flag::NEXT | flag::WRITE, 1);
            driver.describe(1, 0, 1, 0, 0);
            driver.offer_head(0);
        },
        // A table in a table.
        |memory, driver| {
            describe(memory, 0, flag::INDIRECT, 0);
            driver.describe(0, TABLE, 16, flag::INDIRECT, 0);
            driver.offer_head(0);
        },
        // A table that is not there.
        |_, driver| {
            driver.describe(0, u64::MAX - 15, 16, flag::INDIRECT, 0);
            driver.offer_head(0);
        },
        // A table with more than one request may have.
        |memory, driver| {
            let count = u16::try_from(MAX_SEGMENTS + 1).unwrap();
            (0..count).for_each(|index| describe(memory, index.into(), flag::NEXT, index + 1));
            driver.describe(0, TABLE, 16 * (u32::from(count) + 1), flag::INDIRECT, 0);
            driver.offer_head(0);
        },
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let (memory, mut driver, mut queue) = bench(8);
        spoil(&memory, &mut driver);
        assert_eq!(pop(&mut queue).err(), Some(Broken), "number {number}");
    }
}

#[test]
fn no_queue_lies_outside_of_memory_or_askew() {
    let (memory, driver, _) = bench(8);
    let good = driver.setup();
    assert!(good.freeze(&memory, true).is_ok());
    let mut bad = vec![good; 8];
    bad[0].size = 0;
    bad[1].size = 6;
    bad[2].size = 16;
    bad[3].ready = false;
    bad[4].descriptors = (1 << 20) - 64;
    bad[5].available += 1;
    bad[6].used = u64::MAX - 3;
    bad[7].descriptors += 8;
    for setup in bad {
        assert_eq!(setup.freeze(&memory, true).err(), Some(Broken), "{setup:?}");
    }
}

#[test]
fn a_queue_goes_on_where_another_has_got_to() {
    let (memory, mut driver, mut queue) = bench(8);
    for round in 0..10u16 {
        let first = driver.offer(&[(0x100, 16)], &[]);
        let second = driver.offer(&[(0x100, 16)], &[]);
        let chain = pop(&mut queue).unwrap().unwrap();
        assert_eq!(chain.head, first);
        queue.push(first, 1).unwrap();
        // One request was taken, and put back.
        pop(&mut queue).unwrap().unwrap();
        queue.put_back();
        let progress = queue.progress();
        assert_eq!(progress.next_available, 2 * round + 1);
        assert_eq!(progress.next_used, 2 * round + 1);
        queue = driver.setup().freeze_at(&memory, false, progress).unwrap();
        assert_eq!(queue.progress(), progress);
        assert_eq!(pop(&mut queue).unwrap().unwrap().head, second);
        assert!(pop(&mut queue).unwrap().is_none());
        queue.push(second, 2).unwrap();
        assert_eq!(driver.used(), Some((first.into(), 1)));
        assert_eq!(driver.used(), Some((second.into(), 2)));
        assert_eq!(driver.used(), None);
    }
}

#[test]
fn a_driver_that_asks_until_nothing_came_misses_no_interrupt() {
    let (memory, mut driver, _) = bench(8);
    let mut queue = driver.setup().freeze(&memory, true).unwrap();
    let mut give_back = |driver: &mut DriverQueue| {
        driver.offer(&[(0x100, 16)], &[]);
        let chain = pop(&mut queue).unwrap().unwrap();
        queue.push(chain.head, 0).unwrap();
        queue.wants_interrupt().unwrap()
    };
    assert!(!driver.want_interrupt());
    assert!(give_back(&mut driver));
    // One that comes while nobody waits. Who asks after that hears of it by asking, and never of the next.
    assert!(!give_back(&mut driver));
    assert!(driver.used().is_some());
    assert!(driver.want_interrupt());
    assert!(driver.used().is_some());
    assert!(!give_back(&mut driver));
    // Who has taken them and asks again does.
    assert!(driver.used().is_some());
    assert!(!driver.want_interrupt());
    assert!(give_back(&mut driver));
}

#[test]
fn no_device_gets_further_than_a_queue_is_long() {
    let (memory, driver, _) = bench(8);
    for (next_available, next_used, good) in [
        (0, 0, true),
        (8, 0, true),
        (9, 0, false),
        (0, 1, false),
        (3, 0xfffb, true),
        (4, 0xfffb, false),
        (0xffff, 0, false),
    ] {
        let progress = Progress {
            next_available,
            next_used,
        };
        let frozen = driver.setup().freeze_at(&memory, true, progress);
        assert_eq!(frozen.is_ok(), good, "{progress:?}");
    }
}

proptest! {
    /// Any bytes in the rings and in a table: an end is reached, and no chain is longer than it may be.
    #[test]
    fn any_ring_comes_to_an_end(
        rings in proptest::collection::vec(any::<u8>(), 0x100),
        table in proptest::collection::vec(any::<u8>(), 0x100),
        size in prop_oneof![Just(1u16), Just(8), Just(16)],
        event_idx in any::<bool>(),
        claimed in 0..20u16,
    ) {
        let (memory, mut driver, _) = bench(size);
        memory.write_slice(&rings, GuestAddress(BASE)).unwrap();
        memory.write_slice(&rings, GuestAddress(BASE + 0x4000)).unwrap();
        memory.write_slice(&table, GuestAddress(TABLE)).unwrap();
        if rings[0] & 1 != 0 {
            driver.describe(0, TABLE, 0x100, flag::INDIRECT, 0);
        }
        driver.claim(claimed);
        let mut queue = driver.setup().freeze(&memory, event_idx).unwrap();
        let mut popped = 0;
        while let Ok(Some(chain)) = pop(&mut queue) {
            popped += 1;
            prop_assert!(chain.readable.len() + chain.writable.len() <= MAX_SEGMENTS);
            prop_assert!(queue.push(chain.head, u32::MAX).is_ok());
            let _ = (queue.wants_interrupt(), queue.enable_doorbell(), queue.disable_doorbell());
        }
        prop_assert!(popped <= size);
    }
}

/// A request as others read it: its head, and what is to be read and to be written.
type Read = (u16, Vec<Segment>, Vec<Segment>);

/// The same queue as the crate of that name has it.
fn other(setup: &Setup, event_idx: bool) -> virtio_queue::Queue {
    let mut queue = virtio_queue::Queue::new(setup.max_size).unwrap();
    queue.set_size(setup.size);
    let set = |address| (Some(address), Some(0));
    let [descriptors, available, used] =
        [setup.descriptors, setup.available, setup.used].map(|at| set(u32::try_from(at).unwrap()));
    queue.set_desc_table_address(descriptors.0, descriptors.1);
    queue.set_avail_ring_address(available.0, available.1);
    queue.set_used_ring_address(used.0, used.1);
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    queue
}

/// Its next request, none for a ring that is empty.
fn other_pop(
    queue: &mut virtio_queue::Queue,
    memory: &GuestMemoryMmap,
) -> Result<Option<Read>, Broken> {
    let mut requests = queue.iter(memory).map_err(|_| Broken)?;
    let Some(descriptors) = requests.next() else {
        return Ok(None);
    };
    let (head, mut more) = (descriptors.head_index(), true);
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    for descriptor in descriptors {
        let (address, length) = (descriptor.addr(), descriptor.len());
        let segment = Segment { address, length };
        match descriptor.is_write_only() {
            true => writable.push(segment),
            false if writable.is_empty() => readable.push(segment),
            false => return Err(Broken),
        }
        more = descriptor.has_next();
    }
    if more {
        Err(Broken)
    } else {
        Ok(Some((head, readable, writable)))
    }
}

fn all_of(memory: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// Descriptors that mostly follow each other, as random bytes never do.
fn descriptors() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![3 => Just(flag::NEXT), 2 => Just(flag::NEXT | flag::WRITE), 1 => Just(0), 2 => Just(flag::WRITE), 1 => 0..8u16];
    let next = prop_oneof![1..8u16, any::<u16>()];
    let one = (0..1u64 << 20, any::<u16>(), flags, next);
    let bytes = one.prop_map(|(address, length, flags, next)| {
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        [address.to_le_bytes(), rest.to_le_bytes()].concat()
    });
    proptest::collection::vec(bytes, 16).prop_map(|all| all.concat())
}

proptest! {
    /// Whatever is in a ring: we read it, and answer, as those do who share no code with us.
    #[test]
    fn a_ring_is_read_and_answered_as_others_do(
        main in descriptors(),
        table in descriptors(),
        available in proptest::collection::vec(any::<u8>(), 0x40),
        heads in proptest::collection::vec(0..9u16, 8),
        indirect in any::<bool>(),
        event_idx in any::<bool>(),
        claims in proptest::collection::vec(0..10u16, 1..4),
    ) {
        let (memory, mut driver, _) = bench(8);
        let (twin, mut twin_driver, _) = bench(8);
        for (memory, driver) in [(&memory, &driver), (&twin, &twin_driver)] {
            memory.write_slice(&main, GuestAddress(BASE)).unwrap();
            memory.write_slice(&table, GuestAddress(TABLE)).unwrap();
            memory.write_slice(&available, GuestAddress(BASE + 0x4000)).unwrap();
            for (slot, head) in (0..).zip(&heads) {
                memory.write_obj(*head, GuestAddress(BASE + 0x4004 + 2 * slot)).unwrap();
            }
            if indirect {
                driver.describe(0, TABLE, 0x100, flag::INDIRECT, 0);
            }
        }
        let mut queue = driver.setup().freeze(&memory, event_idx).unwrap();
        let mut other = other(&twin_driver.setup(), event_idx);
        for claim in claims {
            driver.claim(claim);
            twin_driver.claim(claim);
            loop {
                let chain = pop(&mut queue);
                let chain = chain.map(|chain| chain.map(|chain| (chain.head, chain.readable, chain.writable)));
                prop_assert_eq!(&chain, &other_pop(&mut other, &twin));
                match chain {
                    Ok(Some((head, ..))) => {
                        prop_assert!(queue.push(head, 7).is_ok() && other.add_used(&twin, head, 7).is_ok());
                    }
                    Ok(None) => break,
                    Err(Broken) => return Ok(()),
                }
            }
            let wants = other.needs_notification(&twin).unwrap();
            // The other has no ear for the flag.
            let deaf = !event_idx && available[0] & 1 != 0;
            prop_assert_eq!(queue.wants_interrupt(), Ok(wants && !deaf));
            prop_assert_eq!(queue.enable_doorbell(), Ok(other.enable_notification(&twin).unwrap()));
            prop_assert!(all_of(&memory) == all_of(&twin));
            prop_assert!(queue.disable_doorbell().is_ok() && other.disable_notification(&twin).is_ok());
            prop_assert!(all_of(&memory) == all_of(&twin));
        }
    }
}
