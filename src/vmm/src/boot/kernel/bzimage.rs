//! bzImage: the kernel as distributions ship it, real-mode setup code in front of a compressed `vmlinux`.
//!
//! Linux `Documentation/arch/x86/boot.rst`: "The Real-Mode Kernel Header" for the fields, "64-bit Boot Protocol" for
//! entering the image without decompressing it here.
use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, GuestAddress};

use super::bytes::array;
use super::layout::{LOWEST_ADDRESS, Layout};
use super::{KernelError, Segment};

/// `setup_header.header`.
pub(super) const HDRS: &[u8] = b"HdrS";
/// Where it stands.
pub(super) const HDRS_OFFSET: usize = 0x202;

/// Where `setup_header` starts in the file and in the zero page.
const SETUP_HEADER: usize = 0x1f1;
/// The operand of the jump over the header; 0x202 plus it is the header's end.
const JUMP_OPERAND: usize = 0x201;
const SECTOR: u64 = 512;
/// `setup_sects` when the field is 0.
const DEFAULT_SETUP_SECTS: u8 = 4;
/// The oldest protocol with `xloadflags`.
const PROTOCOL_2_12: u16 = 0x020c;
/// `loadflags`: the protected-mode code is loaded at 1 MiB or above (not a zImage).
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry, from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// `syssize` counts paragraphs of this many bytes and rounds up.
const PARAGRAPH: u64 = 16;
/// `kernel_version` is relative to this.
const VERSION_BASE: usize = 0x200;
const MAX_VERSION: usize = 512;

/// The parts of a bzImage.
pub(super) struct BzImage {
    pub(super) header: setup_header,
    pub(super) version: Option<String>,
    /// File offset and length of the protected-mode code.
    code: (u64, u64),
    /// File offset and length of the compressed kernel, where there is one.
    pub(super) payload: Option<(u64, u64)>,
}

/// Parses the setup header in `head`, the start of a file of `size` bytes, and checks that what it describes is there.
pub(super) fn parse(head: &[u8], size: u64) -> Result<BzImage, KernelError> {
    let header = read_header(head, size)?;
    let (protocol, xloadflags, loadflags) = (header.version, header.xloadflags, header.loadflags);
    if protocol < PROTOCOL_2_12 {
        return Err(KernelError::OldProtocol { version: protocol });
    }
    if xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::No64BitEntry);
    }
    if loadflags & LOADED_HIGH == 0 {
        return Err(KernelError::Malformed(
            "a 64-bit bzImage without LOADED_HIGH".to_owned(),
        ));
    }
    let sectors = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTS,
        sectors => sectors,
    };
    let code_start = (u64::from(sectors) + 1) * SECTOR;
    let code_end = code_start + u64::from(header.syssize) * PARAGRAPH;
    // Some builds leave the last paragraph incomplete.
    let least = code_end
        .saturating_sub(PARAGRAPH - 1)
        .max(code_start + ENTRY_64 + 1);
    if size < least {
        return Err(truncated("protected-mode code", least, size));
    }
    let payload_start = code_start + u64::from(header.payload_offset);
    let payload_end = payload_start + u64::from(header.payload_length);
    if payload_end > size {
        return Err(truncated("compressed kernel", payload_end, size));
    }
    Ok(BzImage {
        version: version(head, header.kernel_version),
        code: (code_start, code_end.min(size) - code_start),
        payload: (header.payload_length > 0)
            .then(|| (payload_start, u64::from(header.payload_length))),
        header,
    })
}

fn truncated(what: &'static str, needed: u64, size: u64) -> KernelError {
    KernelError::Truncated { what, needed, size }
}

/// Copies the header as far as the file's own jump says that it reaches: a newer kernel's may be longer than ours, an
/// older one's shorter, and what follows it is code.
fn read_header(head: &[u8], size: u64) -> Result<setup_header, KernelError> {
    let cut = || truncated("setup header", 0x202 + 0x7f, size);
    let [jump] = array(head, JUMP_OPERAND).ok_or_else(cut)?;
    let end = HDRS_OFFSET + usize::from(jump);
    let bytes = head.get(SETUP_HEADER..end).ok_or_else(cut)?;
    let mut header = setup_header::default();
    let whole = header.as_mut_slice();
    let common = whole.len().min(bytes.len());
    whole[..common].copy_from_slice(&bytes[..common]);
    Ok(header)
}

/// The `uname -r`, builder and date that the kernel was built with.
fn version(head: &[u8], offset: u16) -> Option<String> {
    if offset == 0 {
        return None;
    }
    let bytes = head.get(VERSION_BASE + usize::from(offset)..)?;
    let end = bytes.iter().take(MAX_VERSION).position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?.trim();
    let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    (printable && !text.is_empty()).then(|| text.to_owned())
}

impl BzImage {
    /// How to load the image as it is, for its own decompressor to unpack in the guest: "64-bit Boot Protocol".
    ///
    /// It goes where it wants to be (`pref_address`), with the `init_size` bytes from there that it unpacks itself
    /// in. A lower place would not help a small guest: the decompressor moves the kernel up to that address anyway.
    pub(super) fn layout(&self) -> Result<Layout, KernelError> {
        let (alignment, relocatable) = (
            self.header.kernel_alignment,
            self.header.relocatable_kernel != 0,
        );
        let preferred = self.header.pref_address.max(LOWEST_ADDRESS);
        let address = if relocatable {
            if !alignment.is_power_of_two() {
                return Err(KernelError::Malformed(format!(
                    "its kernel_alignment, {alignment:#x}, is not a power of two"
                )));
            }
            preferred.checked_next_multiple_of(u64::from(alignment))
        } else {
            Some(preferred)
        };
        let address = address
            .filter(|address| address.checked_add(ENTRY_64).is_some())
            .ok_or_else(|| KernelError::Malformed("its pref_address is absurd".to_owned()))?;
        let (file_offset, file_size) = self.code;
        Layout::new(
            vec![Segment {
                file_offset,
                file_size,
                guest_address: GuestAddress(address),
                memory_size: file_size.max(u64::from(self.header.init_size)),
            }],
            address + ENTRY_64,
            None,
        )
    }
}
