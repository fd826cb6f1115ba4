//! A driver's requests, honest and not, against images in files.
mod moves;

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    Block, Cache, Choice, Image, Options,
    disk::Disk,
    io::Io,
    request::{self, Next, Task},
};
use crate::{
    rate_limit::Rate,
    testing::virtqueue::{DriverQueue, Edges},
    virtio::{
        Confine, Device, Interrupt,
        queue::{Broken, Chain, Segment},
    },
};

const RAM: usize = 1 << 20;
const HEADER: u64 = 0x8_0000;
const DATA: u64 = 0x8_1000;
const STATUS: u64 = 0x9_0000;
/// Sectors of every image here.
const SECTORS: u64 = 64;

/// An image, and a guest's memory.
struct Bench {
    memory: GuestMemoryMmap,
    file: File,
    disk: Disk,
}

impl Bench {
    fn new() -> Self {
        Self::with(false, Cache::WriteBack)
    }

    fn with(read_only: bool, cache: Cache) -> Self {
        let file = tempfile::tempfile().unwrap();
        for sector in 0..SECTORS {
            let fill = u8::try_from(sector).unwrap();
            file.write_all_at(&[fill; 512], sector * 512).unwrap();
        }
        let ranges = [(GuestAddress(0), RAM)];
        Self {
            memory: GuestMemoryMmap::from_ranges(&ranges).unwrap(),
            disk: Disk::new(options(&file, read_only, cache)).unwrap(),
            file,
        }
    }

    fn header(&self, kind: u32, sector: u64) {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&bytes, GuestAddress(HEADER))
            .unwrap();
    }

    /// Serves one request whose data is `length` bytes at `DATA`; its status and how much was written.
    fn ask(&self, kind: u32, sector: u64, length: u32) -> (u8, u32) {
        let to_device = matches!(kind, 1 | 11 | 13);
        let data = segment(DATA, length);
        self.header(kind, sector);
        let mut chain = Chain {
            head: 0,
            readable: vec![segment(HEADER, 16)],
            writable: vec![],
        };
        if length > 0 && to_device {
            chain.readable.push(data);
        } else if length > 0 {
            chain.writable.push(data);
        }
        chain.writable.push(segment(STATUS, 1));
        self.serve(chain)
    }

    fn serve(&self, mut chain: Chain) -> (u8, u32) {
        let written = self.serve_any(&mut chain).unwrap();
        let status = self.memory.read_obj(GuestAddress(STATUS)).unwrap();
        (status, written)
    }

    /// Serves a request to its end; how much was written.
    fn serve_any(&self, chain: &mut Chain) -> Result<u32, Broken> {
        let mut io = Io::with_capacity(1);
        let (request, task) = request::read(chain, &self.memory, &self.disk, &mut io)?;
        let status = match task {
            Task::Ended(status) => status,
            Task::Call => loop {
                let answer = io.perform(&self.disk.image());
                match request.answered(&mut io, answer, self.disk.cache()) {
                    Next::Perform => {}
                    Next::Ended(status, _) => break status,
                }
            },
        };
        request.conclude(status, &self.memory)
    }

    fn data(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(DATA))
            .unwrap();
        bytes
    }

    fn fill(&self, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(DATA)).unwrap();
    }

    fn image(&self, sector: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, sector * 512).unwrap();
        bytes
    }
}

/// A disk of `file`.
fn options(file: &File, read_only: bool, cache: Cache) -> Options {
    Options {
        image: Image::cached(file.try_clone().unwrap()),
        read_only,
        cache,
        id: "test".into(),
        serial: "serial".into(),
        queues: 1,
    }
}

fn block(options: Options) -> Block {
    Block::new(options, "disk".into(), Choice::Best).unwrap()
}

fn config(block: &Block, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    block.config().read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn segment(address: u64, length: u32) -> Segment {
    Segment {
        address: GuestAddress(address),
        length,
    }
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &count.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

#[test]
fn a_read_brings_what_the_image_holds() {
    let bench = Bench::new();
    assert_eq!(bench.ask(READ, 5, 1024), (0, 1025));
    assert_eq!(bench.data(1024), [[5; 512], [6; 512]].concat());
}

#[test]
fn a_write_reaches_the_image_and_nothing_beside_it() {
    for cache in [Cache::WriteBack, Cache::WriteThrough] {
        let bench = Bench::with(false, cache);
        bench.fill(&[0xaa; 512]);
        assert_eq!(bench.ask(WRITE, 7, 512), (0, 1));
        assert_eq!(
            bench.image(6, 1536),
            [[6; 512], [0xaa; 512], [8; 512]].concat()
        );
    }
}

#[test]
fn a_driver_may_cut_a_request_into_any_pieces() {
    let bench = Bench::new();
    bench.header(READ, 3);
    let chain = Chain {
        head: 0,
        readable: vec![
            segment(HEADER, 3),
            segment(HEADER + 3, 0),
            segment(HEADER + 3, 13),
        ],
        // The status is the last byte of the last piece.
        writable: vec![
            segment(DATA, 1),
            segment(DATA + 1, 510),
            segment(DATA + 511, 0),
            segment(STATUS - 1, 2),
        ],
    };
    assert_eq!(bench.serve(chain), (0, 513));
    assert_eq!(bench.data(511), [3; 511]);
}

#[test]
fn what_is_not_on_the_disk_is_an_error_for_the_guest() {
    let bench = Bench::new();
    for kind in [READ, WRITE] {
        for (sector, length) in [
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (0, 100),
        ] {
            assert_eq!(
                bench.ask(kind, sector, length),
                (1, 1),
                "{kind} {sector} {length}"
            );
        }
    }
    assert_eq!(bench.image(SECTORS - 1, 512), [63; 512]);
}

#[test]
fn memory_that_is_not_there_is_an_error_for_the_guest() {
    let bench = Bench::new();
    bench.header(READ, 0);
    let end = u64::try_from(RAM).unwrap();
    for address in [end, end - 256, u64::MAX - 100] {
        let chain = Chain {
            head: 0,
            readable: vec![segment(HEADER, 16)],
            writable: vec![segment(address, 512), segment(STATUS, 1)],
        };
        assert_eq!(bench.serve(chain), (1, 1), "{address:#x}");
    }
}

#[test]
fn a_read_only_disk_takes_no_change() {
    let bench = Bench::with(true, Cache::WriteBack);
    bench.fill(&range(0, 8, 0));
    assert_eq!(bench.ask(DISCARD, 0, 16), (1, 1));
    assert_eq!(bench.ask(WRITE_ZEROES, 0, 16), (1, 1));
    assert_eq!(bench.ask(WRITE, 0, 512), (1, 1));
    assert_eq!(bench.ask(READ, 1, 512), (0, 513));
    assert_eq!(bench.image(0, 512), [0; 512]);
}

#[test]
fn a_disk_has_a_name_and_knows_no_other_requests() {
    let bench = Bench::new();
    assert_eq!(bench.ask(GET_ID, 0, 20), (0, 21));
    assert_eq!(&bench.data(8), b"serial\0\0");
    assert_eq!(bench.ask(GET_ID, 0, 3), (0, 4));
    assert_eq!(bench.ask(FLUSH, 0, 0), (0, 1));
    for kind in [2, 3, 5, 10, 12, 14, u32::MAX] {
        assert_eq!(bench.ask(kind, 0, 512), (2, 1));
    }
}

#[test]
fn what_is_discarded_gives_its_room_back() {
    let bench = Bench::new();
    bench.file.sync_all().unwrap();
    let before = bench.file.metadata().unwrap().blocks();
    bench.fill(&range(8, 32, 0));
    assert_eq!(bench.ask(DISCARD, 0, 16), (0, 1));
    assert!(bench.file.metadata().unwrap().blocks() < before);
    assert_eq!(bench.image(7, 512), [7; 512]);
    assert_eq!(bench.image(8, 32 * 512), [0; 32 * 512]);
    assert_eq!(bench.image(40, 512), [40; 512]);
    assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn what_is_zeroed_reads_as_zeroes_with_and_without_its_room() {
    for flags in [0, 1] {
        let bench = Bench::new();
        bench.fill(&range(1, 3, flags));
        assert_eq!(bench.ask(WRITE_ZEROES, 0, 16), (0, 1));
        assert_eq!(bench.image(1, 3 * 512), [0; 3 * 512]);
        assert_eq!(bench.image(4, 512), [4; 512]);
    }
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let bench = Bench::new();
    for (kind, bytes, status) in [
        (DISCARD, range(60, 5, 0), 1),
        (DISCARD, range(u64::MAX, 1, 0), 1),
        (DISCARD, range(0, u32::MAX, 0), 1),
        (DISCARD, range(0, 1, 1), 2),
        (WRITE_ZEROES, range(0, 1, 2), 2),
        (DISCARD, [range(0, 1, 0), range(8, 1, 0)].concat(), 2),
        (DISCARD, range(0, 1, 0)[..15].to_vec(), 2),
    ] {
        bench.fill(&bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        assert_eq!(bench.ask(kind, 0, length), (status, 1), "{kind} {bytes:?}");
    }
    assert_eq!(bench.image(1, 512), [1; 512]);
}

#[test]
fn no_more_is_zeroed_at_once_than_the_configuration_says() {
    let bench = Bench::new();
    bench.file.set_len(1 << 30).unwrap();
    bench.disk.measure().unwrap();
    let most = config(&block(options(&bench.file, false, Cache::WriteBack)), 48);
    for (count, status) in [(most, 0), (most + 1, 1)] {
        bench.fill(&range(0, count, 1));
        assert_eq!(bench.ask(WRITE_ZEROES, 0, 16), (status, 1));
    }
}

#[test]
fn an_image_that_was_cut_short_is_an_error_and_not_a_hang() {
    let bench = Bench::new();
    bench.file.set_len(10 * 512).unwrap();
    assert_eq!(bench.ask(READ, 9, 512), (0, 513));
    assert_eq!(bench.ask(READ, 9, 1024), (1, 1));
    assert_eq!(bench.ask(READ, 20, 512), (1, 1));
}

#[test]
fn a_request_that_cannot_be_answered_breaks_the_queue() {
    let bench = Bench::new();
    bench.header(READ, 0);
    let header = || vec![segment(HEADER, 16)];
    for (readable, writable) in [
        (header(), vec![]),
        (header(), vec![segment(STATUS, 0)]),
        (header(), vec![segment(u64::MAX, 1)]),
        (vec![segment(HEADER, 15)], vec![segment(STATUS, 1)]),
        (vec![], vec![segment(STATUS, 1)]),
        (vec![segment(u64::MAX - 3, 16)], vec![segment(STATUS, 1)]),
    ] {
        let mut chain = Chain {
            head: 0,
            readable,
            writable,
        };
        assert_eq!(bench.serve_any(&mut chain), Err(Broken));
    }
}

fn any_segments() -> impl Strategy<Value = Vec<Segment>> {
    let address = prop_oneof![0..u64::try_from(RAM).unwrap() + 4096, any::<u64>()];
    let length = prop_oneof![
        Just(0),
        Just(1),
        Just(16),
        Just(512),
        0..8192u32,
        any::<u32>()
    ];
    let one = (address, length).prop_map(|(address, length)| segment(address, length));
    proptest::collection::vec(one, 0..6)
}

proptest! {
    /// Whatever a driver asks for, in whatever pieces: an answer or a broken queue, and not one byte more than it gave room for.
    #[test]
    fn any_request_is_answered_or_breaks_the_queue(
        kind in prop_oneof![0..16u32, any::<u32>()],
        sector in prop_oneof![0..SECTORS + 2, any::<u64>()],
        readable in any_segments(),
        writable in any_segments(),
        with_header in any::<bool>(),
    ) {
        let bench = Bench::new();
        bench.header(kind, sector);
        bench.fill(&range(sector, kind, 0));
        let mut readable = readable;
        if with_header {
            readable.insert(0, segment(HEADER, 16));
        }
        let room: u64 = writable.iter().map(|piece| u64::from(piece.length)).sum();
        let mut chain = Chain { head: 0, readable, writable };
        if let Ok(written) = bench.serve_any(&mut chain) {
            prop_assert!(u64::from(written) <= room);
        }
        prop_assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * 512);
    }
}

/// A device with its thread, and the driver's side of it.
struct Running {
    block: Block,
    queue: DriverQueue,
    edges: Arc<Edges>,
    interrupt: Interrupt,
    memory: GuestMemoryMmap,
    file: File,
}

/// Each test of a running device is one of both engines.
const ENGINES: [Choice; 2] = [Choice::Best, Choice::Threads];

impl Running {
    fn new(engine: Choice) -> Self {
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

    fn offer(&mut self, sector: u64) {
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
    fn answer(&mut self, sector: u64) {
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

    fn read(&mut self, sector: u64) {
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
fn the_configuration_tells_of_the_image() {
    let bench = Bench::new();
    let block = block(options(&bench.file, true, Cache::WriteThrough));
    assert_eq!(u64::from(config(&block, 0)), SECTORS);
    // Read-only, and without flushes, which it does not need.
    assert_ne!(block.features() & (1 << 5), 0);
    assert_eq!(block.features() & (1 << 9), 0);
    assert_eq!(block.features() & (1 << 12), 0);
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

#[test]
fn around_the_page_cache_goes_only_what_is_aligned() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, vec![5; 64 << 10]).unwrap();
    let open = |flags| {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&path)
    };
    let Ok(direct) = open(libc::O_DIRECT) else {
        println!("this file system knows no O_DIRECT");
        return;
    };
    let bench = Bench::new();
    let mut options = options(&bench.file, false, Cache::WriteBack);
    options.image = Image::direct(open(0).unwrap(), direct);
    let bench = Bench {
        disk: Disk::new(options).unwrap(),
        ..bench
    };
    let alignment = bench.disk.image().alignment().unwrap();
    for (address, expected) in [(DATA, true), (DATA + 8, false)] {
        bench.header(READ, 8);
        let mut chain = Chain {
            head: 0,
            readable: vec![segment(HEADER, 16)],
            writable: vec![segment(address, 4096), segment(STATUS, 1)],
        };
        let mut io = Io::with_capacity(1);
        request::read(&mut chain, &bench.memory, &bench.disk, &mut io).unwrap();
        io.choose_path(Some(alignment));
        assert_eq!(io.is_direct(), expected);
        assert_eq!(io.perform(&bench.disk.image()), 4096);
    }
    assert_eq!(bench.data(4096 + 8), [5; 4096 + 8]);
}
