//! What a file is, by its first bytes: a kernel to boot, or something whose name goes into the refusal.
use super::bytes::{has, le16, le32};
use super::payload::Codec;
use super::{KernelError, bzimage, elf};

/// Bytes of a file that identification looks at: past the volume descriptor of an ISO image (0x8001), and enough for
/// the whole setup code of a bzImage, which holds its version string.
pub(super) const HEAD: usize = 0x9000;

/// A file that may hold a kernel, by the parser that goes on with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Elf,
    BzImage,
    /// A compressed file, perhaps a `vmlinux.gz`.
    Compressed(Codec),
}

/// Names the parser for a file that starts with `head`, or refuses it by what it is.
pub(super) fn identify(head: &[u8]) -> Result<Kind, KernelError> {
    if has(head, 0, elf::MAGIC) {
        return Ok(Kind::Elf);
    }
    if has(head, bzimage::HDRS_OFFSET, bzimage::HDRS) {
        return Ok(Kind::BzImage);
    }
    if let Some(codec) = Codec::detect(head) {
        return Ok(Kind::Compressed(codec));
    }
    Err(refuse(head))
}

/// The refusal of data that is no x86-64 kernel.
pub(super) fn refuse(head: &[u8]) -> KernelError {
    match foreign_kernel(head) {
        Some(architecture) => KernelError::WrongArchitecture(architecture.to_owned()),
        None => KernelError::NotAKernel(describe(head)),
    }
}

/// The architecture of a bare kernel image that is not x86's.
fn foreign_kernel(head: &[u8]) -> Option<&'static str> {
    if has(head, 0x38, b"ARM\x64") {
        Some("aarch64 (an arm64 Image)")
    } else if has(head, 0x38, b"RSC\x05") {
        Some("riscv (a RISC-V Image)")
    } else if has(head, 0x24, &[0x18, 0x28, 0x6f, 0x01]) {
        Some("arm (a 32-bit ARM zImage)")
    } else if has(head, 0, b"MZ") && has(head, 4, b"zimg") {
        Some("another architecture (an EFI zboot image)")
    } else {
        None
    }
}

/// Files that people hand over by mistake: offset, magic, name.
const KNOWN: &[(usize, &[u8], &str)] = &[
    (0, b"07070", "a cpio archive, as an initramfs is"),
    (0, &[0xc7, 0x71], "a cpio archive, as an initramfs is"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"vhdxfile", "a VHDX disk image"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0, b"hsqs", "a squashfs file system"),
    (0x400, &[0xe2, 0xe1, 0xf5, 0xe0], "an erofs file system"),
    (0x438, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
    (257, b"ustar", "a tar archive"),
    (0, b"!<arch>\n", "an ar archive (perhaps a Debian package)"),
    (0, &[0xed, 0xab, 0xee, 0xdb], "an RPM package"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"BZh", "bzip2-compressed data, which is not supported"),
    (0, b"\x89LZO", "LZO-compressed data, which is not supported"),
    (
        0,
        &[0x5d, 0, 0],
        "LZMA-compressed data, which is not supported",
    ),
    (0, &[0xd0, 0x0d, 0xfe, 0xed], "a device tree"),
    (0, &[0x27, 0x05, 0x19, 0x56], "a U-Boot image"),
    (0, b"#!", "a script"),
    (0, b"<!", "an HTML or XML document"),
    (0, b"<html", "an HTML document"),
    (0, b"{", "a JSON document or other text"),
    (0, b"version https://git-lfs", "a Git LFS pointer"),
];

/// The name of anything else.
fn describe(head: &[u8]) -> String {
    for (offset, magic, name) in KNOWN {
        if has(head, *offset, magic) {
            return (*name).to_owned();
        }
    }
    if has(head, 0, b"MZ") {
        return match le32(head, 0x3c) {
            Some(_) => "an EFI or Windows program without a Linux setup header".to_owned(),
            None => "the first bytes of an EFI program or bzImage, cut off".to_owned(),
        };
    }
    if le16(head, 0x1fe) == Some(0xaa55) {
        return "a disk image or boot sector".to_owned();
    }
    if head.iter().all(|byte| *byte == 0) {
        return "nothing but zeros at its start".to_owned();
    }
    let start = head.get(..16).unwrap_or(head);
    format!("unknown data, starting with \"{}\"", start.escape_ascii())
}
