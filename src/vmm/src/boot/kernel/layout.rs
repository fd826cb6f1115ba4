//! Where the parts of a kernel go in guest memory, checked for sense before there is any.
use vm_memory::{Address, GuestAddress};

use super::KernelError;

/// Nothing is loaded below: the zero page, page tables, ACPI tables and the legacy video hole live there.
pub(super) const LOWEST_ADDRESS: u64 = 0x10_0000;

/// A part of the kernel: bytes of the file that go to guest memory, and the zeros (bss) that follow them.
///
/// Plain data, so that a loader may copy or map as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in [`Kernel::file`](super::Kernel::file), in bytes.
    pub file_offset: u64,
    /// Bytes to take from the file.
    pub file_size: u64,
    /// Where it goes.
    pub guest_address: GuestAddress,
    /// Bytes that it occupies in the guest, never less than `file_size`. Those past `file_size` must read as zero.
    pub memory_size: u64,
}

impl Segment {
    /// First guest physical address after it. [`Layout::new`] has checked that it exists.
    pub(super) fn end(&self) -> u64 {
        self.guest_address
            .raw_value()
            .saturating_add(self.memory_size)
    }
}

/// Segments in the order of their addresses, and the ways in.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) segments: Vec<Segment>,
    pub(super) linux64: u64,
    pub(super) pvh: Option<u64>,
}

impl Layout {
    /// Checks that the segments occupy something, above the first MiB, and nothing twice.
    pub(super) fn new(
        mut segments: Vec<Segment>,
        linux64: u64,
        pvh: Option<u64>,
    ) -> Result<Self, KernelError> {
        segments.retain(|segment| segment.memory_size > 0);
        segments.sort_by_key(|segment| segment.guest_address);
        let mut free = LOWEST_ADDRESS;
        for segment in &segments {
            let address = segment.guest_address.raw_value();
            if address < LOWEST_ADDRESS {
                return Err(KernelError::LowAddress { address });
            }
            if address < free {
                return Err(KernelError::Overlap { address });
            }
            if segment.file_size > segment.memory_size {
                return Err(KernelError::Malformed(
                    "a segment has more bytes in the file than in memory".to_owned(),
                ));
            }
            free = address
                .checked_add(segment.memory_size)
                .ok_or_else(|| KernelError::Malformed("a segment wraps around".to_owned()))?;
        }
        if segments.iter().all(|segment| segment.file_size == 0) {
            return Err(KernelError::Malformed("it loads nothing".to_owned()));
        }
        Ok(Self {
            segments,
            linux64,
            pvh,
        })
    }

    /// First guest physical address after all of it.
    pub(super) fn end(&self) -> u64 {
        self.segments.last().map_or(LOWEST_ADDRESS, Segment::end)
    }

    /// Whether `address` is something that gets loaded.
    pub(super) fn contains(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|segment| (segment.guest_address.raw_value()..segment.end()).contains(&address))
    }
}
