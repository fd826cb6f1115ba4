//! A disk as all its queues see it: an image, its size, and what may be done with it.
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{image::Image, io::Io};
use crate::{notices::Notices, rate_limit::Limiter};

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
    /// When the host likes: the guest cannot flush.
    Unsafe,
}

/// What a disk is made of.
#[derive(Debug)]
pub struct Options {
    /// Where its sectors are.
    pub image: Image,
    /// Whether the guest may not write.
    pub read_only: bool,
    /// When what it writes reaches the host's disk.
    pub cache: Cache,
    /// What it is called on the host.
    pub id: String,
    /// How it calls itself in the guest: cut to 20 bytes.
    pub serial: String,
    /// Its virtqueues, each with a thread.
    pub queues: u16,
}

/// A disk.
#[derive(Debug)]
pub(super) struct Disk {
    image: Mutex<Arc<Image>>,
    sectors: AtomicU64,
    read_only: bool,
    cache: Cache,
    serial: [u8; 20],
    /// What its guest may do in how much time.
    pub(super) limiter: Limiter,
    notices: Notices,
}

/// A range of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Disk {
    /// The disk that `options` describe: what is left behind the image's last whole sector does not exist for the guest.
    pub(super) fn new(options: Options) -> io::Result<Self> {
        let mut serial = [0; 20];
        for (to, from) in serial.iter_mut().zip(options.serial.bytes()) {
            *to = from;
        }
        Ok(Self {
            sectors: AtomicU64::new(options.image.bytes()? / SECTOR),
            image: Mutex::new(Arc::new(options.image)),
            read_only: options.read_only,
            cache: options.cache,
            serial,
            limiter: Limiter::default(),
            notices: Notices::of(format!("disk {}", options.id)),
        })
    }

    /// The image now. It changes only while every queue is paused.
    pub(super) fn image(&self) -> Arc<Image> {
        self.image
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts `image` in the place of the one that it has.
    pub(super) fn replace(&self, image: Image) {
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(image);
    }

    /// What the guest wrote is on the host's disk, where it can count on that.
    pub(super) fn settle(&self) -> io::Result<()> {
        match self.cache {
            Cache::Unsafe => Ok(()),
            _ if self.read_only => Ok(()),
            Cache::WriteBack | Cache::WriteThrough => self.image().settle(),
        }
    }

    /// Looks at the image's size again; sectors now.
    pub(super) fn measure(&self) -> io::Result<u64> {
        let sectors = self.image().bytes()? / SECTOR;
        self.sectors.store(sectors, Ordering::Release);
        Ok(sectors)
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn cache(&self) -> Cache {
        self.cache
    }

    /// How it calls itself, padded with zeroes.
    pub(super) fn serial(&self) -> &[u8; 20] {
        &self.serial
    }

    /// Says that the host refused `io`: its guest has an I/O error now.
    pub(super) fn complain(&self, io: &Io, error: &io::Error) {
        let hint = if self.image().has_lost() {
            " (what was written may be lost: no flush succeeds until the image is opened again)"
        } else {
            ""
        };
        self.notices.say(format_args!("{io}: {error}{hint}"));
    }

    /// Says that the driver broke the rules.
    pub(super) fn complain_of_driver(&self) {
        let what = "its driver broke the rules of virtqueues, and must reset it";
        self.notices.say(what);
    }

    /// The range of `length` bytes from `sector` on, if it is whole sectors of this disk.
    pub(super) fn extent(&self, sector: u64, length: u64) -> Option<Extent> {
        let end = sector.checked_add(length / SECTOR)?;
        let fits = length.is_multiple_of(SECTOR) && end <= self.sectors();
        fits.then(|| Extent {
            offset: sector * SECTOR,
            length,
        })
    }
}
