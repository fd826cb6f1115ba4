//! Rings as drivers leave them, honest and not.
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Broken, Chain, MAX_SEGMENTS, Progress, Queue};
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
