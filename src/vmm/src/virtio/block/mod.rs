//! The block device (virtio 1.3 §5.2): a raw image as a disk, with one queue and a thread that serves it.
pub mod disk;
mod request;
#[cfg(test)]
mod tests;
mod worker;

use std::{io, sync::Arc};

use vmm_sys_util::eventfd::EventFd;

use self::{disk::SECTOR, worker::Worker};
pub use self::{
    disk::{Cache, Disk},
    worker::Counters,
};
use super::{Confine, Device, Interrupt, queue::Queue};

/// The device's type (§5).
const KIND: u32 = 2;
/// Entries of its queue.
const QUEUE_SIZES: [u16; 1] = [256];
/// Bytes of `struct virtio_blk_config` up to the zeroing of sectors (§5.2.4).
const CONFIG_BYTES: usize = 60;

mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// A disk of the guest's.
pub struct Block {
    name: String,
    disk: Arc<Disk>,
    config: [u8; CONFIG_BYTES],
    worker: Worker,
    counters: Arc<Counters>,
}

impl Block {
    /// The device for `disk`, whose thread will be called `name`.
    ///
    /// # Errors
    /// When the host has no room for another descriptor.
    pub fn new(disk: Disk, name: String) -> io::Result<Self> {
        Ok(Self {
            name,
            config: config(&disk),
            disk: Arc::new(disk),
            worker: Worker::new()?,
            counters: Arc::default(),
        })
    }

    /// What it did so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Device for Block {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        let always = feature::SEG_MAX | feature::BLK_SIZE | feature::TOPOLOGY;
        let flush = if self.disk.is_write_back() {
            feature::FLUSH
        } else {
            0
        };
        let access = if self.disk.is_read_only() {
            feature::RO
        } else {
            feature::DISCARD | feature::WRITE_ZEROES
        };
        always | flush | access
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn doorbell(&self, index: usize) -> Option<&EventFd> {
        (index == 0).then(|| self.worker.doorbell())
    }

    fn start_threads(&mut self, confine: &Confine) -> io::Result<()> {
        self.worker.spawn(
            &self.name,
            self.disk.clone(),
            self.counters.clone(),
            confine.clone(),
        )
    }

    fn activate(&mut self, queues: Vec<Option<Queue>>, interrupt: &Interrupt) {
        if let Some(queue) = queues.into_iter().flatten().next() {
            self.worker.start(queue, interrupt.clone());
        }
    }

    fn reset(&mut self) {
        self.worker.stop();
    }

    fn pause(&mut self) {
        self.worker.pause();
    }

    fn resume(&mut self) {
        self.worker.resume();
    }
}

fn config(disk: &Disk) -> [u8; CONFIG_BYTES] {
    /// A chain is no longer than its queue (§2.7.5.3), and the header and the status are segments too.
    const SEG_MAX: u32 = QUEUE_SIZES[0] as u32 - 2;
    let sector = u32::try_from(SECTOR).expect("512");
    let mut config = [0; CONFIG_BYTES];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &disk.sectors().to_le_bytes()); // capacity
    put(12, &SEG_MAX.to_le_bytes()); // seg_max
    put(20, &sector.to_le_bytes()); // blk_size
    // The host's pages are eight sectors: what is aligned to them is quickest.
    put(24, &[3]); // topology.physical_block_exp
    put(26, &8u16.to_le_bytes()); // topology.min_io_size
    put(36, &request::MAX_DISCARD_SECTORS.to_le_bytes()); // max_discard_sectors
    put(40, &request::MAX_RANGES.to_le_bytes()); // max_discard_seg
    put(44, &8u32.to_le_bytes()); // discard_sector_alignment
    put(48, &request::MAX_ZERO_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
    put(52, &request::MAX_RANGES.to_le_bytes()); // max_write_zeroes_seg
    put(56, &[1]); // write_zeroes_may_unmap
    config
}
