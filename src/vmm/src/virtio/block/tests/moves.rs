//! Disks that are paused, saved, and restored as others on the same image.
use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    testing::{
        journey::{Journey, Pieces, Request, Subject, take_through},
        virtio_driver::Way,
    },
    virtio::{
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
    /// What each is built with.
    ops: Option<Rate>,
    /// The last one's.
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
            ops: None,
            handle: None,
            counters: Arc::default(),
        }
    }

    /// Every other request writes, to a sector behind those that are read.
    fn sector(number: u64) -> (u32, u64) {
        let half = SECTORS / 2;
        match number % 2 {
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
        block.handle().limit(None, Some(self.ops));
        self.handle = Some(block.handle());
        self.counters = block.counters().clone();
        Arc::new(Mutex::new(block))
    }

    /// As many queues as there are.
    fn features(&self) -> u64 {
        if self.queues > 1 { 1 << 12 } else { 0 }
    }

    fn ask(&mut self, memory: &GuestMemoryMmap, request: Request) -> Pieces {
        let Request { number, page, .. } = request;
        let (kind, sector) = Self::sector(number);
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
        let (kind, sector) = Self::sector(number);
        let status: u8 = memory.read_obj(GuestAddress(page + AT_STATUS)).unwrap();
        assert_eq!(status, 0);
        let mut found = [0; 512];
        if kind == READ {
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
fn what_waits_for_the_rate_limiter_moves_with_the_disk() {
    for (engine, way) in [(Choice::Best, Way::Mmio), (Choice::Threads, Way::Pci)] {
        let mut disks = Disks::new(engine, 1);
        disks.ops = Some(Rate {
            size: 1,
            refill: Duration::from_secs(1 << 30),
            burst: 3,
        });
        let mut journey = Journey::new(&mut disks, way, feature::EVENT_IDX, 1);
        journey.start(|_| ());
        journey.offer(9);
        for left in [5, 1] {
            while journey.subject.counters.throttled.get() == 0 {
                std::thread::yield_now();
            }
            journey.pause();
            assert_eq!(journey.open(), left);
            journey.move_on();
            journey.resume();
        }
        // The third has room for what is left.
        journey.hear_all();
        journey.offer(7);
        let handle = journey.subject.handle.clone().unwrap();
        handle.limit(None, Some(None));
        journey.hear_all();
    }
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
