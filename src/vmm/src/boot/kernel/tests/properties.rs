//! Whatever the bytes, opening and loading ends, with a kernel or with an error.
use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::{EntryKind, Kernel};
use crate::testing::kernel_image::{BzImage, Compression, Elf, file};

/// Does all that a launch does with a kernel file.
fn launch(bytes: &[u8]) {
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap();
    match Kernel::open(file(bytes), None) {
        Ok(kernel) => {
            for kind in [EntryKind::Auto, EntryKind::Linux64, EntryKind::Pvh] {
                let _ = kernel.entry(kind);
            }
            if let Ok(loaded) = kernel.load(&memory) {
                assert!(loaded.end.0 <= 32 << 20);
            }
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let _ = error.hint();
        }
    }
}

/// A valid image of some kind.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let elf = Elf::kernel().pvh(0x100_0000).build();
    let mut images = vec![elf.clone(), BzImage::new(b"?").build()];
    for compression in Compression::ALL {
        images.push(BzImage::new(&compression.payload(&elf)).build());
        images.push(compression.compress(&elf));
    }
    prop::sample::select(images)
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_loaded(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        launch(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_magic_are_refused_or_loaded(
        magic in prop::sample::select(vec![
            &b"\x7fELF\x02\x01\x01"[..], b"\x1f\x8b\x08\0", b"\xfd7zXZ\0\0\x01", b"\x02\x21\x4c\x18",
            b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"MZ",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        launch(&[magic, &bytes].concat());
        launch(&BzImage::new(&[magic, &bytes].concat()).build());
    }

    #[test]
    fn a_damaged_image_is_refused_or_loaded(
        mut image in valid(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        for (at, byte) in damages {
            let at = at.index(image.len());
            image[at] = byte;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        launch(&image);
    }

    #[test]
    fn a_damaged_header_is_refused_or_loaded(
        mut image in valid(),
        damages in prop::collection::vec((0usize..0x280, any::<u8>()), 1..8),
    ) {
        for (at, byte) in damages {
            if let Some(slot) = image.get_mut(at) {
                *slot = byte;
            }
        }
        launch(&image);
    }
}
