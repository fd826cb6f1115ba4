//! What takes time to make for a guest's boot, kept between launches: decompressed kernels, generated initial RAM disks.
//!
//! A blob's name is the SHA-256 of what is in it, and its size; with a name, it never changes. An index entry is a symbolic link whose name
//! says what the blob was made from (of a file: device, inode, size, modification time) and by which version of its maker, and
//! whose target is the blob's name: two links to read and open, no database, and equal contents share a blob.
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

/// Index entries kept. The oldest go first, and their blobs with them.
const MAX_ENTRIES: usize = 16;
/// File systems take their time stamps from a clock that ticks this coarsely at worst: a file that was modified more
/// recently could change again and keep its stamp.
const CLOCK_TICK: Duration = Duration::from_millis(20);

const INDEX_PREFIX: &str = "index-";
const TEMPORARY_PREFIX: &str = "tmp-";
const LOCK: &str = "lock";

/// A directory of blobs of one kind.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    /// How the blobs' names end: `.elf`.
    suffix: &'static str,
    /// Bytes after which a write finds the file system full.
    #[cfg(test)]
    pub(super) room: u64,
}

/// What a blob was made from, as the name of its index entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key of parts that can stand in a file's name, together no more than some 200 bytes. The first should be the version of what makes
    /// blobs of them.
    #[must_use]
    pub fn new(parts: &[&str]) -> Self {
        Self(format!("{INDEX_PREFIX}{}", parts.join("-")))
    }
}

/// What identifies a file's contents, as part of a key.
#[must_use]
pub fn identity(file: &Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{}.{:09}",
        file.dev(),
        file.ino(),
        file.size(),
        file.mtime(),
        file.mtime_nsec()
    )
}

impl Cache {
    /// A cache in `directory`, which is made (mode 0700) when the first blob is stored. Blobs' names end in `suffix`.
    #[must_use]
    pub fn new(directory: PathBuf, suffix: &'static str) -> Self {
        Self {
            directory,
            suffix,
            #[cfg(test)]
            room: u64::MAX,
        }
    }

    /// The blob and its size in bytes, when there is one that looks as it was left: ours, of the size in its name.
    #[must_use]
    pub fn lookup(&self, key: &Key) -> Option<(File, u64)> {
        let name = fs::read_link(self.directory.join(&key.0)).ok()?;
        let size = self.blob_size(name.as_os_str())?;
        let file = open_blob(&self.directory.join(name)).ok()?;
        let metadata = file.metadata().ok()?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.mode() & 0o022 == 0
            && metadata.is_file();
        (ours && metadata.len() == size).then_some((file, size))
    }

    /// Starts to store a blob.
    ///
    /// # Errors
    /// Says why it cannot be: another process is at it, others may write to the directory, or the host refuses.
    pub fn begin(&self) -> io::Result<Store> {
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
            self.blob_size(OsStr::new(name)).is_some()
                && !entries
                    .iter()
                    .any(|(_, _, _, blob)| blob == Path::new(name))
        });
    }

    /// The size in a blob's name, or `None` where it is no blob's name.
    fn blob_size(&self, name: &OsStr) -> Option<u64> {
        let (hash, size) = name.to_str()?.strip_suffix(self.suffix)?.split_once('-')?;
        let valid = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| size.parse().ok()).flatten()
    }
}

fn open_blob(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Whether `file` was modified so recently that a second change might not show in its time stamp.
#[must_use]
pub fn is_racy(file: &Metadata) -> bool {
    file.modified()
        .ok()
        .and_then(|modified| modified.elapsed().ok())
        .is_some_and(|age| age < CLOCK_TICK)
}

/// A blob on its way into the cache. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Store {
    cache: Cache,
    _lock: File,
    temporary: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
}

impl Store {
    /// Adds bytes to it.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
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
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the blob durable, gives it its name, and returns it, read-only.
    ///
    /// An older blob of that name is replaced: it has the same contents, unless it was damaged.
    ///
    /// # Errors
    /// The host's.
    pub fn commit(mut self, key: &Key) -> io::Result<File> {
        self.file.sync_all()?;
        let hash = std::mem::take(&mut self.hash).finalize();
        let mut name = String::with_capacity(96);
        for byte in hash {
            name.push_str(&format!("{byte:02x}"));
        }
        name.push_str(&format!("-{}{}", self.size, self.cache.suffix));
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
