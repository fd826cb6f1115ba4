//! The three rings of a split virtqueue in guest memory (virtio 1.3 §2.7.5, §2.7.6, §2.7.8). Where they lie is looked up once, when
//! the queue is frozen: a request touches them a dozen times.
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion,
    VolatileMemory, VolatileSlice,
};

use super::{Broken, Setup};

/// Bytes of a descriptor, and what its table's address is a multiple of.
const DESCRIPTOR: u64 = 16;
/// Bytes of an entry of the available ring.
const AVAILABLE: u64 = 2;
/// Bytes of an entry of the used ring.
const USED: u64 = 8;
/// Where the index of either ring is, behind its flags.
const INDEX: usize = 2;
/// Where the entries of either ring begin.
const ENTRIES: usize = 4;
/// What is not an entry: flags and index before, an event behind.
const AROUND: u64 = 6;

/// One ring, or the table: a range of guest memory that stays where it is.
#[derive(Debug)]
struct Window {
    mapping: Arc<MmapRegion>,
    offset: usize,
    length: usize,
}

impl Window {
    /// The `length` bytes at `address`, a multiple of `alignment`, if there is RAM, in one piece.
    fn new(memory: &GuestMemoryMmap, address: u64, length: u64, alignment: u64) -> Option<Self> {
        let address = GuestAddress(address);
        let region = memory.find_region(address)?;
        let offset = region.to_region_addr(address)?.raw_value();
        let window = Self {
            mapping: region.get_mmap(),
            offset: usize::try_from(offset).ok()?,
            length: usize::try_from(length).ok()?,
        };
        let aligned = |value: u64| value.is_multiple_of(alignment);
        let fits = aligned(address.0) && aligned(offset) && window.slice().is_ok();
        fits.then_some(window)
    }

    fn slice(&self) -> Result<VolatileSlice<'_>, Broken> {
        let slice = self.mapping.get_slice(self.offset, self.length);
        slice.map_err(|_| Broken)
    }

    /// A word that the driver uses at the same time.
    fn word(&self, at: usize) -> Result<&AtomicU16, Broken> {
        let word = self.mapping.get_atomic_ref(self.offset + at);
        word.map_err(|_| Broken)
    }
}

/// The rings of a queue, checked: all of each is RAM. Nothing that is in them is.
#[derive(Debug)]
pub(super) struct Rings {
    size: u16,
    descriptors: Window,
    available: Window,
    used: Window,
}

impl Rings {
    /// Those of `setup`, if they are what §2.7 wants, and the driver has enabled them.
    pub(super) fn new(setup: &Setup, memory: &GuestMemoryMmap) -> Option<Self> {
        let Setup { size, max_size, .. } = *setup;
        let entries = u64::from(size);
        if !setup.ready || !size.is_power_of_two() || size > max_size || setup.available == 0 {
            return None;
        }
        let window = |address, length, alignment| Window::new(memory, address, length, alignment);
        Some(Self {
            size,
            descriptors: window(setup.descriptors, DESCRIPTOR * entries, DESCRIPTOR)?,
            available: window(setup.available, AVAILABLE * entries + AROUND, 2)?,
            used: window(setup.used, USED * entries + AROUND, 4)?,
        })
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// The descriptor table.
    pub(super) fn descriptors(&self) -> Result<VolatileSlice<'_>, Broken> {
        self.descriptors.slice()
    }

    /// Where the entry that `index` counts is.
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// How many requests the driver has made available, ever. With `Acquire`, what it wrote of them before can be read.
    pub(super) fn available_index(&self, order: Ordering) -> Result<u16, Broken> {
        let word = self.available.word(INDEX)?;
        Ok(u16::from_le(word.load(order)))
    }

    /// The head of the request that `index` counts.
    pub(super) fn available(&self, index: u16) -> Result<u16, Broken> {
        let word = self.available.word(ENTRIES + 2 * self.slot(index))?;
        Ok(u16::from_le(word.load(Ordering::Relaxed)))
    }

    /// The driver's wish not to be interrupted, where there are no events (§2.7.7).
    pub(super) fn available_flags(&self) -> Result<u16, Broken> {
        let word = self.available.word(0)?;
        Ok(u16::from_le(word.load(Ordering::Relaxed)))
    }

    /// With which used request the driver wants to be interrupted (§2.7.7).
    pub(super) fn used_event(&self) -> Result<u16, Broken> {
        let behind = ENTRIES + 2 * usize::from(self.size);
        let word = self.available.word(behind)?;
        Ok(u16::from_le(word.load(Ordering::Relaxed)))
    }

    /// Puts what is given back where `index` counts it.
    pub(super) fn set_used(&self, index: u16, head: u16, written: u32) -> Result<(), Broken> {
        let at = self.used.offset + ENTRIES + 8 * self.slot(index);
        let entry = u64::from(head) | u64::from(written) << 32;
        let place = self.used.mapping.get_ref::<u64>(at);
        place.map_err(|_| Broken)?.store(entry.to_le());
        Ok(())
    }

    /// So many were given back, ever: whoever sees it sees what was written before.
    pub(super) fn set_used_index(&self, index: u16) -> Result<(), Broken> {
        let word = self.used.word(INDEX)?;
        word.store(index.to_le(), Ordering::Release);
        Ok(())
    }

    /// Our wish not to be rung, where there are no events (§2.7.10).
    pub(super) fn set_used_flags(&self, flags: u16) -> Result<(), Broken> {
        let word = self.used.word(0)?;
        word.store(flags.to_le(), Ordering::Relaxed);
        Ok(())
    }

    /// With which available request we want to be rung (§2.7.10).
    pub(super) fn set_available_event(&self, index: u16) -> Result<(), Broken> {
        let behind = ENTRIES + 8 * usize::from(self.size);
        let word = self.used.word(behind)?;
        word.store(index.to_le(), Ordering::Relaxed);
        Ok(())
    }
}
