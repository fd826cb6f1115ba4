//! A driver that nobody here wrote, the crate `virtio-drivers`, against a disk: its own idea of queues and of a disk's requests, by the
//! registers of each transport.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod board;
mod flight;
mod mmio;
mod pages;
mod pci;
mod transport;

use std::{os::unix::fs::FileExt, sync::Arc};

use virtio_drivers::{Error, device::blk::VirtIOBlk};
use vmm::{
    pci::Space,
    virtio::{block::Choice, feature},
};

use self::{board::Board, pages::GuestPages, transport::Wire};

type Driver = VirtIOBlk<GuestPages, Wire>;

const SECTORS: u64 = 1000;
const SERIAL: &str = "a foreign disk";
/// `VIRTIO_BLK_F_FLUSH`.
const FLUSH: u64 = 1 << 9;

/// Where the driver finds the disk.
#[derive(Clone, Copy, Debug)]
enum Where {
    Mmio,
    Pci { by_memory: bool, rings: Space },
}

/// One of the ways between a driver and a disk.
#[derive(Clone, Copy, Debug)]
struct Way {
    place: Where,
    engine: Choice,
    rings_without_exit: bool,
    /// Features that are kept from the driver.
    withheld: u64,
}

/// Every transport and each engine, and a driver that takes all there is or lacks something.
fn ways() -> Vec<Way> {
    let pci = |by_memory, rings| Where::Pci { by_memory, rings };
    let mut ways = Vec::new();
    for place in [
        Where::Mmio,
        pci(false, Space::Ports),
        pci(true, Space::Memory),
    ] {
        for engine in [Choice::Best, Choice::Threads] {
            for rings_without_exit in [false, true] {
                for withheld in [0, feature::INDIRECT_DESC] {
                    ways.push(Way {
                        place,
                        engine,
                        rings_without_exit,
                        withheld,
                    });
                }
            }
        }
    }
    ways
}

/// A machine with a disk.
struct Machine {
    board: Arc<Board>,
    way: Way,
    /// What the disk should hold.
    contents: Vec<u8>,
}

impl Machine {
    fn new(way: Way) -> Self {
        Self::with(way, false)
    }

    fn with(way: Way, read_only: bool) -> Self {
        let contents = bytes(1, 512 * SECTORS);
        Self {
            board: Arc::new(Board::new(&way, &contents, read_only)),
            way,
            contents,
        }
    }

    fn wire(&self) -> Wire {
        match self.way.place {
            Where::Mmio => mmio::wire(self.board.clone()),
            Where::Pci { by_memory, rings } => pci::wire(self.board.clone(), by_memory, rings),
        }
    }

    fn driver(&self) -> Driver {
        let driver = Driver::new(self.wire()).unwrap();
        let wanted = feature::COMMON | FLUSH;
        assert_eq!(self.board.agreed() & wanted, wanted & !self.way.withheld);
        assert_eq!(self.board.connected() > 0, self.way.rings_without_exit);
        driver
    }

    fn range(sector: usize, length: usize) -> std::ops::Range<usize> {
        512 * sector..512 * sector + length
    }

    /// Notes what the driver wrote.
    fn note(&mut self, sector: usize, data: &[u8]) {
        self.contents[Self::range(sector, data.len())].copy_from_slice(data);
    }

    fn at(&self, sector: usize, length: usize) -> &[u8] {
        &self.contents[Self::range(sector, length)]
    }

    /// Every byte of the image is what it should be.
    fn check_image(&self) {
        let file = &self.board.file;
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        assert_eq!(length, self.contents.len(), "{:?}", self.way);
        let mut image = vec![0; length];
        file.read_exact_at(&mut image, 0).unwrap();
        assert!(image == self.contents, "{:?}", self.way);
    }
}

/// Bytes that differ from sector to sector, and from one `seed` to the next.
fn bytes(seed: u64, count: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    (0..count).map(|_| next()).collect()
}

/// Sectors of requests: one, what pages and regions of memory make pieces of, and many.
const REQUESTS: [(usize, usize); 6] = [(0, 1), (1, 8), (999, 1), (100, 255), (17, 3), (0, 1000)];

#[test]
fn it_finds_the_disk_and_is_told_what_it_is() {
    for way in ways() {
        let machine = Machine::new(way);
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
    for way in ways() {
        let mut machine = Machine::new(way);
        let mut driver = machine.driver();
        for ((sector, count), seed) in REQUESTS.into_iter().zip(2..) {
            let mut read = vec![0; 512 * count];
            driver.read_blocks(sector, &mut read).unwrap();
            assert!(read == machine.at(sector, read.len()), "{way:?}");
            let data = bytes(seed, 512 * u64::try_from(count).unwrap());
            driver.write_blocks(sector, &data).unwrap();
            machine.note(sector, &data);
            machine.check_image();
            driver.read_blocks(sector, &mut read).unwrap();
            assert!(read == data, "{way:?}");
        }
        let requests = machine.board.counters.requests.get();
        driver.flush().unwrap();
        assert_eq!(machine.board.counters.requests.get(), requests + 1);
        drop(driver);
        assert_eq!(pages::taken(), 0);
        machine.check_image();
    }
}

#[test]
fn what_lies_beyond_the_end_is_an_error() {
    for way in ways() {
        let machine = Machine::new(way);
        let mut driver = machine.driver();
        for (sector, count) in [(1000, 1), (999, 2), (0, 1001), (usize::MAX, 1)] {
            let mut data = vec![0; 512 * count];
            let read = driver.read_blocks(sector, &mut data);
            assert_eq!(read, Err(Error::IoError), "{way:?}");
            let written = driver.write_blocks(sector, &data);
            assert_eq!(written, Err(Error::IoError), "{way:?}");
        }
        let mut data = [0; 512];
        driver.read_blocks(999, &mut data).unwrap();
        assert_eq!(data, *machine.at(999, 512));
        machine.check_image();
    }
}

#[test]
fn a_disk_that_is_read_only_says_so_and_refuses_writes() {
    for way in ways() {
        let machine = Machine::with(way, true);
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
