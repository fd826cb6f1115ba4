use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// A count that only grows.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    #[inline]
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Exits to user space of all vCPUs of a machine, by cause.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// The guest wrote to I/O ports.
    pub port_writes: Counter,
    /// The guest read from I/O ports.
    pub port_reads: Counter,
    /// The guest wrote to memory that is not RAM.
    pub mmio_writes: Counter,
    /// The guest read from memory that is not RAM.
    pub mmio_reads: Counter,
    /// Everything else.
    pub other: Counter,
}
