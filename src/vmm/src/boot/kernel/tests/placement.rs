//! Where a kernel may go, and what happens when it does not fit.
use std::fs::File;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::{Kernel, KernelError};
use super::{memory, open, read, refusal};
use crate::testing::kernel_image::{BzImage, Elf, file};

fn elf(segments: &[(u64, u64)]) -> Vec<u8> {
    let mut elf = Elf::new(0x20_0000);
    for (address, size) in segments {
        elf = elf.load(*address, b"code", *size);
    }
    elf.build()
}

#[test]
fn a_kernel_larger_than_the_guest_says_how_much_it_needs() {
    let kernel = open(&elf(&[(0x100_0000, 0x200_0001)])).unwrap();
    let error = kernel.load(&memory(32)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "needs 49 MiB of memory, and the guest has 32"
    );
    assert!(error.hint().unwrap().contains("--memory"));
    assert!(kernel.load(&memory(49)).is_ok());
}

#[test]
fn a_kernel_in_a_hole_of_memory_is_refused() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[
        (GuestAddress(0), 32 << 20),
        (GuestAddress(1 << 32), 1 << 20),
    ])
    .unwrap();
    let kernel = open(&elf(&[(0x200_0000, 0x1000)])).unwrap();
    let error = kernel.load(&memory).unwrap_err();
    assert!(matches!(
        error,
        KernelError::OutsideMemory {
            start: 0x200_0000,
            ..
        }
    ));
}

#[test]
fn a_segment_may_span_two_regions() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[
        (GuestAddress(0), 0x20_1000),
        (GuestAddress(0x20_1000), 0x10_0000),
    ])
    .unwrap();
    let bytes: Vec<u8> = (0..0x2000u32).map(|at| at.to_le_bytes()[0]).collect();
    let elf = Elf::new(0x20_0000).load(0x20_0000, &bytes, 0x3000).build();
    assert_eq!(open(&elf).unwrap().load(&memory).unwrap().bytes, 0x2000);
    assert_eq!(read(&memory, 0x20_0000, 0x2000), bytes);
}

#[test]
fn bss_is_left_as_it_is() {
    let memory = memory(8);
    vm_memory::Bytes::write_slice(&memory, b"untouched", GuestAddress(0x20_0004)).unwrap();
    open(&elf(&[(0x20_0000, 0x1000)]))
        .unwrap()
        .load(&memory)
        .unwrap();
    assert_eq!(read(&memory, 0x20_0000, 13), b"codeuntouched");
}

#[test]
fn the_first_mib_is_taken() {
    assert_eq!(
        refusal(&elf(&[(0xf_f000, 0x1000)])),
        "wants to be loaded at 0xff000, and the first MiB is taken"
    );
}

#[test]
fn segments_do_not_overlap() {
    let overlapping = elf(&[(0x20_0000, 0x1001), (0x20_1000, 0x1000)]);
    assert!(matches!(
        open(&overlapping),
        Err(KernelError::Overlap { address: 0x20_1000 })
    ));
    assert!(open(&elf(&[(0x20_0000, 0x1000), (0x20_1000, 0x1000)])).is_ok());
}

#[test]
fn segments_that_make_no_sense_are_malformed() {
    for (bytes, why) in [
        (
            elf(&[(0x20_0000, 3)]),
            "more bytes in the file than in memory",
        ),
        (elf(&[(u64::MAX - 2, 4)]), "wraps around"),
        (elf(&[]), "loads nothing"),
        (
            Elf::new(0).load(0x20_0000, b"", 0x1000).build(),
            "loads nothing",
        ),
    ] {
        assert!(refusal(&bytes).contains(why), "{}", refusal(&bytes));
    }
    let mut absurd = BzImage::new(b"?");
    absurd.set(0x258, &u64::MAX.to_le_bytes());
    assert!(refusal(&absurd.build()).contains("pref_address"));
    absurd.set(0x230, &3u32.to_le_bytes());
    assert!(refusal(&absurd.build()).contains("kernel_alignment"));
}

#[test]
fn a_segment_as_large_as_can_be_does_not_fit_and_does_no_harm() {
    let kernel = open(&elf(&[(0x10_0000, u64::MAX - 0x10_0000)])).unwrap();
    let error = kernel.load(&memory(2)).unwrap_err();
    assert!(matches!(error, KernelError::DoesNotFit { .. }), "{error}");
}

#[test]
fn a_file_that_shrinks_between_open_and_load_is_noticed() {
    let image: File = file(&elf(&[(0x20_0000, 0x1000)]));
    let kernel = Kernel::open(image.try_clone().unwrap(), None).unwrap();
    image.set_len(100).unwrap();
    assert!(matches!(kernel.load(&memory(8)), Err(KernelError::Changed)));
}
