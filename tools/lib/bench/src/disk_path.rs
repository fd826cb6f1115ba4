//! A disk's whole path on the host, without a guest: from a driver's ring to the file and back, beside fio on the same file.
//!
//! The driver is a thread of its own that looks at the used ring all the time, as a guest's processor would be awake; it rings by an
//! eventfd, as KVM does. fio makes the same reads by `io_uring` itself.
use std::{
    fs::File,
    hint,
    io::{self, Write},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::{
    testing::virtqueue::{DriverQueue, Edges},
    virtio::{
        Confine, Device, Interrupt,
        block::{Block, Cache, Choice, Image, Options},
    },
};

use crate::{programs::on_path, results::Results, stats::Shuffler};

/// Bytes of the file: all of it stays in the page cache.
const FILE: u64 = 128 << 20;
const BLOCK: u32 = 4096;
/// How long each measurement goes on.
const TIME: Duration = Duration::from_millis(800);

const RINGS: u64 = 0x1_0000;
const HEADERS: u64 = 0x2_0000;
const STATUS: u64 = 0x3_0000;
const DATA: u64 = 0x10_0000;

/// Who is measured: the names that reports know.
const OURS: &str = "ampoule";
/// fio, by `io_uring`.
pub const FIO: &str = "fio io_uring";

/// Measures both, `rounds` times, with one and with 32 requests under way.
///
/// # Errors
/// When the file or a thread cannot be had, or fio fails.
pub fn measure(rounds: usize, seed: u64, work: &Path) -> io::Result<Results> {
    let mut results = Results::default();
    let path = work.join("disk.raw");
    fill(&path, FILE >> 20)?;
    let Some(fio) = on_path("fio") else {
        results.skip("the path on the host (3)", "there is no fio on PATH");
        return Ok(results);
    };
    let mut driver = Driver::new(&path)?;
    let mut shuffler = Shuffler::new(seed);
    for depth in [1, 32] {
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let mut order = [0, 1];
            shuffler.shuffle(&mut order);
            for who in order {
                samples[who].push(match who {
                    0 => driver.reads_per_second(depth, seed)?,
                    _ => fio_reads_per_second(&fio, &path, depth)?,
                });
            }
        }
        for (name, samples) in [OURS, FIO].into_iter().zip(&samples) {
            let measure = format!("path_reads_{depth}");
            results.row(3, &measure, "reads/s", name, samples);
            let times: Vec<_> = samples.iter().map(|rate| 1e6 / rate).collect();
            results.row(3, &format!("path_time_{depth}"), "us", name, &times);
        }
    }
    Ok(results)
}

/// Makes a file of so many MiB, all of which is then in the page cache.
pub(crate) fn fill(path: &Path, mebibytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..mebibytes {
        file.write_all(&piece)?;
    }
    // Nothing of it is written back while anybody is measured.
    file.sync_all()
}

fn fio_reads_per_second(fio: &Path, path: &Path, depth: u32) -> io::Result<f64> {
    let output = Command::new(fio)
        .args(["--name=reads", "--ioengine=io_uring", "--rw=randread"])
        .args(["--bs=4k", "--direct=0", "--invalidate=0", "--norandommap"])
        .args(["--gtod_reduce=1", "--time_based", "--output-format=json"])
        .arg(format!("--runtime={}ms", TIME.as_millis()))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--size={FILE}"))
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
    let rate = report.pointer("/jobs/0/read/iops").and_then(Value::as_f64);
    rate.ok_or_else(|| io::Error::other("fio said nothing of its reads"))
}

/// A guest's driver, and the disk.
struct Driver {
    memory: GuestMemoryMmap,
    queue: DriverQueue,
    block: Block,
    blocks: u64,
}

impl Driver {
    fn new(path: &Path) -> io::Result<Self> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]);
        let memory = memory.map_err(io::Error::other)?;
        let options = Options {
            image: Image::cached(File::options().read(true).write(true).open(path)?),
            read_only: false,
            cache: Cache::WriteBack,
            id: "bench".into(),
            serial: String::new(),
            queues: 1,
        };
        let mut block = Block::new(options, "disk".into(), Choice::Best)?;
        let confine: Confine = Arc::new(|_| ());
        block.start_threads(&confine)?;
        let (_, line) = Edges::line();
        let queue = DriverQueue::new(memory.clone(), RINGS, 256);
        let frozen = queue.setup().freeze(&memory, false);
        let frozen = frozen.map_err(io::Error::other)?;
        block.activate(0, vec![Some(frozen)], &Interrupt::new(line));
        Ok(Self {
            memory,
            queue,
            block,
            blocks: FILE / u64::from(BLOCK),
        })
    }

    /// Keeps `depth` reads under way, anywhere in the file.
    fn reads_per_second(&mut self, depth: u32, seed: u64) -> io::Result<f64> {
        let mut place = seed | 1;
        let start = Instant::now();
        let mut done = 0_u32;
        // By the head of its chain, which request it is.
        let mut heads = [0_u64; 256];
        for index in 0..depth.into() {
            self.offer(index, &mut place, &mut heads)?;
        }
        self.ring()?;
        while start.elapsed() < TIME {
            done += self.turn(&mut place, &mut heads, true)?;
        }
        let time = start.elapsed();
        let mut left = depth;
        while left > 0 {
            left -= self.turn(&mut place, &mut heads, false)?;
        }
        Ok(f64::from(done) / time.as_secs_f64())
    }

    /// Takes back what was served, and asks for as much again if `more`; how much it was.
    fn turn(&mut self, place: &mut u64, heads: &mut [u64; 256], more: bool) -> io::Result<u32> {
        let mut count = 0;
        while let Some((head, _)) = self.queue.used() {
            count += 1;
            let index = heads[usize::try_from(head & 255).unwrap_or(0)];
            if more {
                self.offer(index, place, heads)?;
            }
        }
        match count {
            0 => hint::spin_loop(),
            _ if more => self.ring()?,
            _ => {}
        }
        Ok(count)
    }

    fn offer(&mut self, index: u64, place: &mut u64, heads: &mut [u64; 256]) -> io::Result<()> {
        *place = place
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let sector = (*place >> 33) % self.blocks * (u64::from(BLOCK) / 512);
        let header = HEADERS + 16 * index;
        let words = u128::from(sector) << 64;
        let written = self.memory.write_obj(words, GuestAddress(header));
        written.map_err(io::Error::other)?;
        let data = (DATA + u64::from(BLOCK) * index, BLOCK);
        let head = self
            .queue
            .offer(&[(header, 16)], &[data, (STATUS + index, 1)]);
        heads[usize::from(head & 255)] = index;
        Ok(())
    }

    /// As the driver does, unless the device said that it need not.
    fn ring(&self) -> io::Result<()> {
        if self.queue.wants_bell() {
            let bell = self.block.doorbell(0);
            bell.map_or(Ok(()), |bell| bell.write(1))?;
        }
        Ok(())
    }
}
