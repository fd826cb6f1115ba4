//! Kernel images: what a file holds, and how a guest starts from it.
//!
//! Opening a kernel reads what there is to read, decompresses what is compressed and checks every header; it needs no
//! guest memory. Loading copies segments and parses nothing. A file is taken as hostile, and as one that may change
//! at any moment: headers are copied in once, then checked, then used, and the copy is bounded by what was checked.
//!
//! A bzImage's kernel is decompressed here, once, and kept in a [`Cache`]: a launch then copies an ELF file's
//! segments instead of having the guest decompress for some hundred milliseconds. Where that is not possible (an
//! unsupported compression), or not wanted (only the bzImage's own code moves the kernel to a random address), the
//! bzImage is booted as it is.
mod bytes;
mod bzimage;
mod elf;
mod error;
mod extract;
mod identify;
mod layout;
mod load;
mod map;
pub mod payload;
mod source;
#[cfg(test)]
mod tests;
mod trim;

use std::fs::{File, Metadata};
use std::path::PathBuf;

use linux_loader::loader::bootparam::setup_header;
use serde::Serialize;
use vm_memory::GuestAddress;

pub use crate::arch::x86_64::Entry;
use crate::boot::cache::Cache;
use bzimage::BzImage;
pub use error::KernelError;
use extract::{ExtractError, Extracted, Payload};
use identify::Kind;
use layout::Layout;
pub use layout::Segment;
pub use payload::Codec;

/// The cache of extracted kernels in `directory`.
#[must_use]
pub fn cache(directory: PathBuf) -> Cache {
    Cache::new(directory, ".elf")
}

/// A kernel that has been opened and checked, ready to be loaded.
#[derive(Debug)]
pub struct Kernel {
    file: File,
    layout: Layout,
    /// What of the segments is not mapped, and has to be copied.
    to_copy: Vec<Segment>,
    format: Format,
    version: Option<String>,
    header: Option<setup_header>,
    cache: CacheUse,
    counters: KernelCounters,
}

/// What kind of file a kernel came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An ELF executable.
    Vmlinux,
    /// A compressed ELF executable (`vmlinux.gz`), decompressed.
    CompressedVmlinux(Codec),
    /// A bzImage whose payload was decompressed.
    BzImage(Codec),
    /// A bzImage that decompresses itself in the guest.
    WholeBzImage,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vmlinux => f.write_str("ELF vmlinux"),
            Self::CompressedVmlinux(codec) => write!(f, "ELF vmlinux ({})", codec.name()),
            Self::BzImage(codec) => write!(f, "bzImage ({})", codec.name()),
            Self::WholeBzImage => f.write_str("bzImage (unpacks itself)"),
        }
    }
}

/// Which way into the kernel is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// The 64-bit entry of a kernel from a bzImage; of a given ELF file the PVH entry, or the 64-bit one where it has
    /// none.
    #[default]
    Auto,
    /// Linux `boot.rst`, "64-bit Boot Protocol": long mode, identity-mapped, RSI has the zero page.
    Linux64,
    /// Xen's PVH: 32-bit protected mode without paging, EBX has the start info.
    Pvh,
}

/// What the cache did for a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheUse {
    /// Nothing was compressed, or nothing could be extracted.
    NotNeeded,
    /// No cache was given.
    Off,
    /// The extracted kernel was there.
    Hit,
    /// It was not, and is now.
    Stored,
    /// The kernel was extracted to memory because the cache could not take it; why not.
    Skipped(String),
}

/// What opening a kernel took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KernelCounters {
    /// Extracted kernels found in the cache.
    pub cache_hits: u64,
    /// Extracted kernels that could not be kept.
    pub cache_skips: u64,
    /// Bytes that went into a decompressor.
    pub compressed_bytes: u64,
    /// Bytes that came out of it.
    pub extracted_bytes: u64,
}

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedKernel {
    /// First guest physical address after everything that the kernel occupies until it manages memory itself.
    pub end: GuestAddress,
    /// Bytes copied.
    pub bytes: u64,
}

impl Kernel {
    /// Reads and checks a kernel.
    ///
    /// Open `file` with `O_NONBLOCK`, or a FIFO blocks before it can be refused. What a `cache` cannot do costs time
    /// only.
    ///
    /// # Errors
    /// Says what the file is, when it is no x86-64 kernel, or how it is damaged.
    pub fn open(file: File, cache: Option<&Cache>) -> Result<Self, KernelError> {
        let metadata = source::regular(&file)?;
        let size = metadata.len();
        let head = source::read_up_to(&file, 0, identify::HEAD)?;
        match identify::identify(&head)? {
            Kind::Elf => {
                let layout = elf::parse(&file, size, &head)?;
                Ok(Self::plain(file, layout, Format::Vmlinux))
            }
            Kind::BzImage => {
                let image = bzimage::parse(&head, size)?;
                Self::open_bzimage(file, &metadata, &head, image, cache)
            }
            Kind::Compressed(codec) => Self::open_compressed(&file, &metadata, codec, cache),
        }
    }

    /// Reads and checks a bzImage that shall unpack itself in the guest.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`KernelError::NotABzImage`] for other kernels.
    pub fn open_whole(file: File) -> Result<Self, KernelError> {
        let size = source::regular(&file)?.len();
        let head = source::read_up_to(&file, 0, identify::HEAD)?;
        match identify::identify(&head)? {
            Kind::BzImage => Self::whole(file, bzimage::parse(&head, size)?),
            Kind::Elf | Kind::Compressed(_) => Err(KernelError::NotABzImage),
        }
    }

    fn whole(file: File, image: BzImage) -> Result<Self, KernelError> {
        Ok(Self {
            version: image.version.clone(),
            header: Some(image.header),
            ..Self::plain(file, image.layout()?, Format::WholeBzImage)
        })
    }

    fn plain(file: File, layout: Layout, format: Format) -> Self {
        Self {
            file,
            to_copy: layout.segments.clone(),
            layout,
            format,
            version: None,
            header: None,
            cache: CacheUse::NotNeeded,
            counters: KernelCounters::default(),
        }
    }

    fn extracted(extracted: Extracted, format: Format) -> Self {
        Self {
            cache: extracted.cache,
            counters: extracted.counters,
            ..Self::plain(extracted.file, extracted.layout, format)
        }
    }

    fn open_bzimage(
        file: File,
        metadata: &Metadata,
        head: &[u8],
        image: BzImage,
        cache: Option<&Cache>,
    ) -> Result<Self, KernelError> {
        match Self::extract_payload(&file, metadata, head, &image, cache)? {
            Some(kernel) => Ok(Self {
                version: image.version,
                header: Some(image.header),
                ..kernel
            }),
            None => Self::whole(file, image),
        }
    }

    /// The decompressed payload, or `None` where the image had better do that itself.
    fn extract_payload(
        file: &File,
        metadata: &Metadata,
        head: &[u8],
        image: &BzImage,
        cache: Option<&Cache>,
    ) -> Result<Option<Self>, KernelError> {
        let Some((offset, length)) = image.payload else {
            return Ok(None);
        };
        let in_head = usize::try_from(offset)
            .ok()
            .and_then(|at| bytes::array(head, at));
        let magic: [u8; Codec::MAGIC] = match in_head {
            Some(magic) => magic,
            None => match source::read_up_to(file, offset, Codec::MAGIC)?.try_into() {
                Ok(magic) => magic,
                Err(_) => return Ok(None),
            },
        };
        let Some(codec) = Codec::detect(&magic) else {
            return Ok(None);
        };
        let payload = Payload {
            file,
            metadata,
            codec,
            offset,
            length,
            // gzip ends with its size anyway.
            size_appended: codec != Codec::Gzip,
        };
        match payload.extract(cache) {
            Ok(extracted) => Ok(Some(Self::extracted(extracted, Format::BzImage(codec)))),
            Err(ExtractError::NotElf(_) | ExtractError::Unusable(_)) => Ok(None),
            Err(ExtractError::Fatal(error)) => Err(error),
        }
    }

    fn open_compressed(
        file: &File,
        metadata: &Metadata,
        codec: Codec,
        cache: Option<&Cache>,
    ) -> Result<Self, KernelError> {
        let payload = Payload {
            file,
            metadata,
            codec,
            offset: 0,
            length: metadata.len(),
            size_appended: false,
        };
        match payload.extract(cache) {
            Ok(extracted) => Ok(Self::extracted(extracted, Format::CompressedVmlinux(codec))),
            Err(ExtractError::NotElf(start)) => Err(match identify::refuse(&start) {
                KernelError::NotAKernel(what) => {
                    KernelError::NotAKernel(format!("{what}, compressed with {}", codec.name()))
                }
                error => error,
            }),
            Err(ExtractError::Unusable(error) | ExtractError::Fatal(error)) => Err(error),
        }
    }

    /// The kind of file that it came in.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// A bzImage's `kernel_version`: `6.1.0-18-amd64 (builder) #1 SMP …`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// A bzImage's setup header as it stands in the file, to start the zero page from. Fields that this file's
    /// protocol version does not have are zero.
    #[must_use]
    pub fn setup_header(&self) -> Option<&setup_header> {
        self.header.as_ref()
    }

    /// The file that [`segments`](Self::segments) refer to: the given one, a blob of the cache, or a sealed memfd.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What goes where, in the order of addresses; nothing overlaps, and nothing lies below 1 MiB.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.layout.segments
    }

    /// First guest physical address after the kernel with its bss and, for a bzImage that unpacks itself, the
    /// `init_size` bytes that it does so in.
    #[must_use]
    pub fn end(&self) -> GuestAddress {
        GuestAddress(self.layout.end())
    }

    /// What the cache did.
    #[must_use]
    pub fn cache_use(&self) -> &CacheUse {
        &self.cache
    }

    /// What opening it took.
    #[must_use]
    pub fn counters(&self) -> KernelCounters {
        self.counters
    }

    /// Where to enter the kernel.
    ///
    /// # Errors
    /// [`KernelError::NoPvhEntry`] when PVH is asked for and there is none; [`KernelError::EntryOutside`] when the
    /// entry is not part of what gets loaded.
    pub fn entry(&self, kind: EntryKind) -> Result<Entry, KernelError> {
        let given_elf = matches!(self.format, Format::Vmlinux | Format::CompressedVmlinux(_));
        let pvh = match kind {
            EntryKind::Auto => given_elf && self.layout.pvh.is_some(),
            EntryKind::Linux64 => false,
            EntryKind::Pvh => true,
        };
        let (protocol, address) = if pvh {
            ("PVH", self.layout.pvh.ok_or_else(|| self.no_pvh())?)
        } else {
            ("64-bit", self.layout.linux64)
        };
        if !self.layout.contains(address) {
            return Err(KernelError::EntryOutside { protocol, address });
        }
        let address = GuestAddress(address);
        Ok(if pvh {
            Entry::Pvh(address)
        } else {
            Entry::Linux64(address)
        })
    }

    fn no_pvh(&self) -> KernelError {
        KernelError::NoPvhEntry(match self.format {
            Format::WholeBzImage => "a bzImage that unpacks itself is entered in 64-bit mode",
            _ => "it carries no XEN_ELFNOTE_PHYS32_ENTRY note",
        })
    }
}
