//! Decompressed kernels, kept between launches.
//!
//! A blob's name is the SHA-256 of what the payload decompresses to, and its size; with a name, it never changes. An index entry is a symbolic link
//! whose name identifies the compressed file (device, inode, size, modification time, version of this extractor) and
//! whose target is the blob's name: two links to read and open, no database, and equal kernels share a blob.
//!
//! Any number of launches may use one directory, and any of them may be killed. What gets written is complete and on
//! disk before it has its name. Only the holder of the lock writes, so that every temporary file it meets is a dead
//! one's; who does not get the lock does without. Whatever goes wrong here costs time and nothing else.
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// Part of every index entry's name: to change with the bytes that extraction makes of a file.
const EXTRACTOR: u32 = 1;
/// Index entries kept. The oldest go first, and their blobs with them.
const MAX_ENTRIES: usize = 16;
/// File systems take their time stamps from a clock that ticks this coarsely at worst: a file that was modified more
/// recently could change again and keep its stamp.
const CLOCK_TICK: Duration = Duration::from_millis(20);

const INDEX_PREFIX: &str = "index-";
const BLOB_SUFFIX: &str = ".elf";
const TEMPORARY_PREFIX: &str = "tmp-";
const LOCK: &str = "lock";

/// A directory of decompressed kernels.
#[derive(Debug, Clone)]
pub struct KernelCache {
    directory: PathBuf,
    /// Bytes after which a write finds the file system full.
    #[cfg(test)]
    pub(super) room: u64,
}

/// What identifies a compressed file, as the name of its index entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn new(file: &Metadata) -> Self {
        Self(format!(
            "{INDEX_PREFIX}{EXTRACTOR}-{:x}-{:x}-{:x}-{}.{:09}",
            file.dev(),
            file.ino(),
            file.size(),
            file.mtime(),
            file.mtime_nsec()
        ))
    }
}

impl KernelCache {
    /// A cache in `directory`, which is made (mode 0700) when the first kernel is extracted.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            #[cfg(test)]
            room: u64::MAX,
        }
    }

    /// The blob for a file, when there is one that looks as it was left: ours, of the size in its name.
    pub(super) fn lookup(&self, key: &Key) -> Option<(File, u64)> {
        let name = fs::read_link(self.directory.join(&key.0)).ok()?;
        let size = blob_size(name.as_os_str())?;
        let file = open_blob(&self.directory.join(name)).ok()?;
        let metadata = file.metadata().ok()?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.mode() & 0o022 == 0
            && metadata.is_file();
        (ours && metadata.len() == size).then_some((file, size))
    }

    /// Starts to store a blob. `Err` says why it cannot be.
    pub(super) fn begin(&self) -> io::Result<Store> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let metadata = fs::metadata(&self.directory)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("others may write to it"));
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.directory.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::other("another launch is filling it"),
            error => error.into(),
        })?;
        self.sweep(|name| name.starts_with(TEMPORARY_PREFIX));
        let path = self
            .directory
            .join(format!("{TEMPORARY_PREFIX}{}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)?;
        Ok(Store {
            cache: self.clone(),
            _lock: lock,
            temporary: path,
            file,
            hash: Sha256::new(),
            size: 0,
        })
    }

    /// Removes the files whose name is `stale`, as far as that is possible.
    fn sweep(&self, stale: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_str().is_some_and(&stale) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Drops the oldest index entries and every blob that none refers to.
    fn evict(&self) {
        let mut entries: Vec<(i64, i64, PathBuf, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let indexed = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(INDEX_PREFIX.as_bytes());
            let path = entry.path();
            if let (true, Ok(made), Ok(blob)) = (indexed, entry.metadata(), fs::read_link(&path)) {
                entries.push((made.mtime(), made.mtime_nsec(), path, blob));
            }
        }
        entries.sort_unstable();
        let surplus = entries.len().saturating_sub(MAX_ENTRIES);
        for (_, _, path, _) in entries.drain(..surplus) {
            let _ = fs::remove_file(path);
        }
        self.sweep(|name| {
            blob_size(OsStr::new(name)).is_some()
                && !entries
                    .iter()
                    .any(|(_, _, _, blob)| blob == Path::new(name))
        });
    }
}

/// The size in a blob's name, or `None` where it is no blob's name.
fn blob_size(name: &OsStr) -> Option<u64> {
    let (hash, size) = name.to_str()?.strip_suffix(BLOB_SUFFIX)?.split_once('-')?;
    let valid = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| size.parse().ok()).flatten()
}

fn open_blob(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Whether `file` was modified so recently that a second change might not show in its time stamp.
pub(super) fn is_racy(file: &Metadata) -> bool {
    file.modified()
        .ok()
        .and_then(|modified| modified.elapsed().ok())
        .is_some_and(|age| age < CLOCK_TICK)
}

/// A blob on its way into the cache. Dropped, it leaves nothing behind.
pub(super) struct Store {
    cache: KernelCache,
    _lock: File,
    temporary: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
}

impl Store {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.size + bytes.len() as u64 > self.cache.room {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.size = self.size.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// What has been written so far, to be checked before it is committed.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the blob durable, gives it its name, and returns it, read-only.
    ///
    /// An older blob of that name is replaced: it has the same contents, unless it was damaged.
    pub(super) fn commit(mut self, key: &Key) -> io::Result<File> {
        self.file.sync_all()?;
        let hash = std::mem::take(&mut self.hash).finalize();
        let mut name = String::with_capacity(96);
        for byte in hash {
            name.push_str(&format!("{byte:02x}"));
        }
        name.push_str(&format!("-{}{BLOB_SUFFIX}", self.size));
        let blob = self.cache.directory.join(&name);
        fs::rename(&self.temporary, &blob)?;
        // A rename puts the link in place at once, also over an older one.
        symlink(&name, &self.temporary)?;
        fs::rename(&self.temporary, self.cache.directory.join(&key.0))?;
        self.cache.evict();
        open_blob(&blob)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}
