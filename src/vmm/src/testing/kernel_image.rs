//! Kernel images made by hand: small, and wrong where a test wants them to be.
use std::fs::File;
use std::io::Write;

use lzma_rust2::filter::FilterType;

/// Where [`Elf::kernel`] is loaded and entered.
pub const KERNEL_ADDRESS: u64 = 0x100_0000;
/// The version string of [`BzImage`].
pub const VERSION: &str = "6.1.0-test (nobody@nowhere) #1 SMP";

/// Builds x86-64 ELF executables.
#[derive(Debug, Clone)]
pub struct Elf {
    kind: u16,
    entry: u64,
    headers: Vec<Header>,
    page_aligned: bool,
}

#[derive(Debug, Clone)]
struct Header {
    kind: u32,
    address: u64,
    bytes: Vec<u8>,
    memory_size: u64,
}

impl Elf {
    /// An executable that loads nothing yet.
    #[must_use]
    pub fn new(entry: u64) -> Self {
        Self {
            kind: 2,
            entry,
            headers: Vec::new(),
            page_aligned: false,
        }
    }

    /// A kernel of one page of `hlt; jmp` and one of bss behind it, entered at its start.
    #[must_use]
    pub fn kernel() -> Self {
        Self::new(KERNEL_ADDRESS).load(KERNEL_ADDRESS, &[0xf4, 0xeb, 0xfd].repeat(1365), 0x2000)
    }

    /// Sets `e_type`; 2 is `ET_EXEC`.
    #[must_use]
    pub fn kind(self, kind: u16) -> Self {
        Self { kind, ..self }
    }

    /// Sets `e_entry`.
    #[must_use]
    pub fn entry(self, entry: u64) -> Self {
        Self { entry, ..self }
    }

    /// Adds a segment: `bytes` at a guest physical address, then zeros up to `memory_size`.
    #[must_use]
    pub fn load(self, address: u64, bytes: &[u8], memory_size: u64) -> Self {
        self.header(1, address, bytes, memory_size)
    }

    /// Adds the Xen note that names the PVH entry.
    #[must_use]
    pub fn pvh(self, entry: u32) -> Self {
        // A note to skip, with a name and a descriptor that need padding, then the one that counts.
        let mut notes = vec![6, 0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0];
        notes.extend_from_slice(b"Linux\0\0\0descr\0\0\0");
        notes.extend_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        notes.extend_from_slice(b"Xen\0");
        notes.extend_from_slice(&entry.to_le_bytes());
        self.header(4, 0, &notes, 0)
    }

    /// Adds any program header.
    #[must_use]
    pub fn header(mut self, kind: u32, address: u64, bytes: &[u8], memory_size: u64) -> Self {
        self.headers.push(Header {
            kind,
            address,
            bytes: bytes.to_vec(),
            memory_size,
        });
        self
    }

    /// Starts every segment's bytes at a page of the file, as linkers do.
    #[must_use]
    pub fn page_aligned(mut self) -> Self {
        self.page_aligned = true;
        self
    }

    /// The file: ELF header, program headers, then the segments' bytes one after the other.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        file.resize(16, 0);
        for half in [self.kind, 62] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        file.extend_from_slice(&1u32.to_le_bytes());
        for word in [self.entry, 64, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&[0; 4]);
        let count = u16::try_from(self.headers.len()).expect("few headers");
        for half in [64, 56, count, 64, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        let mut offset = self.padded(64 + 56 * u64::from(count));
        for header in &self.headers {
            file.extend_from_slice(&header.kind.to_le_bytes());
            file.extend_from_slice(&7u32.to_le_bytes());
            let size = header.bytes.len() as u64;
            let virtual_address = header.address.wrapping_add(0xffff_ffff_8000_0000);
            let words = [
                offset,
                virtual_address,
                header.address,
                size,
                header.memory_size,
                4,
            ];
            for word in words {
                file.extend_from_slice(&word.to_le_bytes());
            }
            offset = self.padded(offset + size);
        }
        for header in &self.headers {
            let start = self.padded(file.len() as u64);
            file.resize(usize::try_from(start).expect("small files"), 0);
            file.extend_from_slice(&header.bytes);
        }
        file
    }

    /// Where the next segment's bytes start in the file, `offset` being the first place that is free.
    fn padded(&self, offset: u64) -> u64 {
        if self.page_aligned {
            offset.next_multiple_of(4096)
        } else {
            offset
        }
    }
}

/// Compressions that a test can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As `gzip`.
    Gzip,
    /// As `xz --check=crc32 --x86 --lzma2=dict=1MiB`.
    Xz,
    /// As `lz4 -l`.
    Lz4Legacy,
    /// As `lz4`.
    Lz4,
    /// As `zstd`.
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Gzip, Self::Xz, Self::Lz4Legacy, Self::Lz4, Self::Zstd];

    /// Compresses `data`.
    #[must_use]
    pub fn compress(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(data).expect("a Vec takes everything");
                encoder.finish().expect("a Vec takes everything")
            }
            Self::Xz => xz(data),
            Self::Lz4Legacy => lz4_legacy(data),
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(data).expect("a Vec takes everything");
                encoder.finish().expect("a Vec takes everything")
            }
            Self::Zstd => {
                use ruzstd::encoding::{CompressionLevel, compress_to_vec};
                compress_to_vec(data, CompressionLevel::Fastest)
            }
        }
    }

    /// Compresses `data` as a kernel build does: all but gzip append the uncompressed size.
    #[must_use]
    pub fn payload(self, data: &[u8]) -> Vec<u8> {
        let mut payload = self.compress(data);
        if self != Self::Gzip {
            let size = u32::try_from(data.len()).expect("a small kernel");
            payload.extend_from_slice(&size.to_le_bytes());
        }
        payload
    }
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.lzma_options.dict_size = 1 << 20;
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    options.prepend_pre_filter(FilterType::BcjX86, 0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).expect("valid options");
    encoder.write_all(data).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

fn lz4_legacy(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(8 << 20) {
        let compressed = lz4_flex::block::compress(block);
        let size = u32::try_from(compressed.len()).expect("a block");
        frame.extend_from_slice(&size.to_le_bytes());
        frame.extend_from_slice(&compressed);
    }
    frame
}

/// Builds bzImages of boot protocol 2.15: two sectors of setup, 576 bytes of code, and a payload.
#[derive(Debug, Clone)]
pub struct BzImage {
    bytes: Vec<u8>,
}

impl BzImage {
    /// Where the payload starts in the file.
    pub const PAYLOAD: usize = 0x640;

    /// An image around `payload`.
    #[must_use]
    pub fn new(payload: &[u8]) -> Self {
        let mut bytes = vec![0; Self::PAYLOAD];
        // The code, marked so that a test finds it in guest memory.
        bytes[0x400..].fill(0xcc);
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let paragraphs = u32::try_from((bytes.len() - 0x400) / 16).expect("a small image");
        let payload_size = u32::try_from(payload.len()).expect("a small image");
        let mut image = Self { bytes };
        image
            .set(0x1f1, &[1])
            .set(0x1f4, &paragraphs.to_le_bytes())
            .set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a])
            .set(0x202, b"HdrS\x0f\x02")
            .set(0x20e, &0x100u16.to_le_bytes())
            .set(0x211, &[1])
            .set(0x214, &0x10_0000u32.to_le_bytes())
            .set(0x22c, &0x7fff_ffffu32.to_le_bytes())
            .set(0x230, &0x20_0000u32.to_le_bytes())
            .set(0x234, &[1, 21, 1, 0])
            .set(0x238, &2047u32.to_le_bytes())
            .set(0x248, &0x240u32.to_le_bytes())
            .set(0x24c, &payload_size.to_le_bytes())
            .set(0x258, &KERNEL_ADDRESS.to_le_bytes())
            .set(0x260, &0x10_0000u32.to_le_bytes())
            .set(0x300, VERSION.as_bytes());
        image
    }

    /// Overwrites bytes at a file offset.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}

/// A file with these bytes that lives in memory only.
#[must_use]
pub fn file(bytes: &[u8]) -> File {
    let descriptor = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC)
        .expect("the host has memfds");
    let mut file = File::from(descriptor);
    file.write_all(bytes).expect("memory takes the file");
    file
}
