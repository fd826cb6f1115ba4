//! Which message each queue sends (virtio 1.3 §4.1.5.1).
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use serde::{Deserialize, Serialize};

use crate::{
    pci::msix::Msix,
    virtio::{Signal, transport::Misfit},
};

/// No message at all (§4.1.5.1.2.1).
pub const NO_VECTOR: u16 = 0xffff;

/// The vector of the configuration, and one for each queue. Workers read them without a lock.
pub(super) struct Vectors {
    msix: Arc<Msix>,
    configuration: AtomicU16,
    queues: Box<[AtomicU16]>,
}

/// The same, saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VectorsState {
    configuration: u16,
    queues: Vec<u16>,
}

impl Vectors {
    /// None for `queues` queues.
    pub(super) fn new(queues: usize, msix: Arc<Msix>) -> Self {
        Self {
            msix,
            configuration: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    pub(super) fn of_configuration(&self) -> u16 {
        self.configuration.load(Ordering::Acquire)
    }

    /// What the driver reads back tells it whether there is such a vector.
    pub(super) fn set_configuration(&self, vector: u16) {
        self.configuration
            .store(self.existing(vector), Ordering::Release);
    }

    pub(super) fn of_queue(&self, index: u16) -> u16 {
        self.queues
            .get(usize::from(index))
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    pub(super) fn set_queue(&self, index: u16, vector: u16) {
        if let Some(place) = self.queues.get(usize::from(index)) {
            place.store(self.existing(vector), Ordering::Release);
        }
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// As they were at first.
    pub(super) fn reset(&self) {
        for vector in self.queues.iter().chain([&self.configuration]) {
            vector.store(NO_VECTOR, Ordering::Release);
        }
    }

    pub(super) fn save(&self) -> VectorsState {
        VectorsState {
            configuration: self.of_configuration(),
            queues: (0..)
                .zip(&self.queues)
                .map(|(index, _)| self.of_queue(index))
                .collect(),
        }
    }

    /// Whether `saved` are as many, and there.
    pub(super) fn check(&self, saved: &VectorsState) -> Result<(), Misfit> {
        let mut vectors = saved.queues.iter().chain([&saved.configuration]);
        if saved.queues.len() != self.queues.len()
            || vectors.any(|&vector| vector != self.existing(vector))
        {
            let what = "its queues have vectors that are not in its table";
            return Err(Misfit::Contradiction(what));
        }
        Ok(())
    }

    /// Becomes what [`check`](Self::check) found to fit.
    pub(super) fn restore(&self, saved: &VectorsState) {
        self.set_configuration(saved.configuration);
        for (index, &vector) in (0..).zip(&saved.queues) {
            self.set_queue(index, vector);
        }
    }
}

/// `NO_VECTOR` is a vector that no table has.
impl Signal for Arc<Vectors> {
    fn used_buffers(&self, index: u16) {
        self.msix.signal(self.of_queue(index));
    }

    fn configuration(&self) {
        self.msix.signal(self.of_configuration());
    }
}
