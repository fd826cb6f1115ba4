//! What is changed of a disk while its driver uses it.
use std::time::Duration;

use super::{running::Running, *};
use crate::{rate_limit::Rate, virtio::Interrupt};

#[test]
fn a_disk_grows_under_its_driver() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        let handle = running.block.handle();
        let generation = running.block.config().generation();
        running.file.set_len((SECTORS + 100) * 512).unwrap();
        assert_eq!(handle.resize().unwrap(), SECTORS + 100);
        assert_eq!(u64::from(config(&running.block, 0)), SECTORS + 100);
        assert_ne!(running.block.config().generation(), generation);
        let reasons = running.interrupt.reasons();
        assert_ne!(reasons & Interrupt::CONFIGURATION, 0);
        running.file.write_all_at(&[99; 512], 99 * 512).unwrap();
        running.read(99);
    }
}

#[test]
fn another_image_takes_the_place_of_the_disk_s() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        let handle = running.block.handle();
        let other = tempfile::tempfile().unwrap();
        other.write_all_at(&[77; 512 * 80], 0).unwrap();
        assert_eq!(handle.replace(Image::cached(other)).unwrap(), 80);
        running.offer(3);
        running.answer(77);
        // Also while the machine is paused, and it stays so.
        running.block.pause();
        let first = running.file.try_clone().unwrap();
        assert_eq!(handle.replace(Image::cached(first)).unwrap(), SECTORS);
        running.offer(3);
        assert_eq!(running.queue.used(), None);
        running.block.resume();
        running.answer(3);
    }
}

#[test]
fn what_is_limited_waits_until_the_limit_is_lifted() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        let handle = running.block.handle();
        let never = Rate {
            size: 1,
            refill: Duration::from_secs(1 << 30),
            burst: 1,
        };
        handle.limit(None, Some(Some(never)));
        running.read(5);
        running.read(6);
        running.offer(7);
        let counters = running.block.counters().clone();
        while counters.throttled.get() == 0 {
            std::thread::yield_now();
        }
        // It was put back into the queue, and is looked at again after each order: no answer before the limit is gone.
        running.block.pause();
        assert_eq!(running.queue.used(), None);
        running.block.resume();
        handle.limit(None, Some(None));
        running.answer(7);
    }
}
