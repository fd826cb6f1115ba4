//! What a driver is told of a disk (virtio 1.3 §5.2.3, §5.2.4).
use super::{
    QUEUE_SIZE,
    disk::{Cache, Disk, SECTOR},
    request,
};
use crate::virtio::ConfigSpace;

/// Bytes of `struct virtio_blk_config` up to the zeroing of sectors.
const BYTES: usize = 60;
/// Where the capacity stands.
pub(super) const CAPACITY: usize = 0;
/// A chain is no longer than its queue (§2.7.5.3), and the header and the status are segments too.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// What the device offers.
pub(super) fn features(disk: &Disk, queues: usize) -> u64 {
    let when = |condition: bool, bits: u64| if condition { bits } else { 0 };
    let always = feature::SIZE_MAX | feature::SEG_MAX | feature::BLK_SIZE | feature::TOPOLOGY;
    always
        | when(queues > 1, feature::MQ)
        | when(disk.cache() == Cache::WriteBack, feature::FLUSH)
        | when(disk.is_read_only(), feature::RO)
        | when(
            !disk.is_read_only(),
            feature::DISCARD | feature::WRITE_ZEROES,
        )
}

/// The configuration space.
pub(super) fn space(disk: &Disk, queues: u16) -> ConfigSpace {
    let sector = u32::try_from(SECTOR).expect("512");
    let mut config = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(CAPACITY, &disk.sectors().to_le_bytes());
    put(8, &request::MAX_SEGMENT.to_le_bytes()); // size_max
    put(12, &SEG_MAX.to_le_bytes()); // seg_max
    put(20, &sector.to_le_bytes()); // blk_size
    // The host's pages are eight sectors: what is aligned to them is quickest.
    put(24, &[3]); // topology.physical_block_exp
    put(26, &8u16.to_le_bytes()); // topology.min_io_size
    put(34, &queues.to_le_bytes()); // num_queues
    put(36, &request::MAX_DISCARD_SECTORS.to_le_bytes()); // max_discard_sectors
    put(40, &request::MAX_RANGES.to_le_bytes()); // max_discard_seg
    put(44, &8u32.to_le_bytes()); // discard_sector_alignment
    put(48, &request::MAX_ZERO_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
    put(52, &request::MAX_RANGES.to_le_bytes()); // max_write_zeroes_seg
    put(56, &[1]); // write_zeroes_may_unmap
    ConfigSpace::new(&config)
}
