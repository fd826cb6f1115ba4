//! Why a file cannot be a guest's kernel.
use std::io;

/// Why a kernel cannot be opened, entered or loaded.
///
/// The text continues a path: `/boot/vmlinuz` + `is empty`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A directory, device, FIFO or socket.
    #[error("is {0}, not a regular file")]
    NotAFile(&'static str),
    /// No byte in it.
    #[error("is empty")]
    Empty,
    /// Its headers promise more than there is.
    #[error("is truncated: its {what} ends at byte {needed}, the file has {size}")]
    Truncated {
        /// The part that is cut off.
        what: &'static str,
        /// Bytes that the file needs.
        needed: u64,
        /// Bytes that it has.
        size: u64,
    },
    /// A read came back shorter than the size promised a moment before.
    #[error("changed while it was read")]
    Changed,
    /// The host's kernel refused a read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// Some other kind of file; the text names it.
    #[error("is not a kernel: it is {0}")]
    NotAKernel(String),
    /// A kernel or program of another processor; the text names it.
    #[error("is built for {0}, and guests here are x86-64")]
    WrongArchitecture(String),
    /// A bzImage older than the 64-bit boot protocol.
    #[error("is a bzImage of boot protocol {}.{:02}, and 2.12 is the oldest with a 64-bit entry", .version >> 8, .version & 0xff)]
    OldProtocol {
        /// `setup_header.version`: major in the high byte, minor in the low one.
        version: u16,
    },
    /// A bzImage without `XLF_KERNEL_64`.
    #[error("is a 32-bit bzImage (XLF_KERNEL_64 is not set), and guests here are x86-64")]
    No64BitEntry,
    /// Headers that contradict themselves.
    #[error("is malformed: {0}")]
    Malformed(String),
    /// The compressed kernel does not decompress.
    #[error("has a corrupt {codec} payload: {reason}")]
    CorruptPayload {
        /// The compression's name.
        codec: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// The compressed kernel decompresses to more than any kernel has.
    #[error("has a payload that decompresses to more than {limit_mib} MiB")]
    PayloadTooLarge {
        /// The limit, in MiB.
        limit_mib: u64,
    },
    /// Neither the cache nor memory could take the decompressed kernel.
    #[error("cannot be extracted to memory: {0}")]
    Extract(#[source] io::Error),
    /// It was to unpack itself, and is not what can.
    #[error("is no bzImage, which alone can unpack itself")]
    NotABzImage,
    /// PVH was asked for, and the image has no such entry.
    #[error("has no PVH entry: {0}")]
    NoPvhEntry(&'static str),
    /// The entry point lies outside of everything that is loaded.
    #[error("has its {protocol} entry at {address:#x}, outside of what it loads")]
    EntryOutside {
        /// Which entry.
        protocol: &'static str,
        /// Guest physical address.
        address: u64,
    },
    /// A segment reaches into the first MiB, which belongs to the boot data and the legacy hole.
    #[error("wants to be loaded at {address:#x}, and the first MiB is taken")]
    LowAddress {
        /// Guest physical address.
        address: u64,
    },
    /// Two segments claim the same guest memory.
    #[error("is malformed: two of its segments overlap at {address:#x}")]
    Overlap {
        /// Guest physical address where the second one starts.
        address: u64,
    },
    /// It reaches past the end of guest memory.
    #[error("needs {needed_mib} MiB of memory, and the guest has {guest_mib}")]
    DoesNotFit {
        /// What it needs, counted from address 0, in MiB rounded up.
        needed_mib: u64,
        /// What the guest has, in MiB.
        guest_mib: u64,
    },
    /// It would lie where the guest has devices instead of memory.
    #[error("wants to be loaded at {start:#x}..{end:#x}, where the guest has no memory")]
    OutsideMemory {
        /// First guest physical address.
        start: u64,
        /// First guest physical address after it.
        end: u64,
    },
}

impl KernelError {
    /// What the user could try, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        const SUPPORTED: &str = "give an x86-64 bzImage (/boot/vmlinuz-*) or an ELF vmlinux";
        match self {
            Self::NotAFile(_)
            | Self::NotAKernel(_)
            | Self::WrongArchitecture(_)
            | Self::OldProtocol { .. }
            | Self::No64BitEntry
            | Self::LowAddress { .. } => Some(SUPPORTED),
            Self::Empty
            | Self::Truncated { .. }
            | Self::CorruptPayload { .. }
            | Self::PayloadTooLarge { .. }
            | Self::Malformed(_)
            | Self::Overlap { .. }
            | Self::EntryOutside { .. } => {
                Some("the file is damaged: download, copy or build it again")
            }
            Self::Changed => Some("wait until the program that writes it has finished"),
            Self::NotABzImage => Some("use the auto entry"),
            Self::NoPvhEntry(_) => {
                Some("use the linux64 entry, or a kernel built with CONFIG_PVH=y")
            }
            Self::DoesNotFit { .. } => Some("give the guest more with --memory"),
            Self::Read(_) | Self::Extract(_) | Self::OutsideMemory { .. } => None,
        }
    }
}
