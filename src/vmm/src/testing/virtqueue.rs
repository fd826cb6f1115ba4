//! The driver's half of a virtqueue, in ordinary memory: well-behaved, or not.
use std::sync::{
    Arc, Condvar, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering, fence},
};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    irq::{Controller, Line, MessageSender},
    virtio::queue::Setup,
};

/// Descriptor flags (virtio 1.3 §2.7.5).
pub mod flag {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// For the device to write.
    pub const WRITE: u16 = 2;
    /// A table of descriptors.
    pub const INDIRECT: u16 = 4;
}

const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x5000;

/// A driver's view of one queue.
pub struct DriverQueue {
    memory: GuestMemoryMmap,
    base: u64,
    size: u16,
    next: u16,
    offered: u16,
    seen: u16,
}

impl DriverQueue {
    /// A queue of `size` entries whose rings lie from `base` on: 32 KiB are its own.
    pub fn new(memory: GuestMemoryMmap, base: u64, size: u16) -> Self {
        Self {
            memory,
            base,
            size,
            next: 0,
            offered: 0,
            seen: 0,
        }
    }

    /// What a driver tells the device of it.
    pub fn setup(&self) -> Setup {
        Setup {
            size: self.size,
            descriptors: self.base,
            available: self.base + AVAILABLE,
            used: self.base + USED,
            ready: true,
            ..Setup::new(self.size)
        }
    }

    /// Writes descriptor `index`, whatever that means.
    pub fn describe(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = GuestAddress(self.base + 16 * u64::from(index));
        let words = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.put(at, address);
        self.put(GuestAddress(at.0 + 8), words);
    }

    /// Makes the chain that starts at descriptor `head` available.
    pub fn offer_head(&mut self, head: u16) {
        let slot = u64::from(self.offered % self.size);
        self.put(GuestAddress(self.base + AVAILABLE + 4 + 2 * slot), head);
        self.claim(1);
    }

    /// Says that `count` more chains are available, whether or not they are.
    pub fn claim(&mut self, count: u16) {
        self.offered = self.offered.wrapping_add(count);
        self.put(GuestAddress(self.base + AVAILABLE + 2), self.offered);
    }

    /// Offers a chain of (address, length) pieces for the device to read, then to write.
    pub fn offer(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let head = self.next;
        let all = readable.iter().map(|piece| (piece, 0));
        let all = all.chain(writable.iter().map(|piece| (piece, flag::WRITE)));
        let last = readable.len() + writable.len() - 1;
        for (index, ((address, length), flags)) in all.enumerate() {
            let at = self.next;
            self.next = (self.next + 1) % self.size;
            let more = if index < last { flag::NEXT } else { 0 };
            self.describe(at, *address, *length, flags | more, self.next);
        }
        self.offer_head(head);
        head
    }

    /// The descriptor that the next chain starts at.
    pub fn next_head(&self) -> u16 {
        self.next
    }

    /// Asks for an interrupt with the next chain that comes back (with EVENT_IDX; without, it is always so); whether there is one
    /// already. For that one the device may have found nobody who waits, so it is to be taken, and the next to be asked for: a
    /// driver that sleeps with one taken behind its wish sleeps for ever (virtio 1.3 §2.7.7).
    #[must_use]
    pub fn want_interrupt(&self) -> bool {
        let at = self.base + AVAILABLE + 4 + 2 * u64::from(self.size);
        self.put(GuestAddress(at), self.seen);
        // The wish is there before the driver looks, as what comes back is before the device looks.
        fence(Ordering::SeqCst);
        self.used_index() != self.seen
    }

    /// Whether the device wants to be rung: its used ring's flags do not say that it looks by itself (without EVENT_IDX).
    pub fn wants_bell(&self) -> bool {
        // What was offered must be seen before the flags are looked at: else each side could miss the other (§2.7.13.4.1).
        fence(Ordering::SeqCst);
        let flags = self.memory.read_obj::<u16>(GuestAddress(self.base + USED));
        flags.expect("there are rings") & 1 == 0
    }

    /// The next chain that came back: its head and how many bytes the device wrote.
    pub fn used(&mut self) -> Option<(u32, u32)> {
        let used = self.base + USED;
        let get = |at: u64| -> u32 { self.memory.read_obj(GuestAddress(at)).expect("rings") };
        if self.used_index() == self.seen {
            return None;
        }
        let slot = used + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        Some((get(slot), get(slot + 4)))
    }

    /// How many chains came back, so far.
    fn used_index(&self) -> u16 {
        let index = self.memory.read_obj(GuestAddress(self.base + USED + 2));
        index.expect("there are rings")
    }

    fn put<T: vm_memory::ByteValued>(&self, at: GuestAddress, value: T) {
        self.memory
            .write_obj(value, at)
            .expect("there is memory for rings");
    }
}

/// An interrupt line whose edges are counted and can be waited for.
#[derive(Default)]
pub struct Edges {
    count: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Edges {
    /// A counter, and the line that it counts.
    pub fn line() -> (Arc<Self>, Line) {
        let edges = Arc::new(Self::default());
        (edges.clone(), Line::new(edges, 0))
    }

    /// Edges so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until `done` says so, looking after every edge.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn wait_until(&self, mut done: impl FnMut() -> bool) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = Duration::from_secs(60);
        let end = Instant::now() + minute;
        let waited = self.changed.wait_timeout_while(guard, minute, |()| !done());
        let outcome = waited.unwrap_or_else(PoisonError::into_inner).1;
        // What is found only when the time is over was never signalled.
        let in_time = !outcome.timed_out() && Instant::now() < end;
        assert!(in_time, "the device did not answer, or not say so");
    }
}

impl Controller for Edges {
    fn trigger(&self, _: u8) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_all();
    }
}

/// A message is an edge.
impl MessageSender for Edges {
    fn send(&self, _: u32, _: u32) {
        self.trigger(0);
    }
}
