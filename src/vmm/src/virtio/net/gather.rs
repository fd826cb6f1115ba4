//! Guest memory as the vectors of system calls.
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryMmap};

use crate::virtio::queue::{Broken, Segment};

/// Most vectors of one system call: `UIO_MAXIOV`.
pub(super) const MAX_VECTORS: usize = 1024;

/// Adds what `segments` name behind their first `skip` bytes to `vectors`.
///
/// # Errors
/// Where the guest has no RAM.
pub(super) fn gather(
    memory: &GuestMemoryMmap,
    segments: &[Segment],
    mut skip: usize,
    vectors: &mut Vec<libc::iovec>,
) -> Result<(), Broken> {
    for segment in segments {
        let length = bytes(segment);
        let left_out = skip.min(length);
        skip -= left_out;
        if left_out == length {
            continue;
        }
        let address = segment.address.0.checked_add(left_out as u64);
        let address = vm_memory::GuestAddress(address.ok_or(Broken)?);
        for slice in memory.get_slices(address, length - left_out) {
            let slice = slice.map_err(|_| Broken)?;
            vectors.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
    }
    Ok(())
}

/// Fills `buffer` from the start of `segments`, whose bytes are at least as many.
///
/// # Errors
/// Where the guest has no RAM.
pub(super) fn copy_in(
    memory: &GuestMemoryMmap,
    segments: &[Segment],
    buffer: &mut [u8],
) -> Result<(), Broken> {
    let mut done = 0;
    for segment in segments {
        let piece = bytes(segment).min(buffer.len() - done);
        let read = memory.read_slice(&mut buffer[done..done + piece], segment.address);
        read.map_err(|_| Broken)?;
        done += piece;
        if done == buffer.len() {
            return Ok(());
        }
    }
    Err(Broken)
}

/// The bytes of all `segments`.
pub(super) fn total(segments: &[Segment]) -> usize {
    // As many as a chain has at most, of 32 bits each: no overflow.
    segments.iter().map(bytes).sum()
}

fn bytes(segment: &Segment) -> usize {
    usize::try_from(segment.length).expect("32 bits fit a usize")
}
