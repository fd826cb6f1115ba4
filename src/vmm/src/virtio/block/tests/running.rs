//! Disks with their threads, and drivers that ring, wait, and break the rules.
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{
    testing::virtqueue::{DriverQueue, Edges},
    virtio::{Confine, Interrupt},
};

/// A device with its thread, and the driver's side of it.
pub(super) struct Running {
    pub(super) block: Block,
    pub(super) queue: DriverQueue,
    edges: Arc<Edges>,
    pub(super) interrupt: Interrupt,
    memory: GuestMemoryMmap,
    pub(super) file: File,
}

impl Running {
    pub(super) fn new(engine: Choice) -> Self {
        let Bench { memory, file, .. } = Bench::new();
        let options = options(&file, false, Cache::WriteBack);
        let mut block = Block::new(options, "disk".into(), engine).unwrap();
        let confined = Arc::new(AtomicBool::new(false));
        let seen = confined.clone();
        let confine: Confine = Arc::new(move |_| seen.store(true, Ordering::Release));
        block.start_threads(&confine).unwrap();
        let (edges, line) = Edges::line();
        let mut running = Self {
            queue: DriverQueue::new(memory.clone(), 0x1000, 64),
            interrupt: Interrupt::new(line),
            block,
            edges,
            memory,
            file,
        };
        running.activate();
        running.read(1);
        assert!(confined.load(Ordering::Acquire), "before its first request");
        running
    }

    fn activate(&mut self) {
        let queue = self.queue.setup().freeze(&self.memory, false).unwrap();
        self.block.activate(0, vec![Some(queue)], &self.interrupt);
    }

    pub(super) fn offer(&mut self, sector: u64) {
        let mut header = [0; 16];
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&header, GuestAddress(HEADER))
            .unwrap();
        self.queue
            .offer(&[(HEADER, 16)], &[(DATA, 512), (STATUS, 1)]);
        self.block.doorbell(0).unwrap().write(1).unwrap();
    }

    /// Waits for the answer, and checks it.
    pub(super) fn answer(&mut self, sector: u64) {
        let queue = &mut self.queue;
        let mut answer = None;
        self.edges.wait_until(|| {
            answer = queue.used();
            answer.is_some()
        });
        assert_eq!(answer.unwrap().1, 513);
        let byte: u8 = self.memory.read_obj(GuestAddress(DATA + 511)).unwrap();
        assert_eq!(u64::from(byte), sector);
    }

    pub(super) fn read(&mut self, sector: u64) {
        self.offer(sector);
        self.answer(sector);
    }
}

#[test]
fn a_ring_of_the_bell_is_answered_by_an_interrupt() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        for sector in 2..40 {
            running.read(sector);
        }
        assert_eq!(running.block.counters().requests.get(), 39);
        assert!(running.edges.count() <= 39);
    }
}

#[test]
fn a_paused_device_answers_when_it_is_resumed() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        running.block.pause();
        let before = running.block.counters().requests.get();
        running.offer(9);
        // It has nothing to wait for: were it not quiet, it would have answered by the end of a second pause.
        running.block.pause();
        assert_eq!(running.block.counters().requests.get(), before);
        assert_eq!(running.queue.used(), None);
        running.block.resume();
        running.block.resume();
        running.answer(9);
    }
}

#[test]
fn a_reset_takes_the_queue_away_and_another_start_brings_a_new_one() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        running.block.pause();
        running.block.reset();
        running.block.resume();
        running.offer(3);
        assert_eq!(running.queue.used(), None);
        running.queue = DriverQueue::new(running.memory.clone(), 0x2_0000, 64);
        running.activate();
        running.read(4);
        running.block.reset();
        running.block.reset();
    }
}

#[test]
fn a_queue_that_its_driver_stops_is_served_no_more() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        running.offer(2);
        running.block.stop_queue(0);
        let before = running.block.counters().requests.get();
        running.queue.used();
        running.offer(3);
        // Nothing is left that it could wait for; neither is another queue.
        running.block.stop_queue(0);
        running.block.stop_queue(1);
        running.block.pause();
        assert_eq!(running.block.counters().requests.get(), before);
        assert_eq!(running.queue.used(), None);
        running.block.resume();
        running.block.reset();
        running.queue = DriverQueue::new(running.memory.clone(), 0x2_0000, 64);
        running.activate();
        running.read(4);
    }
}

#[test]
fn a_driver_that_never_stops_asking_is_stopped_all_the_same() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        let (memory, stop) = (running.memory.clone(), Arc::new(AtomicBool::new(false)));
        let mut queue = DriverQueue::new(memory.clone(), 0x2_0000, 64);
        running.block.reset();
        let frozen = queue.setup().freeze(&memory, false).unwrap();
        running
            .block
            .activate(0, vec![Some(frozen)], &running.interrupt);
        let over = stop.clone();
        let driver = std::thread::spawn(move || {
            let mut room = 60;
            while !over.load(Ordering::Acquire) {
                while queue.used().is_some() {
                    room += 3;
                }
                while room >= 3 {
                    queue.offer(&[(HEADER, 16)], &[(DATA, 512), (STATUS, 1)]);
                    room -= 3;
                }
            }
        });
        running.block.doorbell(0).unwrap().write(1).unwrap();
        running.block.pause();
        running.block.resume();
        running.block.reset();
        stop.store(true, Ordering::Release);
        driver.join().unwrap();
    }
}

#[test]
fn a_driver_that_breaks_the_rules_is_told_so() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        running.queue.claim(65);
        running.block.doorbell(0).unwrap().write(1).unwrap();
        let interrupt = running.interrupt.clone();
        running.edges.wait_until(|| interrupt.is_broken());
        assert_ne!(interrupt.reasons() & Interrupt::CONFIGURATION, 0);
        running.block.reset();
        interrupt.reset();
        running.queue = DriverQueue::new(running.memory.clone(), 0x2_0000, 64);
        running.activate();
        running.read(5);
    }
}

#[test]
fn a_batch_of_requests_is_one_interrupt() {
    for engine in ENGINES {
        let mut running = Running::new(engine);
        running.block.pause();
        let before = running.edges.count();
        for _ in 0..20 {
            running.offer(7);
        }
        running.block.resume();
        for _ in 0..20 {
            running.answer(7);
        }
        // With threads the answers may come in several lots.
        let interrupts = running.edges.count() - before;
        let most = if engine == Choice::Best { 2 } else { 20 };
        assert!(interrupts <= most, "{engine:?}: {interrupts}");
    }
}

#[test]
fn every_queue_has_a_thread_of_its_own() {
    for engine in ENGINES {
        let Bench { memory, file, .. } = Bench::new();
        let mut options = options(&file, false, Cache::WriteBack);
        options.queues = 3;
        let mut block = Block::new(options, "disk".into(), engine).unwrap();
        block.start_threads(&(Arc::new(|_| ()) as Confine)).unwrap();
        assert_eq!(block.queue_sizes().len(), 3);
        assert_ne!(block.features() & (1 << 12), 0);
        let (edges, line) = Edges::line();
        let mut queues: Vec<_> = (0..3)
            .map(|index| DriverQueue::new(memory.clone(), 0x1_0000 * (index + 1), 64))
            .collect();
        // The driver uses two of them.
        let frozen = queues.iter().enumerate().map(|(index, queue)| {
            (index != 1).then(|| queue.setup().freeze(&memory, true).unwrap())
        });
        block.activate(0, frozen.collect(), &Interrupt::new(line));
        memory.write_slice(&[0; 16], GuestAddress(HEADER)).unwrap();
        for index in [0, 2] {
            queues[index].offer(&[(HEADER, 16)], &[(DATA, 512), (STATUS, 1)]);
            block.doorbell(index).unwrap().write(1).unwrap();
            edges.wait_until(|| queues[index].used() == Some((0, 513)));
        }
        assert!(block.doorbell(3).is_none());
        block.reset();
    }
}
