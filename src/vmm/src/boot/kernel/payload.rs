//! Decompressing a kernel, or one of its modules: the five formats that Linux's `scripts/Makefile.lib` makes and a crate here reads.
//!
//! The data is hostile. Output goes out in pieces and is counted against a limit, so that memory is bounded by what
//! the decoders keep: a window of 128 MiB for zstd (Linux uses `-22 --ultra`, whose window that is), a dictionary of
//! 192 MiB for xz, two blocks for LZ4.
use std::io::{self, BufRead, Read};

use thiserror::Error;

use super::elf;

/// The most that a kernel may decompress to, in bytes. Debian's have 50 to 110 MB.
#[cfg(not(fuzzing))]
pub(super) const MAX_KERNEL: u64 = 512 << 20;
/// A fuzzer wants many small inputs per second.
#[cfg(fuzzing)]
pub(super) const MAX_KERNEL: u64 = 8 << 20;

/// Decoder memory for xz: Linux's dictionary is 32 MiB, since 6.13 128 MiB.
const XZ_MEMORY_KIB: u32 = 192 << 10;
/// Uncompressed size of a block of the legacy LZ4 frame, all but the last.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Bytes handed on at a time.
const CHUNK: usize = 256 << 10;
/// Bytes of output that name what it is; see `identify::refuse`.
const START: usize = 0x440;

/// A compression that kernels come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// The .xz format, with its x86 filter.
    Xz,
    /// The LZ4 frame of `lz4 -l`, which Linux uses: a magic and blocks of 8 MiB.
    Lz4Legacy,
    /// The modern LZ4 frame.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// Bytes that tell them apart.
    pub const MAGIC: usize = 6;

    /// The compression of data that starts with `head`.
    #[must_use]
    pub fn detect(head: &[u8]) -> Option<Self> {
        const MAGICS: &[(&[u8], Codec)] = &[
            (&[0x1f, 0x8b, 8], Codec::Gzip),
            (b"\xfd7zXZ\0", Codec::Xz),
            (&LZ4_LEGACY_MAGIC, Codec::Lz4Legacy),
            (&[0x04, 0x22, 0x4d, 0x18], Codec::Lz4),
            (&[0x28, 0xb5, 0x2f, 0xfd], Codec::Zstd),
        ];
        MAGICS
            .iter()
            .find(|(magic, _)| head.starts_with(magic))
            .map(|(_, codec)| *codec)
    }

    /// Its name, as the kernel's configuration spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4Legacy | Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
        }
    }
}

/// Why nothing came out.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// The decoder refused the data.
    #[error("it is damaged: {0}")]
    Corrupt(String),
    /// More than there may be.
    #[error("there is too much in it")]
    TooLarge,
    /// It decompresses, but to something else that starts with this.
    #[error("there is no ELF file in it")]
    NotElf(Vec<u8>),
    /// The receiver failed.
    #[error(transparent)]
    Write(io::Error),
}

/// Decompresses `input` piece by piece into `write`, as long as it looks like an ELF file of at most `limit` bytes. Returns its size.
///
/// # Errors
/// When it does not decompress, or to something else, or `write` fails.
pub fn decompress<R: BufRead>(
    codec: Codec,
    input: R,
    limit: u64,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<u64, PayloadError> {
    let mut output = Output {
        write,
        start: Some(Vec::with_capacity(START)),
        size: 0,
        limit,
    };
    match codec {
        Codec::Gzip => output.pump(flate2::bufread::GzDecoder::new(input))?,
        Codec::Xz => output.pump(lzma_rust2::XzReader::new_mem_limit(
            input,
            false,
            XZ_MEMORY_KIB,
        ))?,
        Codec::Lz4 => output.pump(lz4_flex::frame::FrameDecoder::new(input))?,
        Codec::Lz4Legacy => lz4_legacy(input, &mut output)?,
        Codec::Zstd => output.pump(
            ruzstd::decoding::StreamingDecoder::new(input)
                .map_err(|error| PayloadError::Corrupt(error.to_string()))?,
        )?,
    }
    output.finish()
}

/// The receiving end: counts, and lets nothing pass that does not start as an ELF file does.
struct Output<'a> {
    write: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    /// The first bytes, until there are enough of them to tell.
    start: Option<Vec<u8>>,
    size: u64,
    limit: u64,
}

impl Output<'_> {
    fn pump(&mut self, mut decoder: impl Read) -> Result<(), PayloadError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match decoder.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(PayloadError::Corrupt(error.to_string())),
            };
            self.push(&chunk[..count])?;
        }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), PayloadError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.limit {
            return Err(PayloadError::TooLarge);
        }
        if let Some(start) = &mut self.start {
            let (now, later) = bytes.split_at(bytes.len().min(START - start.len()));
            start.extend_from_slice(now);
            bytes = later;
            if start.len() == START {
                self.release_start()?;
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        (self.write)(bytes).map_err(PayloadError::Write)
    }

    /// Looks at the first bytes and, where they are an ELF file's, passes them on.
    fn release_start(&mut self) -> Result<(), PayloadError> {
        match self.start.take() {
            Some(start) if start.starts_with(elf::MAGIC) => {
                (self.write)(&start).map_err(PayloadError::Write)
            }
            Some(start) => Err(PayloadError::NotElf(start)),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<u64, PayloadError> {
        self.release_start()?;
        Ok(self.size)
    }
}

/// The legacy frame: a magic, then blocks, each preceded by its compressed size. A size of 0 or the end of the data
/// ends it; the magic may come again where frames were joined (Linux `lib/decompress_unlz4.c`).
///
/// `lz4_flex`'s frame decoder knows this format too, but refuses a block that did not shrink.
fn lz4_legacy<R: BufRead>(mut input: R, output: &mut Output<'_>) -> Result<(), PayloadError> {
    let corrupt = |reason: &str| PayloadError::Corrupt(reason.to_owned());
    let largest = lz4_flex::block::get_maximum_output_size(LZ4_LEGACY_BLOCK);
    let mut compressed = Vec::new();
    let mut block = Vec::new();
    loop {
        let mut size = [0; 4];
        match read_all(&mut input, &mut size)? {
            0 => return Ok(()),
            4 => {}
            _ => return Err(corrupt("it ends inside a block size")),
        }
        if size == LZ4_LEGACY_MAGIC {
            continue;
        }
        let size = usize::try_from(u32::from_le_bytes(size)).unwrap_or(usize::MAX);
        if size == 0 {
            return Ok(());
        }
        if size > largest {
            return Err(corrupt("a block is larger than any LZ4 block"));
        }
        compressed.clear();
        let limit = u64::try_from(size).unwrap_or(0);
        let got = input.by_ref().take(limit).read_to_end(&mut compressed);
        if got.map_err(|error| PayloadError::Corrupt(error.to_string()))? < size {
            return Err(corrupt("it ends inside a block"));
        }
        block.resize(LZ4_LEGACY_BLOCK, 0);
        let count = lz4_flex::block::decompress_into(&compressed, &mut block)
            .map_err(|error| PayloadError::Corrupt(error.to_string()))?;
        output.push(&block[..count])?;
    }
}

/// Fills `buffer` as far as there is input.
fn read_all(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, PayloadError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PayloadError::Corrupt(error.to_string())),
        }
    }
    Ok(filled)
}
