//! What descriptors name, as bytes and as the vectors of system calls.
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::queue::{Broken, Segment};

/// Most vectors of one system call: `UIO_MAXIOV`.
pub(super) const MAX_VECTORS: usize = 1024;

/// Adds what `segments` name behind their first `skip` bytes to `vectors`, up to `limit` bytes; how many that is.
///
/// # Errors
/// Where the guest has no RAM.
pub(super) fn gather(
    memory: &GuestMemoryMmap,
    segments: &[Segment],
    mut skip: usize,
    limit: usize,
    vectors: &mut Vec<libc::iovec>,
) -> Result<usize, Broken> {
    let mut left = limit;
    for segment in segments {
        let whole = bytes(segment);
        let from = skip.min(whole);
        skip -= from;
        let length = (whole - from).min(left);
        if length == 0 {
            continue;
        }
        left -= length;
        let offset = u64::try_from(from).map_err(|_| Broken)?;
        let start = GuestAddress(segment.address.0.checked_add(offset).ok_or(Broken)?);
        if let Ok(slice) = memory.get_slice(start, length) {
            vectors.push(vector(&slice));
            continue;
        }
        // It crosses from one region to the next.
        for slice in memory.get_slices(start, length) {
            vectors.push(vector(&slice.map_err(|_| Broken)?));
        }
    }
    Ok(limit - left)
}

fn vector(slice: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    }
}

/// Fills `buffer` from the start of `segments`, once.
///
/// # Errors
/// Where the guest has no RAM, and when they name fewer bytes.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(address: u64, length: u32) -> Segment {
        Segment {
            address: GuestAddress(address),
            length,
        }
    }

    /// Two regions that touch, and nothing behind them.
    fn memory() -> GuestMemoryMmap {
        let ranges = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    fn lengths(segments: &[Segment], skip: usize, limit: usize) -> Result<Vec<usize>, Broken> {
        let mut vectors = Vec::new();
        let gathered = gather(&memory(), segments, skip, limit, &mut vectors)?;
        let lengths: Vec<_> = vectors.iter().map(|vector| vector.iov_len).collect();
        assert_eq!(gathered, lengths.iter().sum::<usize>());
        Ok(lengths)
    }

    #[test]
    fn a_vector_for_each_piece_of_memory_in_one() {
        let segments = [segment(0x100, 16), segment(0, 0), segment(0xff0, 32)];
        assert_eq!(lengths(&segments, 0, usize::MAX).unwrap(), [16, 16, 16]);
        assert_eq!(lengths(&segments, 20, usize::MAX).unwrap(), [12, 16]);
        assert_eq!(lengths(&segments, 10, 8).unwrap(), [6, 2]);
        assert!(lengths(&segments, 48, usize::MAX).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_there_is_an_error_unless_nothing_is_wanted_of_it() {
        for bad in [segment(0x1ff0, 32), segment(u64::MAX, 2)] {
            assert!(lengths(&[bad], 0, usize::MAX).is_err());
            assert!(lengths(&[segment(0, 4), bad], 0, 4).is_ok());
            assert!(copy_in(&memory(), &[bad], &mut [0; 20]).is_err());
        }
        assert!(lengths(&[segment(u64::MAX, 4)], 1, usize::MAX).is_err());
        assert!(copy_in(&memory(), &[segment(0, 3)], &mut [0; 4]).is_err());
    }
}
