//! What a guest has sent and a socket has not taken yet.
use std::{collections::VecDeque, io};

use vm_memory::{Bytes, GuestMemoryMmap};

use super::host;
use crate::virtio::queue::{Broken, Segment};

/// Bytes on their way to the host, in order. Nothing is allocated while there are none.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<u8>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
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
            let from = skip.min(whole);
            skip -= from;
            let piece = (whole - from).min(left);
            if piece == 0 {
                continue;
            }
            let from = u64::try_from(from).map_err(|_| Broken)?;
            self.copy_piece(
                memory,
                segment.address.0.checked_add(from).ok_or(Broken)?,
                piece,
            )?;
            left -= piece;
        }
        if left == 0 { Ok(()) } else { Err(Broken) }
    }

    fn copy_piece(
        &mut self,
        memory: &GuestMemoryMmap,
        at: u64,
        length: usize,
    ) -> Result<(), Broken> {
        let before = self.0.len();
        self.0.resize(before + length, 0);
        let (front, back) = self.0.as_mut_slices();
        let in_front = front.len().saturating_sub(before);
        let (front, back) = match in_front {
            0 => (&mut [][..], &mut back[before - front.len()..]),
            _ => (&mut front[before..], back),
        };
        let address = vm_memory::GuestAddress;
        let behind = at + u64::try_from(front.len()).map_err(|_| Broken)?;
        memory
            .read_slice(front, address(at))
            .and_then(|()| memory.read_slice(back, address(behind)))
            .map_err(|_| Broken)
    }

    /// Lets go what the socket takes; how much that was, and whether that was all.
    ///
    /// # Errors
    /// What the host says, but for a socket that takes nothing now.
    pub(super) fn flush(&mut self, socket: &impl std::os::fd::AsFd) -> io::Result<(usize, bool)> {
        let mut flushed = 0;
        while !self.0.is_empty() {
            let (front, back) = self.0.as_slices();
            let (wanted, taken) = (self.0.len(), host::send_slices(socket, [front, back])?);
            self.0.drain(..taken);
            flushed += taken;
            if taken < wanted {
                return Ok((flushed, false));
            }
        }
        self.clear();
        Ok((flushed, true))
    }

    /// Forgets everything, and gives its memory back.
    pub(super) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}
