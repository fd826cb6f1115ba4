//! What a block device keeps its sectors in: a file or a block device of the host, raw.
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::fs::FallocateFlags;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use crate::virtio::queue::Segment;

/// Bytes of a sector, the unit of all addresses and lengths (virtio 1.3 §5.2.6).
pub const SECTOR: u64 = 512;

/// When the guest's writes reach the host's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// When the guest flushes.
    #[default]
    WriteBack,
    /// Before the guest is told that they are done.
    WriteThrough,
}

/// An opened image.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    cache: Cache,
    serial: [u8; 20],
}

/// A range that the guest gives up or wants to read as zeroes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Disk {
    /// The image in `file`, of `bytes` bytes: what is left behind the last whole sector does not exist for the guest. `serial` is cut to 20 bytes.
    pub fn new(file: File, bytes: u64, read_only: bool, cache: Cache, serial: &str) -> Self {
        let mut id = [0; 20];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Self {
            file,
            sectors: bytes / SECTOR,
            read_only,
            cache,
            serial: id,
        }
    }

    /// Its size, in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the guest may not write.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether writes wait for a flush.
    pub fn is_write_back(&self) -> bool {
        self.cache == Cache::WriteBack
    }

    /// How it calls itself, padded with zeroes.
    pub fn serial(&self) -> &[u8; 20] {
        &self.serial
    }

    /// The range of `length` bytes from `sector` on, if it is whole sectors of this disk.
    pub fn extent(&self, sector: u64, length: u64) -> Option<Extent> {
        let end = sector.checked_add(length / SECTOR)?;
        let fits = length.is_multiple_of(SECTOR) && end <= self.sectors;
        fits.then(|| Extent {
            offset: sector * SECTOR,
            length,
        })
    }

    /// Reads from `offset` on into guest memory.
    ///
    /// # Errors
    /// What the host says; `InvalidInput` where the guest has no RAM; `UnexpectedEof` where the image has become shorter.
    pub fn read(&self, offset: u64, into: &mut Buffers<'_>) -> io::Result<()> {
        into.transfer(self.file.as_raw_fd(), offset, libc::preadv)
    }

    /// Writes from guest memory, from `offset` on.
    ///
    /// # Errors
    /// What the host says; `InvalidInput` where the guest has no RAM.
    pub fn write(&self, offset: u64, from: &mut Buffers<'_>) -> io::Result<()> {
        from.transfer(self.file.as_raw_fd(), offset, libc::pwritev)?;
        self.settle()
    }

    /// Everything written before is on the host's disk.
    ///
    /// # Errors
    /// When the host cannot say so.
    pub fn flush(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// The guest needs what is in `extent` no more: the image gives its room back.
    ///
    /// # Errors
    /// `Unsupported` where the host's file system cannot; else what it says.
    pub fn discard(&self, extent: Extent) -> io::Result<()> {
        self.punch(extent)?;
        self.settle()
    }

    /// `extent` reads as zeroes from now on; its room may be given back with `unmap`.
    ///
    /// # Errors
    /// What the host says.
    pub fn write_zeroes(&self, extent: Extent, unmap: bool) -> io::Result<()> {
        let done = if unmap {
            self.punch(extent)
        } else {
            self.fallocate(
                FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                extent,
            )
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.fill(extent)?,
            other => other?,
        }
        self.settle()
    }

    fn punch(&self, extent: Extent) -> io::Result<()> {
        self.fallocate(
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            extent,
        )
    }

    fn fallocate(&self, how: FallocateFlags, extent: Extent) -> io::Result<()> {
        Ok(rustix::fs::fallocate(
            self.file.as_fd(),
            how,
            extent.offset,
            extent.length,
        )?)
    }

    /// Zeroes written one by one, where the host has no quicker way.
    fn fill(&self, extent: Extent) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        const ZEROES: [u8; 4096] = [0; 4096];
        let end = extent.offset + extent.length;
        for at in (extent.offset..end).step_by(ZEROES.len()) {
            let piece =
                usize::try_from(end - at).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
            self.file.write_all_at(&ZEROES[..piece], at)?;
        }
        Ok(())
    }

    /// With write-through, what was just done is on the disk before the guest hears of it.
    fn settle(&self) -> io::Result<()> {
        match self.cache {
            Cache::WriteBack => Ok(()),
            Cache::WriteThrough => self.flush(),
        }
    }
}

/// Pieces of guest memory for one vectored system call, which reads or writes them directly.
#[derive(Default)]
pub struct Buffers<'a> {
    slices: Vec<VolatileSlice<'a>>,
    vectors: Vec<libc::iovec>,
}

type Vectored = unsafe extern "C" fn(
    libc::c_int,
    *const libc::iovec,
    libc::c_int,
    libc::off_t,
) -> libc::ssize_t;

impl<'a> Buffers<'a> {
    /// What `segments` name, in order.
    ///
    /// # Errors
    /// Where the guest has no RAM.
    pub fn gather(&mut self, memory: &'a GuestMemoryMmap, segments: &[Segment]) -> io::Result<()> {
        self.slices.clear();
        for segment in segments {
            let length = usize::try_from(segment.length).expect("32 bits fit a usize");
            for slice in memory.get_slices(segment.address, length) {
                let slice = slice.map_err(|_| io::ErrorKind::InvalidInput)?;
                self.slices.push(slice);
            }
        }
        Ok(())
    }

    /// Calls `call` until all bytes went.
    fn transfer(&mut self, fd: libc::c_int, offset: u64, call: Vectored) -> io::Result<()> {
        /// `UIO_MAXIOV`.
        const MOST: usize = 1024;
        let guards: Vec<_> = self
            .slices
            .iter()
            .map(VolatileSlice::ptr_guard_mut)
            .collect();
        self.vectors.clear();
        self.vectors.extend(guards.iter().map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast(),
            iov_len: guard.len(),
        }));
        let (mut at, mut rest) = (offset, self.vectors.as_mut_slice());
        while !rest.is_empty() {
            let count = libc::c_int::try_from(rest.len().min(MOST)).expect("at most 1024");
            let from = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: each vector is a mapped piece of guest memory, kept by `guards`; no reference to it exists in this
            // program, and the guest may change it at any time without more harm than other bytes on its own disk.
            let done = unsafe { call(fd, rest.as_ptr(), count, from) };
            let done = match usize::try_from(done) {
                Ok(0) if rest.iter().any(|vector| vector.iov_len > 0) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(done) => done,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() == io::ErrorKind::Interrupted {
                        continue;
                    }
                    return Err(error);
                }
            };
            at += u64::try_from(done).expect("a length fits");
            rest = advance(rest, done);
        }
        Ok(())
    }
}

/// The vectors that are left after `done` bytes.
fn advance(mut vectors: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    loop {
        match vectors {
            [first, ..] if first.iov_len > done => {
                first.iov_base = first.iov_base.wrapping_byte_add(done);
                first.iov_len -= done;
                return vectors;
            }
            [first, ..] => {
                done -= first.iov_len;
                vectors = &mut vectors[1..];
            }
            [] => return vectors,
        }
    }
}
