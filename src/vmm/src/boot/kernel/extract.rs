//! From a compressed kernel to an ELF file that can be loaded: out of the cache, into the cache, or into memory.
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Write};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::layout::Layout;
use super::payload::{Codec, MAX_KERNEL, PayloadError, decompress};
use super::source::{self, Section};
use super::{CacheUse, KernelCounters, KernelError, bytes, elf, trim};
use crate::boot::cache::{self, Cache, Key, Store};

/// Bytes of an extracted ELF file's start to read: its header and program headers.
const ELF_HEAD: usize = 4096;
const INPUT_BUFFER: usize = 128 << 10;
/// To change with the bytes that extraction makes of a file.
const VERSION: &str = "1";

/// A compressed kernel inside a file.
pub(super) struct Payload<'a> {
    pub(super) file: &'a File,
    pub(super) metadata: &'a Metadata,
    pub(super) codec: Codec,
    /// First byte of the compressed data in `file`.
    pub(super) offset: u64,
    /// Bytes of compressed data, with what is appended.
    pub(super) length: u64,
    /// Whether the decompressed size (32 bits, little-endian) is appended to the data.
    pub(super) size_appended: bool,
}

/// An ELF kernel, ready to load.
pub(super) struct Extracted {
    pub(super) file: File,
    pub(super) layout: Layout,
    pub(super) cache: CacheUse,
    pub(super) counters: KernelCounters,
}

/// Why there is none.
pub(super) enum ExtractError {
    /// There is a kernel, but nothing that we can decompress and load: something that starts with this.
    NotElf(Vec<u8>),
    /// It decompresses to an ELF file that is no kernel.
    Unusable(KernelError),
    /// Nothing works.
    Fatal(KernelError),
}

impl From<KernelError> for ExtractError {
    fn from(error: KernelError) -> Self {
        Self::Fatal(error)
    }
}

impl Payload<'_> {
    /// Finds the extracted kernel in `cache`, or extracts it.
    pub(super) fn extract(&self, cache: Option<&Cache>) -> Result<Extracted, ExtractError> {
        let Some(cache) = cache else {
            return self.extract_to_memory(CacheUse::Off);
        };
        let key = key_of(self.metadata);
        if let Some(hit) = look_up(cache, &key) {
            return Ok(hit);
        }
        match self.extract_to_cache(cache, &key) {
            Err(Failure::Cache(error)) => {
                self.extract_to_memory(CacheUse::Skipped(error.to_string()))
            }
            Err(Failure::Extract(error)) => Err(error),
            Ok(extracted) => Ok(extracted),
        }
    }

    fn extract_to_cache(&self, cache: &Cache, key: &Key) -> Result<Extracted, Failure> {
        if cache::is_racy(self.metadata) {
            return Err(Failure::Cache(io::Error::other(
                "the kernel file was written a moment ago",
            )));
        }
        let mut store = cache.begin().map_err(Failure::Cache)?;
        // Who had the lock may have stored this very kernel between our look and now.
        if let Some(hit) = look_up(cache, key) {
            return Ok(hit);
        }
        let size = self.unpack(&mut |bytes| store.write(bytes))?;
        let layout = trimmed(store.file(), size)?;
        let file = self.commit(store, key)?;
        Ok(Extracted {
            file,
            layout,
            cache: CacheUse::Stored,
            counters: self.counters(size),
        })
    }

    /// Stores the blob under `key`, unless the file has changed and the key no longer means what was extracted.
    fn commit(&self, store: Store, key: &Key) -> Result<File, Failure> {
        let now = self
            .file
            .metadata()
            .map_err(|error| Failure::from(KernelError::Read(error)))?;
        if key_of(&now) != *key {
            return Err(Failure::from(KernelError::Changed));
        }
        store.commit(key).map_err(Failure::Cache)
    }

    fn extract_to_memory(&self, cache: CacheUse) -> Result<Extracted, ExtractError> {
        let mut file = memfd().map_err(KernelError::Extract)?;
        let size = match self.unpack(&mut |bytes| file.write_all(bytes)) {
            Err(Failure::Cache(error)) => return Err(KernelError::Extract(error).into()),
            Err(Failure::Extract(error)) => return Err(error),
            Ok(size) => size,
        };
        let layout = trimmed(&file, size)?;
        // What has been checked stays what it is, in whatever hands.
        fcntl_add_seals(
            &file,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )
        .map_err(|error| KernelError::Extract(error.into()))?;
        let skipped = matches!(cache, CacheUse::Skipped(_));
        let counters = KernelCounters {
            cache_skips: u64::from(skipped),
            ..self.counters(size)
        };
        Ok(Extracted {
            file,
            layout,
            cache,
            counters,
        })
    }

    fn counters(&self, size: u64) -> KernelCounters {
        KernelCounters {
            compressed_bytes: self.length,
            extracted_bytes: size,
            ..KernelCounters::default()
        }
    }

    /// Decompresses into `write`, whose failures are the cache's. Returns the size.
    fn unpack(&self, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<u64, Failure> {
        let appended = if self.size_appended { 4 } else { 0 };
        let Some(length) = self.length.checked_sub(appended) else {
            return Err(self.corrupt("it is shorter than its size field".to_owned()));
        };
        let section = Section::new(self.file, self.offset, length);
        let input = BufReader::with_capacity(INPUT_BUFFER, section);
        let size =
            decompress(self.codec, input, MAX_KERNEL, write).map_err(|error| match error {
                PayloadError::Write(error) => Failure::Cache(error),
                PayloadError::NotElf(start) => Failure::Extract(ExtractError::NotElf(start)),
                PayloadError::TooLarge => Failure::from(KernelError::PayloadTooLarge {
                    limit_mib: MAX_KERNEL >> 20,
                }),
                PayloadError::Corrupt(reason) => self.corrupt(reason),
            })?;
        if self.size_appended {
            let field = source::read_exact(self.file, self.offset.saturating_add(length), 4)?;
            let declared = bytes::le32(&field, 0).map(u64::from);
            if declared != Some(size) {
                return Err(self.corrupt(format!(
                    "it has {size} bytes, and the size appended to it is another"
                )));
            }
        }
        Ok(size)
    }

    fn corrupt(&self, reason: String) -> Failure {
        Failure::from(KernelError::CorruptPayload {
            codec: self.codec.name(),
            reason,
        })
    }
}

/// What stopped an extraction: the cache, which can be done without, or all the rest.
enum Failure {
    Cache(io::Error),
    Extract(ExtractError),
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::Extract(ExtractError::Fatal(error))
    }
}

impl From<ExtractError> for Failure {
    fn from(error: ExtractError) -> Self {
        Self::Extract(error)
    }
}

/// The extracted kernel from the cache. A blob that does not parse is damaged, and as good as none.
fn look_up(cache: &Cache, key: &Key) -> Option<Extracted> {
    let (file, size) = cache.lookup(key)?;
    let layout = layout_of(&file, size).ok()?;
    Some(Extracted {
        file,
        layout,
        cache: CacheUse::Hit,
        counters: KernelCounters {
            cache_hits: 1,
            ..KernelCounters::default()
        },
    })
}

fn layout_of(file: &File, size: u64) -> Result<Layout, ExtractError> {
    let head = source::read_up_to(file, 0, ELF_HEAD)?;
    elf::parse(file, size, &head).map_err(ExtractError::Unusable)
}

/// Drops what need not be loaded from a file that has just been extracted.
fn trimmed(file: &File, size: u64) -> Result<Layout, ExtractError> {
    // Only a file that parses is worth it.
    layout_of(file, size)?;
    trim::trim(file, size, &source::read_up_to(file, 0, ELF_HEAD)?)?;
    layout_of(file, size)
}

fn key_of(file: &Metadata) -> Key {
    Key::new(&[VERSION, &cache::identity(file)])
}

fn memfd() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(File::from(memfd_create("kernel", flags)?))
}
