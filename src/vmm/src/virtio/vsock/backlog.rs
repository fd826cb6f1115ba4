//! What a guest has sent and a socket has not taken yet.
use std::{collections::VecDeque, io, os::fd::AsFd};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::host;
use crate::virtio::queue::{Broken, Segment};

/// Bytes that are allocated at a time. One piece that grew would be moved by the kernel (`mremap`), which its thread may not ask for.
const CHUNK: usize = 8 << 10;

/// Bytes on their way to the host, in order. Nothing is allocated while there are none.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Each is full, but for the last one.
    chunks: VecDeque<Vec<u8>>,
    /// How many bytes of the first one are gone.
    gone: usize,
    bytes: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Copies in what `segments` hold behind the first `skip` bytes, `length` bytes in all.
    ///
    /// # Errors
    /// Where the guest has no RAM, or the segments hold less.
    pub(super) fn copy(
        &mut self,
        memory: &GuestMemoryMmap,
        segments: &[Segment],
        mut skip: usize,
        length: usize,
    ) -> Result<(), Broken> {
        let mut left = length;
        for segment in segments {
            let whole = usize::try_from(segment.length).map_err(|_| Broken)?;
            let mut from = skip.min(whole);
            skip -= from;
            let end = from + (whole - from).min(left);
            left -= end - from;
            while from < end {
                let offset = u64::try_from(from).map_err(|_| Broken)?;
                let at = segment.address.0.checked_add(offset).ok_or(Broken)?;
                from += self.copy_piece(memory, GuestAddress(at), end - from)?;
            }
        }
        if left == 0 { Ok(()) } else { Err(Broken) }
    }

    /// Copies in up to `length` bytes, as many as the last chunk has room for; how many.
    fn copy_piece(
        &mut self,
        memory: &GuestMemoryMmap,
        at: GuestAddress,
        length: usize,
    ) -> Result<usize, Broken> {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push_back(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.back_mut().ok_or(Broken)?;
        let before = chunk.len();
        let piece = length.min(CHUNK - before);
        chunk.resize(before + piece, 0);
        self.bytes += piece;
        let read = memory.read_slice(&mut chunk[before..], at);
        read.map_err(|_| Broken).map(|()| piece)
    }

    /// Lets go what the socket takes; how much that was, and whether that was all.
    ///
    /// # Errors
    /// What the host says, but for a socket that takes nothing now.
    pub(super) fn flush(&mut self, socket: &impl AsFd) -> io::Result<(usize, bool)> {
        let mut skip = self.gone;
        let vectors = self.chunks.iter().map(|chunk| {
            let rest = &chunk[std::mem::take(&mut skip)..];
            libc::iovec {
                iov_base: rest.as_ptr().cast_mut().cast(),
                iov_len: rest.len(),
            }
        });
        // A connection's room is 33 chunks at most.
        let vectors: Vec<_> = vectors.collect();
        let sent = host::send(socket, &vectors)?;
        self.let_go(sent);
        Ok((sent, self.is_empty()))
    }

    fn let_go(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.gone += bytes;
        while let Some(first) = self.chunks.front()
            && (self.gone >= CHUNK || self.bytes == 0)
        {
            self.gone = self.gone.saturating_sub(first.len());
            self.chunks.pop_front();
        }
        if self.bytes == 0 {
            self.clear();
        }
    }

    /// Forgets everything, and gives its memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes in, in any pieces, goes out in its order, however much the socket takes at a time.
        #[test]
        fn bytes_stay_in_order(sizes in proptest::collection::vec((0usize..9000, 0usize..50, 0usize..30_000), 1..30)) {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            theirs.set_nonblocking(true).unwrap();
            let pattern: Vec<u8> = (0..1u32 << 20).map(|at| (at % 251).to_le_bytes()[0]).collect();
            memory.write_slice(&pattern, GuestAddress(0)).unwrap();
            let (mut backlog, mut expected, mut got) = (Backlog::default(), Vec::<u8>::new(), Vec::<u8>::new());
            for (size, skip, read) in sizes {
                let at = expected.len();
                let whole = u32::try_from(skip + size).unwrap();
                let segment = |from: usize, length: u32| Segment { address: GuestAddress(from as u64), length };
                let segments = [segment(at, whole / 3), segment(at + (whole / 3) as usize, whole - whole / 3)];
                backlog.copy(&memory, &segments, skip, size).unwrap();
                expected.extend(&pattern[at + skip..at + skip + size]);
                let (_, all) = backlog.flush(&ours).unwrap();
                prop_assert_eq!(all, backlog.is_empty());
                let mut piece = vec![0; read];
                let read = theirs.read(&mut piece).unwrap_or(0);
                got.extend(&piece[..read]);
            }
            let mut piece = [0; 4096];
            while got.len() < expected.len() {
                backlog.flush(&ours).unwrap();
                let read = theirs.read(&mut piece).unwrap();
                got.extend(&piece[..read]);
            }
            prop_assert!(backlog.is_empty() && backlog.chunks.is_empty());
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn what_is_not_there_is_not_copied() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        let segment = |address, length| Segment {
            address: GuestAddress(address),
            length,
        };
        let mut backlog = Backlog::default();
        assert!(backlog.copy(&memory, &[segment(0, 10)], 4, 7).is_err());
        assert!(backlog.copy(&memory, &[segment(4090, 10)], 0, 10).is_err());
        assert!(
            backlog
                .copy(&memory, &[segment(u64::MAX, 10)], 5, 5)
                .is_err()
        );
    }
}
