//! A kernel's pages lent to the guest.
use std::{
    fs::{Permissions, read as read_file},
    io::Write,
    os::unix::fs::PermissionsExt,
};

use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

use super::super::Kernel;
use super::{memory, read};
use crate::{memory::clear, testing::kernel_image::Elf};

const ADDRESS: u64 = 0x20_0000;

fn bytes() -> Vec<u8> {
    (0..0x2345u32)
        .map(|at| at.to_le_bytes()[0] ^ 0x5a)
        .collect()
}

fn image(mode: u32) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let elf = Elf::new(ADDRESS)
        .load(ADDRESS, &bytes(), 0x5000)
        .page_aligned()
        .build();
    file.write_all(&elf).unwrap();
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))
        .unwrap();
    file
}

fn open(file: &NamedTempFile) -> Kernel {
    Kernel::open(file.reopen().unwrap(), None).unwrap()
}

#[test]
fn whole_pages_are_mapped_and_the_rest_is_copied() {
    let (file, memory) = (image(0o644), memory(8));
    let mut kernel = open(&file);
    assert_eq!(kernel.map(&memory).unwrap(), 0x2000);
    assert_eq!(kernel.load(&memory).unwrap().bytes, 0x345);
    assert_eq!(read(&memory, ADDRESS, 0x2345), bytes());
    assert_eq!(read(&memory, ADDRESS + 0x2345, 0x2cbb), vec![0; 0x2cbb]);
}

#[test]
fn what_the_guest_writes_stays_its_own_and_is_gone_after_a_reset() {
    let (file, memory) = (image(0o600), memory(8));
    let before = read_file(file.path()).unwrap();
    let mut kernel = open(&file);
    kernel.map(&memory).unwrap();
    kernel.load(&memory).unwrap();
    memory
        .write_slice(&[0; 0x3000], GuestAddress(ADDRESS))
        .unwrap();
    assert_eq!(read_file(file.path()).unwrap(), before);
    clear(&memory).unwrap();
    kernel.load(&memory).unwrap();
    assert_eq!(read(&memory, ADDRESS, 0x2345), bytes());
}

#[test]
fn a_file_that_others_may_write_to_is_copied() {
    let (file, memory) = (image(0o666), memory(8));
    let mut kernel = open(&file);
    assert_eq!(kernel.map(&memory).unwrap(), 0);
    assert_eq!(kernel.load(&memory).unwrap().bytes, 0x2345);
}

#[test]
fn a_kernel_that_does_not_fit_is_not_mapped() {
    let (file, memory) = (image(0o600), memory(2));
    assert!(open(&file).map(&memory).is_err());
}
