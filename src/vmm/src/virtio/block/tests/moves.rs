//! Disks that are paused, saved, and restored as others on the same image.
use std::{sync::Mutex, time::Duration};

use super::*;
use crate::{
    rate_limit::Rate,
    testing::{
        journey::{Journey, Pieces, Request, Subject, take_through},
        virtio_driver::Way,
    },
    virtio::{
        Confine,
        block::{Counters, Handle},
        feature,
        transport::SharedDevice,
    },
};

/// Disks of one image, with all their queues and either engine.
struct Disks {
    file: File,
    engine: Choice,
    queues: u16,
    /// What every request is, which flushes, ends with; none where they read and write.
    flushed: Option<u8>,
    /// The last one's.
    disk: Option<Arc<Disk>>,
    handle: Option<Handle>,
    counters: Arc<Counters>,
}

/// Offsets in a request's page.
const AT_DATA: u64 = 512;
const AT_STATUS: u64 = 2048;

impl Disks {
    fn new(engine: Choice, queues: u16) -> Self {
        Self {
            file: Bench::new().file,
            engine,
            queues,
            flushed: None,
            disk: None,
            handle: None,
            counters: Arc::default(),
        }
    }

    /// What request `number` is. Every other one writes, to a sector behind those that are read.
    fn asked(&self, number: u64) -> (u32, u64) {
        let half = SECTORS / 2;
        match number % 2 {
            _ if self.flushed.is_some() => (FLUSH, 0),
            0 => (READ, number % half),
            _ => (WRITE, half + number / 2 % half),
        }
    }

    fn bytes(number: u64) -> [u8; 512] {
        let byte = number.to_le_bytes()[0];
        [byte.wrapping_add(100); 512]
    }
}

impl Subject for Disks {
    fn build(&mut self) -> SharedDevice {
        let mut options = options(&self.file, false, Cache::WriteBack);
        options.queues = self.queues;
        let mut block = Block::new(options, "disk".into(), self.engine).unwrap();
        block.start_threads(&(Arc::new(|_| ()) as Confine)).unwrap();
        self.disk = Some(block.common.disk.clone());
        self.handle = Some(block.handle());
        self.counters = block.counters().clone();
        Arc::new(Mutex::new(block))
    }

    /// As many queues as there are.
    fn features(&self) -> u64 {
        let flush = u64::from(self.flushed.is_some()) << 9;
        flush | u64::from(self.queues > 1) << 12
    }

    fn ask(&mut self, memory: &GuestMemoryMmap, request: Request) -> Pieces {
        let Request { number, page, .. } = request;
        let (kind, sector) = self.asked(number);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let at = |offset| GuestAddress(page + offset);
        memory.write_slice(&header, at(0)).unwrap();
        memory.write_slice(&[0xff], at(AT_STATUS)).unwrap();
        let data = (page + AT_DATA, 512);
        let status = (page + AT_STATUS, 1);
        match kind {
            READ => (vec![(page, 16)], vec![data, status]),
            FLUSH => (vec![(page, 16)], vec![status]),
            _ => {
                memory
                    .write_slice(&Self::bytes(number), at(AT_DATA))
                    .unwrap();
                (vec![(page, 16), data], vec![status])
            }
        }
    }

    fn check(&mut self, memory: &GuestMemoryMmap, request: Request, written: u32) {
        let Request { number, page, .. } = request;
        let (kind, sector) = self.asked(number);
        let status: u8 = memory.read_obj(GuestAddress(page + AT_STATUS)).unwrap();
        assert_eq!(status, self.flushed.unwrap_or(0));
        let mut found = [0; 512];
        if kind == FLUSH {
            assert_eq!(written, 1);
        } else if kind == READ {
            assert_eq!(written, 513);
            let data = GuestAddress(page + AT_DATA);
            memory.read_slice(&mut found, data).unwrap();
            assert_eq!(found, [u8::try_from(sector).unwrap(); 512]);
        } else {
            assert_eq!(written, 1);
            self.file.read_exact_at(&mut found, sector * 512).unwrap();
            assert_eq!(found, Self::bytes(number));
        }
    }
}

#[test]
fn a_disk_goes_on_where_another_was_paused() {
    for engine in ENGINES {
        for queues in [1, 3] {
            take_through(&mut Disks::new(engine, queues), queues);
        }
    }
}

#[test]
fn flushes_of_all_queues_are_answered_one_after_the_other_wherever_they_move() {
    for engine in ENGINES {
        let mut disks = Disks::new(engine, 3);
        disks.flushed = Some(0);
        take_through(&mut disks, 3);
    }
}

#[test]
fn what_waits_for_the_rate_limiter_moves_with_the_disk_and_its_limits() {
    for (engine, way) in [(Choice::Best, Way::Mmio), (Choice::Threads, Way::Pci)] {
        let mut disks = Disks::new(engine, 1);
        let mut journey = Journey::new(&mut disks, way, feature::EVENT_IDX, 1);
        let four = Rate {
            size: 1,
            refill: Duration::from_secs(1 << 30),
            burst: 3,
        };
        let handle = journey.subject.handle.clone().unwrap();
        handle.limit(None, Some(Some(four)));
        journey.start(|_| ());
        journey.offer(9);
        for _ in 0..3 {
            // Each disk tries to begin the fifth, and may not.
            while journey.subject.counters.throttled.get() == 0 {
                assert!(journey.open() >= 5);
                std::thread::yield_now();
            }
            journey.pause();
            assert_eq!(journey.open(), 5);
            journey.move_on();
            journey.resume();
        }
        let handle = journey.subject.handle.clone().unwrap();
        handle.limit(None, Some(None));
        journey.hear_all();
    }
}

#[test]
fn no_flush_succeeds_where_another_disk_has_lost_something() {
    for (engine, way) in [(Choice::Best, Way::Pci), (Choice::Threads, Way::Mmio)] {
        let mut disks = Disks::new(engine, 1);
        disks.flushed = Some(0);
        let mut journey = Journey::new(&mut disks, way, feature::EVENT_IDX, 1);
        journey.start(|_| ());
        journey.offer(3);
        journey.hear_all();
        journey.pause();
        journey.move_on();
        journey.resume();
        journey.offer(3);
        journey.hear_all();
        let disk = journey.subject.disk.clone().unwrap();
        disk.image().lose();
        for _ in 0..2 {
            journey.pause();
            journey.move_on();
            journey.resume();
            journey.subject.flushed = Some(1);
            journey.offer(3);
            journey.hear_all();
        }
    }
}

#[test]
fn what_is_lost_when_a_disk_is_saved_stands_in_its_state() {
    // A file that cannot be flushed.
    let nowhere = File::options().read(true).write(true).open("/dev/null");
    let nowhere = nowhere.unwrap();
    for (cache, read_only, lost) in [
        (Cache::WriteBack, false, true),
        (Cache::WriteThrough, false, true),
        // Nothing was to be kept.
        (Cache::Unsafe, false, false),
        (Cache::WriteBack, true, false),
    ] {
        let disk = Disk::new(options(&nowhere, read_only, cache)).unwrap();
        let saved = serde_json::to_value(disk.save()).unwrap();
        assert_eq!(saved["lost"], lost, "{cache:?}");
    }
}

#[test]
fn a_disk_s_state_is_that_of_a_disk_that_can_be() {
    let disks = &mut Disks::new(Choice::Best, 1);
    let mut journey = Journey::new(disks, Way::Mmio, 0, 1);
    journey.start(|_| ());
    journey.pause();
    let saved = journey.move_on();
    let good = r#"{"bandwidth":null,"ops":null}"#;
    assert!(saved.contains(good));
    for (bad, why) in [
        (
            r#"{"ops":{"size":0,"refill":1,"burst":0,"until_full":0}}"#,
            "a rate limiter of 0 tokens in 1 ns",
        ),
        (
            r#"{"ops":{"size":18446744073709551615,"refill":1,"burst":0,"until_full":3}}"#,
            "full in 3 ns only",
        ),
        (r#"{"ops":{"size":-1}}"#, "invalid value"),
        ("1", "invalid type"),
    ] {
        let spoilt = saved.replace(good, bad);
        let refused = journey.attached().restore(&spoilt).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let another = saved.replacen(
        r#""own":{"block":{"limiter":{"bandwidth":null,"ops":null},"lost":false}}"#,
        r#""own":"nothing""#,
        1,
    );
    assert_ne!(another, saved);
    let refused = journey.attached().restore(&another).unwrap_err();
    assert!(refused.contains("another kind of device's"), "{refused}");
    // It goes on all the same.
    journey.resume();
    journey.offer(7);
    journey.hear_all();
}

#[test]
fn a_disk_is_saved_only_while_it_is_paused() {
    let mut disks = Disks::new(Choice::Best, 1);
    let device = disks.build();
    let mut device = device.lock().unwrap();
    assert!(device.progress().is_err());
    device.pause();
    assert_eq!(device.progress().unwrap(), [None]);
    device.resume();
    assert!(device.progress().is_err());
}
