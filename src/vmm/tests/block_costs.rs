//! What a disk's requests cost, counted: allocations, waits (each is one system call) and interrupts (each is another).
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::{
    testing::virtqueue::{DriverQueue, Edges},
    virtio::{
        Confine, Device, Interrupt,
        block::{Block, Cache, Choice, Image, Options},
    },
};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: what is asked is passed on as it is; `realloc` and `alloc_zeroed` come down to these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from the same allocator, by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEADERS: u64 = 0x8_0000;
const STATUS: u64 = 0x8_8000;
const DATA: u64 = 0x10_0000;
/// Requests of a batch.
const BATCH: u32 = 32;

/// A disk in the page cache, with a driver.
struct Driver {
    memory: GuestMemoryMmap,
    queue: DriverQueue,
    block: Block,
    edges: Arc<Edges>,
}

impl Driver {
    fn new(engine: Choice) -> Self {
        let file = tempfile::tempfile().expect("there is room");
        file.set_len(1 << 20).expect("there is room");
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
        let options = Options {
            image: Image::cached(file),
            read_only: false,
            cache: Cache::WriteBack,
            id: "test".into(),
            serial: String::new(),
            queues: 1,
        };
        let mut block = Block::new(options, "disk".into(), engine).expect("a disk");
        let started = Arc::new(AtomicU64::new(0));
        let confine: Confine = Arc::new({
            let started = started.clone();
            move |_| _ = started.fetch_add(1, Ordering::Release)
        });
        block.start_threads(&confine).expect("threads");
        // A thread allocates while it starts, which a busy host may put off until requests are under way.
        let threads = match engine {
            Choice::Best => 1,
            Choice::Threads => 4,
        };
        while started.load(Ordering::Acquire) < threads {
            thread::yield_now();
        }
        let (edges, line) = Edges::line();
        let queue = DriverQueue::new(memory.clone(), 0x1000, 256);
        let frozen = queue.setup().freeze(&memory, false).expect("a queue");
        block.activate(0, vec![Some(frozen)], &Interrupt::new(line));
        Self {
            memory,
            queue,
            block,
            edges,
        }
    }

    /// `count` requests of 4 KiB at once, and their answers.
    fn batch(&mut self, kind: u32, count: u32) {
        for index in 0..count.into() {
            let header = HEADERS + 16 * index;
            let words = u128::from(kind) | u128::from(8 * index) << 64;
            self.memory
                .write_obj(words, GuestAddress(header))
                .expect("memory");
            let data = (DATA + 4096 * index, 4096);
            let status = (STATUS + index, 1);
            match kind {
                0 => self.queue.offer(&[(header, 16)], &[data, status]),
                _ => self.queue.offer(&[(header, 16), data], &[status]),
            };
        }
        let bell = self.block.doorbell(0).expect("a bell");
        bell.write(1).expect("a bell");
        let mut left = count;
        let queue = &mut self.queue;
        self.edges.wait_until(|| {
            while queue.used().is_some() {
                left -= 1;
            }
            left == 0
        });
    }
}

/// The only test of this binary: others would allocate beside it.
#[test]
fn requests_allocate_nothing_and_a_batch_is_a_few_system_calls() {
    const ROUNDS: u64 = 100;
    for engine in [Choice::Best, Choice::Threads] {
        for kind in [0, 1] {
            let mut driver = Driver::new(engine);
            let counters = driver.block.counters().clone();
            // Until every call has room for its vectors.
            for _ in 0..20 {
                driver.batch(kind, BATCH);
            }
            let waits = counters.waits.get();
            let interrupts = counters.interrupts.get();
            let allocations = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..ROUNDS {
                driver.batch(kind, 1);
                driver.batch(kind, BATCH);
            }
            let more = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
            assert_eq!(more, 0, "{engine:?}, request {kind}");
            if engine == Choice::Best && kind == 0 {
                // Of each batch: a wait in which it is done, one for the next, and an interrupt between them. What a driver makes
                // available while the thread still looks is a batch of its own, so that there may be a few more.
                let waits = counters.waits.get() - waits;
                let interrupts = counters.interrupts.get() - interrupts;
                println!(
                    "{waits} waits, {interrupts} interrupts in {} batches",
                    2 * ROUNDS
                );
                assert!(waits <= 3 * 2 * ROUNDS, "{waits}");
                assert!(interrupts <= 3 * ROUNDS, "{interrupts}");
            }
        }
    }
}
