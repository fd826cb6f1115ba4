//! What a guest tells of its memory (virtio 1.3 §5.5.6.3). It may say anything.
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestMemoryMmap};

use crate::virtio::queue::{Broken, Segment};

/// Bytes of an entry: a tag of 16 bits, a value of 64.
const ENTRY: usize = 10;
/// Most entries that are read of one answer: there are 16 tags.
const MAX_ENTRIES: usize = 64;

macro_rules! statistics {
    ($($(#[$doc:meta])* $name:ident = $tag:literal,)+) => {
        /// What the guest told last, of each kind that it ever told.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Statistics {
            $($(#[$doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $name: Option<u64>,)+
        }

        impl Statistics {
            /// Takes one entry. Tags that nobody knows yet are left out.
            fn take(&mut self, tag: u16, value: u64) {
                match tag {
                    $($tag => self.$name = Some(value),)+
                    _ => {}
                }
            }
        }
    };
}

statistics! {
    /// Bytes swapped in.
    swap_in = 0,
    /// Bytes swapped out.
    swap_out = 1,
    /// Major page faults.
    major_faults = 2,
    /// Minor page faults.
    minor_faults = 3,
    /// Bytes that are used for nothing.
    free_memory = 4,
    /// Bytes of all memory that the guest manages.
    total_memory = 5,
    /// Bytes that programs could be given without swapping.
    available_memory = 6,
    /// Bytes that could be reclaimed without I/O.
    disk_caches = 7,
    /// Huge pages that were given to programs.
    hugetlb_allocations = 8,
    /// Huge pages that could not be.
    hugetlb_failures = 9,
    /// Programs that were killed for want of memory.
    oom_kill = 10,
    /// Times that a program had to reclaim memory itself.
    alloc_stall = 11,
    /// Pages scanned in the background.
    async_scan = 12,
    /// Pages scanned by programs that wanted memory.
    direct_scan = 13,
    /// Pages reclaimed in the background.
    async_reclaim = 14,
    /// Pages reclaimed by programs that wanted memory.
    direct_reclaim = 15,
}

impl Statistics {
    /// Takes the guest's answer in. What it does not tell this time stays.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn take_answer(
        &mut self,
        segments: &[Segment],
        memory: &GuestMemoryMmap,
    ) -> Result<(), Broken> {
        let mut bytes = [0; ENTRY * MAX_ENTRIES];
        let mut filled = 0;
        for segment in segments {
            let length = usize::try_from(segment.length).map_err(|_| Broken)?;
            let room = &mut bytes[filled..];
            let piece = length.min(room.len());
            memory
                .read_slice(&mut room[..piece], segment.address)
                .map_err(|_| Broken)?;
            filled += piece;
        }
        let (entries, _) = bytes[..filled].as_chunks::<ENTRY>();
        for entry in entries {
            let (tag, value) = entry.split_first_chunk::<2>().expect("ten bytes");
            let value = value.first_chunk::<8>().expect("eight bytes");
            self.take(u16::from_le_bytes(*tag), u64::from_le_bytes(*value));
        }
        Ok(())
    }
}
