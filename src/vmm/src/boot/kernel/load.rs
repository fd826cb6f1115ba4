//! Copying a kernel into guest memory.
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{
    Address, GuestMemoryBackend, GuestMemoryRegion, GuestUsize, VolatileSlice, bitmap::BitmapSlice,
};

use super::layout::Segment;
use super::{Kernel, KernelError, LoadedKernel};

const MIB: u64 = 1 << 20;

impl Kernel {
    /// Checks that guest memory has room for the kernel, without touching it.
    ///
    /// # Errors
    /// [`KernelError::DoesNotFit`] past the end of memory, [`KernelError::OutsideMemory`] in a hole of it.
    pub fn check_room<M: GuestMemoryBackend>(&self, memory: &M) -> Result<(), KernelError> {
        for segment in self.segments() {
            let length = usize::try_from(segment.memory_size).unwrap_or(usize::MAX);
            if !memory.check_range(segment.guest_address, length) {
                return Err(no_room(segment, self.end().raw_value(), memory));
            }
        }
        Ok(())
    }

    /// Copies the kernel, as far as it is not [mapped](Self::map), into guest memory, which must be fresh: what the segments
    /// want zeroed (bss) is left alone.
    ///
    /// # Errors
    /// As [`check_room`](Self::check_room); [`KernelError::Changed`] when the file has become shorter,
    /// [`KernelError::Read`] when it cannot be read.
    pub fn load<M: GuestMemoryBackend>(&self, memory: &M) -> Result<LoadedKernel, KernelError> {
        self.check_room(memory)?;
        let mut bytes = 0u64;
        for segment in &self.to_copy {
            copy(self.file(), segment, memory)?;
            bytes = bytes.saturating_add(segment.file_size);
        }
        Ok(LoadedKernel {
            end: self.end(),
            bytes,
        })
    }
}

/// Why a segment does not fit: too far up for this guest, or in a hole.
fn no_room<M: GuestMemoryBackend>(segment: &Segment, end: u64, memory: &M) -> KernelError {
    let memory_end = memory
        .iter()
        .map(|region| region.last_addr().raw_value().saturating_add(1))
        .max()
        .unwrap_or(0);
    if segment.end() > memory_end {
        let total: GuestUsize = memory
            .iter()
            .fold(0, |sum, region| sum.saturating_add(region.len()));
        KernelError::DoesNotFit {
            needed_mib: end.div_ceil(MIB),
            guest_mib: total / MIB,
        }
    } else {
        KernelError::OutsideMemory {
            start: segment.guest_address.raw_value(),
            end: segment.end(),
        }
    }
}

/// Copies a segment's bytes, straight from the page cache into guest memory.
fn copy<M: GuestMemoryBackend>(
    file: &File,
    segment: &Segment,
    memory: &M,
) -> Result<(), KernelError> {
    // `check_room` has seen that at least `file_size` bytes of memory are there.
    let length = usize::try_from(segment.file_size).unwrap_or(usize::MAX);
    let mut offset = segment.file_offset;
    for slice in memory.get_slices(segment.guest_address, length) {
        let slice = slice.map_err(|error| KernelError::Read(io::Error::other(error)))?;
        let mut done = 0;
        while done < slice.len() {
            let rest = slice
                .offset(done)
                .map_err(|error| KernelError::Read(io::Error::other(error)))?;
            match read_at(file, offset, &rest) {
                Ok(0) => return Err(KernelError::Changed),
                Ok(count) => {
                    done = done.saturating_add(count);
                    offset = offset.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(KernelError::Read(error)),
            }
        }
    }
    Ok(())
}

/// `pread(2)` into guest memory. vm-memory's own reads move the descriptor's offset, which other readers may share.
fn read_at<B: BitmapSlice>(
    file: &File,
    offset: u64,
    slice: &VolatileSlice<'_, B>,
) -> io::Result<usize> {
    let offset =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: the guard's pointer is valid for writes of `slice.len()` bytes while it lives, by the invariants of
    // `VolatileSlice`; the kernel writes no more than that, and no Rust reference to guest memory exists.
    let count =
        unsafe { libc::pread(file.as_raw_fd(), guard.as_ptr().cast(), slice.len(), offset) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    slice.bitmap().mark_dirty(0, count);
    Ok(count)
}
