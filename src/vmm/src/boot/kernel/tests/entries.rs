//! Which way into the kernel.
use vm_memory::GuestAddress;

use super::super::{Entry, EntryKind, Format, Kernel, KernelError};
use super::open;
use crate::testing::kernel_image::{BzImage, Compression, Elf, KERNEL_ADDRESS, VERSION, file};

const LINUX64: Entry = Entry::Linux64(GuestAddress(KERNEL_ADDRESS));
const PVH: Entry = Entry::Pvh(GuestAddress(KERNEL_ADDRESS + 0x100));

fn with_note() -> Elf {
    Elf::kernel().pvh(0x100_0100)
}

#[test]
fn an_elf_kernel_with_the_note_is_entered_by_pvh_unless_told_otherwise() {
    let kernel = open(&with_note().build()).unwrap();
    assert_eq!(kernel.entry(EntryKind::Auto).unwrap(), PVH);
    assert_eq!(kernel.entry(EntryKind::Pvh).unwrap(), PVH);
    assert_eq!(kernel.entry(EntryKind::Linux64).unwrap(), LINUX64);
}

#[test]
fn an_elf_kernel_without_the_note_is_entered_in_64_bit_mode() {
    let kernel = open(&Elf::kernel().build()).unwrap();
    assert_eq!(kernel.entry(EntryKind::Auto).unwrap(), LINUX64);
    let error = kernel.entry(EntryKind::Pvh).unwrap_err();
    assert_eq!(
        error.to_string(),
        "has no PVH entry: it carries no XEN_ELFNOTE_PHYS32_ENTRY note"
    );
    assert!(error.hint().is_some());
}

#[test]
fn a_bzimage_is_entered_in_64_bit_mode_unless_told_otherwise() {
    let payload = Compression::Gzip.payload(&with_note().build());
    let kernel = open(&BzImage::new(&payload).build()).unwrap();
    assert_eq!(kernel.entry(EntryKind::Auto).unwrap(), LINUX64);
    assert_eq!(kernel.entry(EntryKind::Pvh).unwrap(), PVH);
}

#[test]
fn a_bzimage_that_unpacks_itself_has_its_64_bit_entry_only() {
    let kernel = open(&BzImage::new(b"?").build()).unwrap();
    let entry = Entry::Linux64(GuestAddress(KERNEL_ADDRESS + 0x200));
    assert_eq!(kernel.entry(EntryKind::Auto).unwrap(), entry);
    assert!(matches!(
        kernel.entry(EntryKind::Pvh),
        Err(KernelError::NoPvhEntry(_))
    ));
}

#[test]
fn a_bzimage_may_be_left_to_unpack_itself() {
    let payload = Compression::Gzip.payload(&with_note().build());
    let kernel = Kernel::open_whole(file(&BzImage::new(&payload).build())).unwrap();
    assert_eq!(kernel.format(), Format::WholeBzImage);
    assert_eq!(kernel.version(), Some(VERSION));
    let entry = Entry::Linux64(GuestAddress(KERNEL_ADDRESS + 0x200));
    assert_eq!(kernel.entry(EntryKind::Auto).unwrap(), entry);
}

#[test]
fn what_is_no_bzimage_cannot_unpack_itself() {
    let elf = with_note().build();
    for bytes in [Compression::Gzip.compress(&elf), elf] {
        let error = Kernel::open_whole(file(&bytes)).unwrap_err();
        assert!(matches!(error, KernelError::NotABzImage), "{error}");
    }
}

#[test]
fn an_entry_outside_of_the_kernel_is_refused_when_it_is_wanted() {
    let elf = with_note().entry(0xffff_ffff_8100_0000);
    let kernel = open(&elf.build()).unwrap();
    assert_eq!(kernel.entry(EntryKind::Auto).unwrap(), PVH);
    assert_eq!(
        kernel.entry(EntryKind::Linux64).unwrap_err().to_string(),
        "has its 64-bit entry at 0xffffffff81000000, outside of what it loads"
    );
}

#[test]
fn a_pvh_note_of_eight_bytes_counts_when_its_address_is_below_4_gib() {
    let note = |address: u64| {
        let mut note = vec![4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0];
        note.extend_from_slice(b"Xen\0");
        note.extend_from_slice(&address.to_le_bytes());
        open(&Elf::kernel().header(4, 0, &note, 0).build())
            .unwrap()
            .entry(EntryKind::Pvh)
    };
    assert_eq!(note(KERNEL_ADDRESS + 0x100).unwrap(), PVH);
    assert!(matches!(note(1 << 32), Err(KernelError::NoPvhEntry(_))));
}

#[test]
fn notes_that_make_no_sense_are_no_note() {
    for note in [&[0xff; 12][..], &[0xff; 40], &[4, 0], &[0; 4096]] {
        let kernel = open(&Elf::kernel().header(4, 0, note, 0).build()).unwrap();
        assert_eq!(kernel.entry(EntryKind::Auto).unwrap(), LINUX64);
    }
}
