//! Counters that devices and vCPUs own.
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

    /// So many more.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
