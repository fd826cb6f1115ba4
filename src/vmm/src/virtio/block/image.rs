//! What a disk keeps its sectors in: a file or a block device of the host, raw.
use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{AtFlags, StatxFlags, statx};

use super::turns::Turns;

/// An opened image.
#[derive(Debug)]
pub struct Image {
    file: File,
    direct: Option<Direct>,
    /// Whether the host failed to write back what it had taken.
    lost: AtomicBool,
    /// Whose turn it is to flush it.
    pub(super) turns: Turns,
    /// By which it is locked.
    _claim: Option<File>,
}

/// The same image without the host's page cache.
#[derive(Debug)]
struct Direct {
    file: File,
    alignment: Alignment,
}

/// What memory and place on the disk of a transfer must be multiples of, in bytes, when it goes around the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    pub(super) memory: u64,
    pub(super) offset: u64,
}

impl Image {
    /// The image in `file`, through the host's page cache.
    pub fn cached(file: File) -> Self {
        Self {
            file,
            direct: None,
            lost: AtomicBool::new(false),
            turns: Turns::default(),
            _claim: None,
        }
    }

    /// The image in `file`, around the page cache by `direct`, which has the same open with `O_DIRECT`. What is not aligned as the
    /// host wants it goes through `file` all the same: the host keeps both views one.
    pub fn direct(file: File, direct: File) -> Self {
        let alignment = alignment(&direct);
        Self {
            file,
            direct: Some(Direct {
                file: direct,
                alignment,
            }),
            lost: AtomicBool::new(false),
            turns: Turns::default(),
            _claim: None,
        }
    }

    /// The same image, locked by `claim`: the same open once more. It is used for nothing else, as an io_uring keeps what it knows open for
    /// some time after the end of its process (it waits for grace periods), and the lock would last as long.
    pub fn claimed(self, claim: File) -> Self {
        Self {
            _claim: Some(claim),
            ..self
        }
    }

    /// Its bytes now: files grow and shrink.
    ///
    /// # Errors
    /// What the host says.
    pub fn bytes(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }

    /// The host failed to write back what it had taken: what is in the image is not known any more.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Whether that happened since it was opened.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// What was written to it is on the host's disk, unless it is known that some of it is lost.
    ///
    /// # Errors
    /// What the host says: it is lost, then.
    pub(super) fn settle(&self) -> io::Result<()> {
        if self.has_lost() {
            return Ok(());
        }
        self.file.sync_data().inspect_err(|_| self.lose())
    }

    /// How transfers must be aligned to go around the page cache; none when they never do.
    pub(super) fn alignment(&self) -> Option<Alignment> {
        self.direct.as_ref().map(|direct| direct.alignment)
    }

    /// The descriptor for transfers that go through the page cache, or around it.
    pub(super) fn descriptor(&self, direct: bool) -> RawFd {
        match &self.direct {
            Some(around) if direct => around.file.as_raw_fd(),
            _ => self.file.as_raw_fd(),
        }
    }
}

/// As `statx(2)` says, from Linux 6.1 on; else a page, which is enough everywhere.
fn alignment(file: &File) -> Alignment {
    const STATX_DIOALIGN: u32 = 0x2000;
    const PAGE: u64 = 4096;
    let mask = StatxFlags::from_bits_retain(STATX_DIOALIGN);
    let told = statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, mask).ok();
    let told = told.filter(|told| told.stx_mask & STATX_DIOALIGN != 0);
    let of = |value: u32| match u64::from(value) {
        value if value.is_power_of_two() => value,
        _ => PAGE,
    };
    Alignment {
        memory: told.map_or(PAGE, |told| of(told.stx_dio_mem_align)),
        offset: told.map_or(PAGE, |told| of(told.stx_dio_offset_align)),
    }
}
