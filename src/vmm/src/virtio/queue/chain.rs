//! Descriptor chains (virtio 1.3 §2.7.5): what a driver asks for, read once, with every rule looked after.
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use super::Broken;

/// Most descriptors of one chain: what Linux's drivers send at most, and what a vectored system call takes.
pub const MAX_SEGMENTS: usize = 1024;

/// A piece of guest memory that a descriptor names. Nothing says yet that there is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddress,
    /// Its bytes.
    pub length: u32,
}

/// A request: what the device may read, then what it may write. Kept from one request to the next, so that none allocates.
#[derive(Debug, Default)]
pub struct Chain {
    /// The index by which it is given back.
    pub head: u16,
    /// What the driver wrote for us.
    pub readable: Vec<Segment>,
    /// Where we may answer.
    pub writable: Vec<Segment>,
}

/// Bytes of a descriptor.
const SIZE: usize = 16;

/// Descriptor flags (§2.7.5).
mod flag {
    pub(super) const NEXT: u16 = 1;
    pub(super) const WRITE: u16 = 2;
    pub(super) const INDIRECT: u16 = 4;
}

/// A descriptor, copied out of guest memory.
struct Descriptor {
    segment: Segment,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Entry `index` of `table`.
    fn read(table: &VolatileSlice<'_>, index: u16) -> Result<Self, Broken> {
        let at = usize::from(index) * SIZE;
        let words = table.get_ref::<[u64; 2]>(at).map_err(|_| Broken)?.load();
        let [address, rest] = words.map(u64::from_le);
        let [low, high] = [rest & 0xffff_ffff, rest >> 32];
        let length = u32::try_from(low).map_err(|_| Broken)?;
        let flags = u16::try_from(high & 0xffff).map_err(|_| Broken)?;
        let next = u16::try_from(high >> 16).map_err(|_| Broken)?;
        let address = GuestAddress(address);
        let segment = Segment { address, length };
        Ok(Self {
            segment,
            flags,
            next,
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The table that it is the place of (§2.7.5.3), and its entries.
    fn table<'m>(&self, memory: &'m GuestMemoryMmap) -> Result<(VolatileSlice<'m>, u16), Broken> {
        let Segment { address, length } = self.segment;
        let length = usize::try_from(length).map_err(|_| Broken)?;
        let entries = u16::try_from(length / SIZE).map_err(|_| Broken)?;
        if !length.is_multiple_of(SIZE) {
            return Err(Broken);
        }
        let table = memory.get_slice(address, length).map_err(|_| Broken)?;
        Ok((table, entries))
    }
}

impl Chain {
    /// Becomes the chain that starts at `head` in a table of `size` entries.
    ///
    /// # Errors
    /// When it is none, by the rules of §2.7.
    pub(super) fn follow<'m>(
        &mut self,
        head: u16,
        size: u16,
        mut table: VolatileSlice<'m>,
        memory: &'m GuestMemoryMmap,
    ) -> Result<(), Broken> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        let (mut index, mut entries) = (head, size);
        let mut indirect = false;
        // Longer than its table is a loop; longer than 32 bits count it may not be (§2.7.5.2).
        let (mut left, mut bytes) = (size, 0_u32);
        loop {
            if left == 0 || index >= entries {
                return Err(Broken);
            }
            let descriptor = Descriptor::read(&table, index)?;
            if descriptor.has(flag::INDIRECT) {
                if indirect {
                    return Err(Broken);
                }
                indirect = true;
                (table, entries) = descriptor.table(memory)?;
                (index, left) = (0, entries);
                continue;
            }
            let length = descriptor.segment.length;
            bytes = bytes.checked_add(length).ok_or(Broken)?;
            self.add(&descriptor)?;
            if !descriptor.has(flag::NEXT) {
                return Ok(());
            }
            index = descriptor.next;
            left -= 1;
        }
    }

    fn add(&mut self, descriptor: &Descriptor) -> Result<(), Broken> {
        if self.readable.len() + self.writable.len() == MAX_SEGMENTS {
            return Err(Broken);
        }
        if descriptor.has(flag::WRITE) {
            self.writable.push(descriptor.segment);
        } else if self.writable.is_empty() {
            self.readable.push(descriptor.segment);
        } else {
            return Err(Broken);
        }
        Ok(())
    }
}
