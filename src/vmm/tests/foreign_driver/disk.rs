//! A disk.
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex},
};

use virtio_drivers::{Error, device::blk::VirtIOBlk};
use vmm::virtio::{
    Confine, Device,
    block::{Block, Cache, Choice, Counters, Image, Options},
    transport::SharedDevice,
};

use super::{
    Way,
    board::Board,
    bytes,
    pages::{self, GuestPages},
    transport::Wire,
    ways,
};

pub(crate) type Driver = VirtIOBlk<GuestPages, Wire>;

const SECTORS: u64 = 1000;
const SERIAL: &str = "a foreign disk";
/// `VIRTIO_BLK_F_FLUSH`.
const FLUSH: u64 = 1 << 9;

/// Every way, to a disk with each engine.
pub(crate) fn disks() -> impl Iterator<Item = (Way, Choice)> {
    let engines = |way| [(way, Choice::Best), (way, Choice::Threads)];
    ways().into_iter().flat_map(engines)
}

/// A machine with a disk.
pub(crate) struct Machine {
    pub(crate) board: Arc<Board>,
    way: Way,
    pub(crate) counters: Arc<Counters>,
    file: File,
    /// What the disk should hold.
    contents: Vec<u8>,
}

impl Machine {
    pub(crate) fn new((way, engine): (Way, Choice)) -> Self {
        Self::with((way, engine), false)
    }

    fn with((way, engine): (Way, Choice), read_only: bool) -> Self {
        let contents = bytes(1, 512 * SECTORS);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&contents, 0).unwrap();
        let (device, counters) = disk(&file, engine, read_only);
        Self {
            board: Arc::new(Board::new(&way, device)),
            way,
            counters,
            file,
            contents,
        }
    }

    pub(crate) fn wire(&self) -> Wire {
        self.way.wire(&self.board)
    }

    pub(crate) fn driver(&self) -> Driver {
        let driver = Driver::new(self.wire()).unwrap();
        self.way.check(&self.board, FLUSH);
        driver
    }

    fn range(sector: usize, length: usize) -> std::ops::Range<usize> {
        512 * sector..512 * sector + length
    }

    /// Notes what the driver wrote.
    pub(crate) fn note(&mut self, sector: usize, data: &[u8]) {
        self.contents[Self::range(sector, data.len())].copy_from_slice(data);
    }

    pub(crate) fn at(&self, sector: usize, length: usize) -> &[u8] {
        &self.contents[Self::range(sector, length)]
    }

    /// Every byte of the image is what it should be.
    pub(crate) fn check_image(&self) {
        let length = usize::try_from(self.file.metadata().unwrap().len()).unwrap();
        assert_eq!(length, self.contents.len(), "{:?}", self.way);
        let mut image = vec![0; length];
        self.file.read_exact_at(&mut image, 0).unwrap();
        assert!(image == self.contents, "{:?}", self.way);
    }
}

fn disk(file: &File, engine: Choice, read_only: bool) -> (SharedDevice, Arc<Counters>) {
    file.set_len(512 * SECTORS).unwrap();
    let options = Options {
        image: Image::cached(file.try_clone().unwrap()),
        read_only,
        cache: Cache::WriteBack,
        id: "test".into(),
        serial: SERIAL.into(),
        queues: 1,
    };
    let mut block = Block::new(options, "disk".into(), engine).unwrap();
    let confine: Confine = Arc::new(|_| {});
    block.start_threads(&confine).unwrap();
    let counters = block.counters().clone();
    (Arc::new(Mutex::new(block)), counters)
}

/// Sectors of requests: one, what pages and regions of memory make pieces of, and many.
const REQUESTS: [(usize, usize); 6] = [(0, 1), (1, 8), (999, 1), (100, 255), (17, 3), (0, 1000)];

#[test]
fn it_finds_the_disk_and_is_told_what_it_is() {
    for disk in disks() {
        let machine = Machine::new(disk);
        let mut driver = machine.driver();
        assert_eq!(driver.capacity(), SECTORS);
        assert!(!driver.readonly());
        let mut id = [0xff; 20];
        let length = driver.device_id(&mut id).unwrap();
        assert_eq!(id[..length], *SERIAL.as_bytes());
        assert_eq!(id[length..], [0; 6]);
        drop(driver);
        assert_eq!(pages::taken(), 0);
        machine.check_image();
    }
}

#[test]
fn what_it_writes_is_in_the_image_and_what_it_reads_is_too() {
    for disk in disks() {
        let mut machine = Machine::new(disk);
        let mut driver = machine.driver();
        for ((sector, count), seed) in REQUESTS.into_iter().zip(2..) {
            let mut read = vec![0; 512 * count];
            driver.read_blocks(sector, &mut read).unwrap();
            assert!(read == machine.at(sector, read.len()), "{disk:?}");
            let data = bytes(seed, 512 * u64::try_from(count).unwrap());
            driver.write_blocks(sector, &data).unwrap();
            machine.note(sector, &data);
            machine.check_image();
            driver.read_blocks(sector, &mut read).unwrap();
            assert!(read == data, "{disk:?}");
        }
        let requests = machine.counters.requests.get();
        driver.flush().unwrap();
        assert_eq!(machine.counters.requests.get(), requests + 1);
        drop(driver);
        assert_eq!(pages::taken(), 0);
        machine.check_image();
    }
}

#[test]
fn what_lies_beyond_the_end_is_an_error() {
    for disk in disks() {
        let machine = Machine::new(disk);
        let mut driver = machine.driver();
        for (sector, count) in [(1000, 1), (999, 2), (0, 1001), (usize::MAX, 1)] {
            let mut data = vec![0; 512 * count];
            let read = driver.read_blocks(sector, &mut data);
            assert_eq!(read, Err(Error::IoError), "{disk:?}");
            let written = driver.write_blocks(sector, &data);
            assert_eq!(written, Err(Error::IoError), "{disk:?}");
        }
        let mut data = [0; 512];
        driver.read_blocks(999, &mut data).unwrap();
        assert_eq!(data, *machine.at(999, 512));
        machine.check_image();
    }
}

#[test]
fn a_disk_that_is_read_only_says_so_and_refuses_writes() {
    for disk in disks() {
        let machine = Machine::with(disk, true);
        let mut driver = machine.driver();
        assert!(driver.readonly());
        assert_eq!(driver.write_blocks(3, &[7; 1024]), Err(Error::IoError));
        let mut data = [0; 1024];
        driver.read_blocks(3, &mut data).unwrap();
        assert_eq!(data, *machine.at(3, 1024));
        driver.flush().unwrap();
        machine.check_image();
    }
}
