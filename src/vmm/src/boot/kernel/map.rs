//! Lending a kernel's pages to the guest instead of copying them.
use std::os::unix::fs::MetadataExt;

use rustix::mm::{MapFlags, ProtFlags, mmap};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use super::layout::Segment;
use super::{Kernel, KernelError};

const PAGE: u64 = 4096;

impl Kernel {
    /// Maps the kernel's whole pages from the page cache over guest memory, privately: the guest's writes stay its own.
    /// [`load`](Self::load) then copies only what is left. Gives the bytes mapped.
    ///
    /// For memory that is private and not of huge pages. A file that anybody but its owner could write to is not mapped,
    /// since the guest would see it change.
    ///
    /// # Errors
    /// As [`check_room`](Self::check_room); [`KernelError::Read`] when the host cannot map a page.
    pub fn map(&mut self, memory: &GuestMemoryMmap) -> Result<u64, KernelError> {
        self.check_room(memory)?;
        if !self.is_owners_alone() {
            return Ok(0);
        }
        let mut mapped = 0;
        let mut rest = Vec::with_capacity(self.to_copy.len());
        for segment in &self.to_copy {
            let bytes = self.map_segment(segment, memory)?;
            mapped += bytes;
            rest.push(Segment {
                file_offset: segment.file_offset + bytes,
                file_size: segment.file_size - bytes,
                guest_address: segment.guest_address.unchecked_add(bytes),
                memory_size: segment.memory_size - bytes,
            });
        }
        self.to_copy = rest;
        Ok(mapped)
    }

    /// Whether nobody but root and this user can change the file.
    fn is_owners_alone(&self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.file.metadata().is_ok_and(|metadata| {
            [0, own].contains(&metadata.uid()) && metadata.mode() & 0o022 == 0
        })
    }

    /// Maps a segment's first whole pages, and says how many bytes those are.
    fn map_segment(&self, segment: &Segment, memory: &GuestMemoryMmap) -> Result<u64, KernelError> {
        let start = segment.guest_address;
        let bytes = segment.file_size / PAGE * PAGE;
        let aligned =
            start.raw_value().is_multiple_of(PAGE) && segment.file_offset.is_multiple_of(PAGE);
        let Some(region) = memory.find_region(start).filter(|_| aligned && bytes > 0) else {
            return Ok(0);
        };
        if region.file_offset().is_some() || !holds(region, segment, bytes) {
            return Ok(0);
        }
        let host = memory
            .get_host_address(start)
            .map_err(|error| KernelError::Read(std::io::Error::other(error)))?;
        let length = usize::try_from(bytes).expect("a region has at most a usize of bytes");
        // SAFETY: all `length` bytes at `host` are within one region's own mapping, which is private and anonymous, and
        // nobody holds a reference to guest memory. The region unmaps what lies in it, whatever it is.
        unsafe {
            mmap(
                host.cast(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                &self.file,
                segment.file_offset,
            )
        }
        .map_err(|error| KernelError::Read(error.into()))?;
        Ok(bytes)
    }
}

fn holds(region: &GuestRegionMmap, segment: &Segment, bytes: u64) -> bool {
    let offset = segment
        .guest_address
        .unchecked_offset_from(region.start_addr());
    region
        .len()
        .checked_sub(offset)
        .is_some_and(|room| bytes <= room)
}
