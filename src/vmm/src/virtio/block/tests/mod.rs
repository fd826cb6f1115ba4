//! A driver's requests, honest and not, against images in files.
mod changes;
mod images;
mod moves;
mod ranges;
mod requests;
mod running;

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    Block, Cache, Choice, Image, Options,
    disk::Disk,
    io::Io,
    request::{self, Next, Task},
};
use crate::virtio::{
    Device,
    queue::{Broken, Chain, Segment},
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

/// Each test of a disk with its threads is one of both engines.
const ENGINES: [Choice; 2] = [Choice::Best, Choice::Threads];

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &count.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}
