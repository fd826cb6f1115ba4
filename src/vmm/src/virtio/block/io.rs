//! One call on an image: what is asked of the host, and how far it has come.
use std::{fmt, io, os::fd::RawFd};

use vm_memory::GuestMemoryMmap;

use super::{
    disk::Extent,
    image::{Alignment, Image},
};
use crate::virtio::{
    buffers,
    queue::{Broken, Segment},
};

/// What the host is asked to do with a range of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Into guest memory.
    Read,
    /// From guest memory, or zeroes.
    Write,
    /// Everything that was written before is to be on the host's disk.
    Flush,
    /// The range gives its room back, and reads as zeroes.
    Punch,
    /// The range reads as zeroes, and keeps its room.
    Zero,
}

/// A call, with the vectors that the host's kernel reads while it is under way: whoever performs it owns it.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) call: Call,
    extent: Extent,
    vectors: Vec<libc::iovec>,
    /// The first vector that is not done.
    next: usize,
    direct: bool,
}

// SAFETY: the vectors point into guest memory, which lives longer than any call (an engine is emptied before its queue, which
// keeps that memory, goes), or at zeroes that are never written. No thread of this program holds a reference to either.
unsafe impl Send for Io {}

/// How a call goes on after an answer from the host.
#[derive(Debug)]
pub(super) enum Progress {
    /// It is done.
    Done,
    /// There is more to transfer: it is to be performed again.
    More,
    /// The host refused.
    Failed(io::Error),
}

/// Zeroes to be written where the host has no quicker way.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

const PAGE: u64 = 4096;

impl Io {
    /// No call yet, and room for `vectors` of them without an allocation.
    pub(super) fn with_capacity(vectors: usize) -> Self {
        Self {
            call: Call::Flush,
            extent: Extent {
                offset: 0,
                length: 0,
            },
            vectors: Vec::with_capacity(vectors),
            next: 0,
            direct: false,
        }
    }

    /// Becomes `call` on `extent`, without data.
    pub(super) fn set(&mut self, call: Call, extent: Extent) {
        self.call = call;
        self.extent = extent;
        self.vectors.clear();
        self.next = 0;
        self.direct = false;
    }

    /// Its data is what `segments` name, in order.
    ///
    /// # Errors
    /// Where the guest has no RAM.
    pub(super) fn gather(
        &mut self,
        memory: &GuestMemoryMmap,
        segments: &[Segment],
    ) -> Result<(), Broken> {
        buffers::gather(memory, segments, 0, usize::MAX, &mut self.vectors)?;
        Ok(())
    }

    /// Goes around the page cache if all of it is aligned so.
    pub(super) fn choose_path(&mut self, alignment: Option<Alignment>) {
        self.direct = alignment.is_some_and(|alignment| {
            let fits = |value: u64, unit: u64| value.is_multiple_of(unit);
            fits(self.extent.offset, alignment.offset)
                && self.vectors.iter().all(|vector| {
                    fits(vector.iov_base as u64, alignment.memory)
                        && fits(vector.iov_len as u64, alignment.offset)
                })
        });
    }

    /// Becomes a write of zeroes over the same extent.
    pub(super) fn fill(&mut self) {
        self.set(Call::Write, self.extent);
        let mut left = usize::try_from(self.extent.length).unwrap_or(usize::MAX);
        while left > 0 {
            let piece = left.min(ZEROES.len());
            self.vectors.push(libc::iovec {
                // It is only ever read.
                iov_base: ZEROES.as_ptr().cast_mut().cast(),
                iov_len: piece,
            });
            left -= piece;
        }
    }

    /// Whether it goes around the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Where it goes on, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.extent.offset
    }

    /// How many bytes are left.
    pub(super) fn length(&self) -> u64 {
        self.extent.length
    }

    /// The vectors for the next system call.
    pub(super) fn vectors(&self) -> &[libc::iovec] {
        let rest = &self.vectors[self.next..];
        &rest[..rest.len().min(buffers::MAX_VECTORS)]
    }

    /// `FALLOC_FL_*` for what is no transfer.
    pub(super) fn allocation_flags(&self) -> libc::c_int {
        match self.call {
            Call::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            _ => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }

    /// What the host's answer means where it has failed to write back what it had taken. It says so to whoever flushes first, and then
    /// counts what it could not write as written (`fsync(2)`): the next flush would succeed, and lie. So none does, from then on.
    pub(super) fn judge(&self, answer: i32, image: &Image) -> i32 {
        if self.call != Call::Flush {
            return answer;
        }
        if [-libc::EIO, -libc::ENOSPC, -libc::EDQUOT].contains(&answer) {
            image.lose();
        }
        match answer {
            0.. if image.has_lost() => -libc::EIO,
            answer => answer,
        }
    }

    /// Takes the host's answer, as a count or a negative error number.
    pub(super) fn progress(&mut self, answer: i32) -> Progress {
        let done = match u64::try_from(answer) {
            Ok(done) => done,
            Err(_) => return failure(answer),
        };
        match self.call {
            Call::Flush | Call::Punch | Call::Zero => Progress::Done,
            Call::Read | Call::Write if done >= self.extent.length => Progress::Done,
            Call::Read if done == 0 => Progress::Failed(io::ErrorKind::UnexpectedEof.into()),
            Call::Write if done == 0 => Progress::Failed(io::ErrorKind::WriteZero.into()),
            Call::Read | Call::Write => {
                self.advance(done);
                Progress::More
            }
        }
    }

    fn advance(&mut self, done: u64) {
        self.extent.offset += done;
        self.extent.length -= done;
        // A transfer that stopped within a page is not aligned any more.
        self.direct &= done.is_multiple_of(PAGE);
        let mut done = usize::try_from(done).unwrap_or(usize::MAX);
        while let Some(vector) = self.vectors.get_mut(self.next) {
            if vector.iov_len > done {
                vector.iov_base = vector.iov_base.wrapping_byte_add(done);
                vector.iov_len -= done;
                return;
            }
            done -= vector.iov_len;
            self.next += 1;
        }
    }

    /// Performs it as far as one system call goes.
    pub(super) fn perform(&self, image: &Image) -> i32 {
        let fd = image.descriptor(self.direct);
        loop {
            let answer = self.call_host(fd);
            if answer != -libc::EINTR {
                return answer;
            }
        }
    }

    fn call_host(&self, fd: RawFd) -> i32 {
        let vectors = self.vectors();
        let count = libc::c_int::try_from(vectors.len()).expect("at most 1024");
        let (Ok(offset), Ok(length)) = (
            libc::off_t::try_from(self.extent.offset),
            libc::off_t::try_from(self.extent.length),
        ) else {
            return -libc::EINVAL;
        };
        let pointer = vectors.as_ptr();
        // SAFETY: each vector is a mapped piece of guest memory, or zeroes that are only read; no reference to guest memory exists
        // in this program, and the guest may change it at any time without more harm than other bytes on its own disk.
        let answer = unsafe {
            match self.call {
                Call::Read => libc::preadv(fd, pointer, count, offset),
                Call::Write => libc::pwritev(fd, pointer, count, offset),
                Call::Flush => libc::fdatasync(fd) as isize,
                Call::Punch | Call::Zero => {
                    libc::fallocate(fd, self.allocation_flags(), offset, length) as isize
                }
            }
        };
        match i32::try_from(answer) {
            Ok(answer) if answer >= 0 => answer,
            _ => -io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        }
    }
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extent { offset, length } = self.extent;
        match self.call {
            Call::Read => write!(f, "cannot read {length} bytes at {offset}"),
            Call::Write => write!(f, "cannot write {length} bytes at {offset}"),
            Call::Flush => f.write_str("cannot flush"),
            Call::Punch => write!(f, "cannot discard {length} bytes at {offset}"),
            Call::Zero => write!(f, "cannot zero {length} bytes at {offset}"),
        }
    }
}

fn failure(answer: i32) -> Progress {
    match answer.wrapping_neg() {
        libc::EINTR => Progress::More,
        number => Progress::Failed(io::Error::from_raw_os_error(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: Call = Call::Flush;

    fn image() -> Image {
        Image::cached(tempfile::tempfile().unwrap())
    }

    fn judge(image: &Image, call: Call, answer: i32) -> i32 {
        let mut io = Io::with_capacity(0);
        let (offset, length) = (0, 512);
        io.set(call, Extent { offset, length });
        io.judge(answer, image)
    }

    #[test]
    fn no_flush_succeeds_behind_one_that_failed() {
        for (call, error) in [
            (FLUSH, libc::EIO),
            (FLUSH, libc::ENOSPC),
            (FLUSH, libc::EDQUOT),
        ] {
            let image = image();
            assert_eq!(judge(&image, FLUSH, 0), 0);
            assert_eq!(judge(&image, call, -error), -error);
            assert_eq!(judge(&image, FLUSH, 0), -libc::EIO);
            // What promises nothing goes on.
            assert_eq!(judge(&image, Call::Write, 512), 512);
            assert_eq!(judge(&image, Call::Read, 512), 512);
            assert_eq!(judge(&image, Call::Punch, 0), 0);
        }
    }

    #[test]
    fn what_the_host_refuses_at_once_is_not_lost() {
        let image = image();
        for (call, error) in [
            (Call::Write, libc::EIO),
            (Call::Write, libc::ENOSPC),
            (Call::Read, libc::EIO),
            (Call::Zero, libc::EOPNOTSUPP),
            (FLUSH, libc::EINTR),
            (FLUSH, libc::EINVAL),
        ] {
            assert_eq!(judge(&image, call, -error), -error);
            assert_eq!(judge(&image, FLUSH, 0), 0);
        }
    }
}
