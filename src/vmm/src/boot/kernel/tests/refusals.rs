//! Files that are no kernel: each refusal says what the file is.
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::{Kernel, KernelError};
use super::{open, refusal};
use crate::testing::kernel_image::{BzImage, Compression, Elf};

fn refusal_of(path: &Path) -> String {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .unwrap();
    Kernel::open(file, None).unwrap_err().to_string()
}

#[test]
fn what_is_not_a_regular_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(
        refusal_of(directory.path()),
        "is a directory, not a regular file"
    );
    assert_eq!(
        refusal_of(Path::new("/dev/zero")),
        "is a character device, not a regular file"
    );
    let (reader, _writer) = std::io::pipe().unwrap();
    let error = Kernel::open(File::from(std::os::fd::OwnedFd::from(reader)), None).unwrap_err();
    assert_eq!(error.to_string(), "is a named pipe, not a regular file");
    assert!(error.hint().is_some());
}

#[test]
fn an_empty_file_is_empty() {
    assert_eq!(refusal(b""), "is empty");
}

#[test]
fn programs_and_libraries_are_not_kernels() {
    assert!(refusal_of(Path::new("/bin/ls")).starts_with("is not a kernel: it is a program"));
    let kind = |kind| refusal(&Elf::kernel().kind(kind).build());
    assert!(kind(1).contains("object file (perhaps a kernel module)"));
    assert!(kind(3).contains("shared library or position-independent program"));
    assert!(kind(4).contains("core dump"));
    assert!(kind(9).contains("unknown type"));
    let interpreter = Elf::kernel().header(3, 0, b"/lib64/ld-linux-x86-64.so.2\0", 0);
    assert!(refusal(&interpreter.build()).contains("a program"));
    let thread_local = Elf::kernel().header(7, 0, b"", 8);
    assert!(refusal(&thread_local.build()).contains("a program"));
    assert!(open(&thread_local.pvh(0x100_0000).build()).is_ok());
}

#[test]
fn kernels_of_other_architectures_are_named() {
    let machine = |class, machine: u16| {
        let mut elf = Elf::kernel().build();
        elf[4] = class;
        elf[18..20].copy_from_slice(&machine.to_le_bytes());
        refusal(&elf)
    };
    assert_eq!(
        machine(2, 183),
        "is built for aarch64, and guests here are x86-64"
    );
    assert!(machine(2, 243).contains("riscv"));
    assert!(machine(1, 3).contains("i386 (a 32-bit ELF)"));
    assert!(machine(1, 62).contains("32-bit ABI"));
    assert!(machine(2, 9999).contains("e_machine 9999"));

    let mut big_endian = Elf::kernel().build();
    big_endian[5] = 2;
    big_endian[18..20].copy_from_slice(&[0, 22]);
    assert!(refusal(&big_endian).contains("s390"));

    let mut arm64 = vec![0; 4096];
    arm64[..2].copy_from_slice(b"MZ");
    arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert!(refusal(&arm64).contains("aarch64 (an arm64 Image)"));
    assert!(refusal(&Compression::Gzip.compress(&arm64)).contains("aarch64"));
    arm64[0x38..0x3c].copy_from_slice(b"RSC\x05");
    assert!(refusal(&arm64).contains("riscv"));
}

#[test]
fn a_bzimage_without_a_64_bit_entry_is_refused() {
    let mut image = BzImage::new(b"?");
    image.set(0x236, &[0]);
    assert!(matches!(
        open(&image.build()),
        Err(KernelError::No64BitEntry)
    ));
    image.set(0x206, &[0x0a, 0x02]);
    assert_eq!(
        refusal(&image.build()),
        "is a bzImage of boot protocol 2.10, and 2.12 is the oldest with a 64-bit entry"
    );
}

#[test]
fn a_truncated_image_says_which_part_is_cut_off() {
    let elf = Elf::kernel().build();
    assert!(refusal(&elf[..40]).contains("its ELF header ends at byte 64"));
    assert!(refusal(&elf[..100]).contains("program header table"));
    assert!(refusal(&elf[..3000]).contains("its ELF segment ends at byte 4215, the file has 3000"));

    let image = BzImage::new(&Compression::Gzip.payload(&elf)).build();
    assert!(refusal(&image[..0x220]).contains("setup header"));
    assert!(refusal(&image[..0x500]).contains("protected-mode code"));
    let mut image = BzImage::new(b"?");
    image.set(0x24c, &0x1000u32.to_le_bytes());
    assert!(refusal(&image.build()).contains("compressed kernel"));
}

#[test]
fn a_corrupt_payload_is_not_booted() {
    let elf = Elf::kernel().build();
    for compression in Compression::ALL {
        let payload = compression.payload(&elf);
        // A byte near the end of the data, where the checksum or the structure is.
        let mut broken = payload.clone();
        let at = broken.len() - 12;
        broken[at] ^= 0x55;
        let mut short = payload.clone();
        short.drain(payload.len() / 2..payload.len() - 8);
        let mut sized = payload;
        if let Some(last) = sized.last_mut() {
            *last ^= 1;
        }
        for (what, bytes) in [("short", short), ("sized", sized)] {
            let error = open(&BzImage::new(&bytes).build()).unwrap_err();
            assert!(
                matches!(error, KernelError::CorruptPayload { .. }),
                "{compression:?} {what}: {error}"
            );
        }
        // Some bit flips only change data, where the format has no checksum.
        let _ = open(&BzImage::new(&broken).build());
    }
}

#[test]
fn a_bomb_is_refused_and_costs_no_memory() {
    let mut elf = Elf::kernel().build();
    elf.resize(600 << 20, 0);
    let bomb = Compression::Zstd.compress(&elf);
    drop(elf);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(
        refusal(&bomb),
        "has a payload that decompresses to more than 512 MiB"
    );
}

#[test]
fn files_given_by_mistake_are_named() {
    let at = |offset: usize, magic: &[u8]| {
        let mut bytes = vec![1; offset];
        bytes.extend_from_slice(magic);
        bytes.resize(bytes.len().max(0x9000), 0);
        refusal(&bytes)
    };
    assert!(at(0, b"070701").contains("initramfs"));
    assert!(at(0, b"QFI\xfb").contains("qcow2"));
    assert!(at(0x8001, b"CD001").contains("ISO 9660"));
    assert!(at(0x438, &[0x53, 0xef]).contains("ext4"));
    assert!(at(0x1fe, &[0x55, 0xaa]).contains("boot sector"));
    assert!(at(0, b"MZ").contains("EFI"));
    assert!(at(0, b"BZh9").contains("bzip2-compressed"));
    assert!(at(0, b"!<arch>\n").contains("Debian package"));
    assert_eq!(refusal(b"#!/bin/sh\n"), "is not a kernel: it is a script");
    assert_eq!(
        refusal(b"hello\n"),
        "is not a kernel: it is unknown data, starting with \"hello\\n\""
    );
    assert!(refusal(&[0; 100]).contains("nothing but zeros"));
}

#[test]
fn a_compressed_initramfs_is_named_with_its_compression() {
    let mut archive = b"070701".to_vec();
    archive.resize(3000, b'0');
    for (compression, name) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        assert_eq!(
            refusal(&compression.compress(&archive)),
            format!(
                "is not a kernel: it is a cpio archive, as an initramfs is, compressed with {name}"
            )
        );
    }
}
