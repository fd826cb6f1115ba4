//! Every format that is a kernel.
use vm_memory::GuestAddress;

use super::super::{CacheUse, Codec, Format, Segment};
use super::{memory, open, read};
use crate::testing::kernel_image::{BzImage, Compression, Elf, KERNEL_ADDRESS, VERSION};

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::Gzip => Codec::Gzip,
        Compression::Xz => Codec::Xz,
        Compression::Lz4Legacy => Codec::Lz4Legacy,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
    }
}

#[test]
fn an_elf_kernel_is_loaded_where_its_program_headers_say() {
    let code = [0xf4; 100];
    let data = [7; 50];
    let elf = Elf::new(0x20_0000)
        .load(0x40_0000, &data, 0x1000)
        .load(0x20_0000, &code, 100);
    let kernel = open(&elf.build()).unwrap();
    assert_eq!(kernel.format(), Format::Vmlinux);
    assert_eq!(kernel.version(), None);
    assert!(kernel.setup_header().is_none());
    assert_eq!(*kernel.cache_use(), CacheUse::NotNeeded);
    assert_eq!(
        kernel.segments(),
        [
            Segment {
                file_offset: 226,
                file_size: 100,
                guest_address: GuestAddress(0x20_0000),
                memory_size: 100,
            },
            Segment {
                file_offset: 176,
                file_size: 50,
                guest_address: GuestAddress(0x40_0000),
                memory_size: 0x1000,
            },
        ]
    );

    let memory = memory(8);
    let loaded = kernel.load(&memory).unwrap();
    assert_eq!(loaded.end, GuestAddress(0x40_1000));
    assert_eq!(loaded.bytes, 150);
    assert_eq!(read(&memory, 0x20_0000, 100), code);
    assert_eq!(read(&memory, 0x40_0000, 50), data);
    assert_eq!(read(&memory, 0x40_0032, 50), [0; 50]);
}

#[test]
fn a_bzimage_of_every_compression_becomes_its_elf_kernel() {
    let elf = Elf::kernel().build();
    for compression in Compression::ALL {
        let image = BzImage::new(&compression.payload(&elf)).build();
        let kernel = open(&image).unwrap_or_else(|error| panic!("{compression:?} {error}"));
        assert_eq!(kernel.format(), Format::BzImage(codec(compression)));
        assert_eq!(kernel.version(), Some(VERSION));
        let header = kernel.setup_header().unwrap();
        assert_eq!({ header.header }, 0x5372_6448);
        assert_eq!({ header.pref_address }, KERNEL_ADDRESS);
        assert_eq!({ header.kernel_info_offset }, 0);
        assert_eq!(kernel.counters().extracted_bytes, elf.len() as u64);

        let memory = memory(32);
        assert_eq!(
            kernel.load(&memory).unwrap().end,
            GuestAddress(KERNEL_ADDRESS + 0x2000)
        );
        assert_eq!(
            read(&memory, KERNEL_ADDRESS, 6),
            [0xf4, 0xeb, 0xfd, 0xf4, 0xeb, 0xfd]
        );
    }
}

#[test]
fn a_compressed_vmlinux_is_an_elf_kernel() {
    let elf = Elf::kernel().pvh(0x100_0000).build();
    for compression in Compression::ALL {
        let kernel = open(&compression.compress(&elf)).unwrap();
        assert_eq!(
            kernel.format(),
            Format::CompressedVmlinux(codec(compression))
        );
        assert_eq!(kernel.end(), GuestAddress(KERNEL_ADDRESS + 0x2000));
    }
}

#[test]
fn an_lz4_kernel_may_have_many_blocks() {
    let bytes: Vec<u8> = (0..20u32 << 20)
        .map(|at| at.to_le_bytes())
        .map(|at| at[2] ^ at[0])
        .collect();
    let elf = Elf::new(0x100_0000)
        .load(0x100_0000, &bytes, 21 << 20)
        .build();
    let kernel = open(&BzImage::new(&Compression::Lz4Legacy.payload(&elf)).build()).unwrap();
    let memory = memory(64);
    kernel.load(&memory).unwrap();
    assert!(read(&memory, 0x100_0000, bytes.len()) == bytes);
}

#[test]
fn an_lz4_block_may_be_larger_than_what_is_in_it() {
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take((8 << 20) + 100)
    .collect();
    let elf = Elf::new(0x100_0000)
        .load(0x100_0000, &noise, 9 << 20)
        .build();
    let payload = Compression::Lz4Legacy.payload(&elf);
    assert!(payload.len() > elf.len());
    assert!(open(&BzImage::new(&payload).build()).is_ok());
}

#[test]
fn a_bzimage_of_an_unknown_compression_is_booted_as_it_is() {
    let mut image = BzImage::new(b"\x89LZO not for us");
    for payload in [image.build(), BzImage::new(b"").build()] {
        let kernel = open(&payload).unwrap();
        assert_eq!(kernel.format(), Format::WholeBzImage);
        assert_eq!(kernel.version(), Some(VERSION));
        assert_eq!(kernel.end(), GuestAddress(KERNEL_ADDRESS + 0x10_0000));
        let memory = memory(32);
        kernel.load(&memory).unwrap();
        assert_eq!(read(&memory, KERNEL_ADDRESS, 0x240), [0xcc; 0x240]);
    }
    // Room to unpack itself in is not optional.
    image.set(0x260, &(64u32 << 20).to_le_bytes());
    let kernel = open(&image.build()).unwrap();
    let error = kernel.load(&memory(64)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "needs 80 MiB of memory, and the guest has 64"
    );
}

#[test]
fn a_payload_that_is_no_elf_kernel_is_left_to_the_image() {
    let elf = Elf::kernel().kind(3).build();
    for data in [&b"some other thing"[..], &vec![9; 5000], &elf] {
        let image = BzImage::new(&Compression::Zstd.payload(data)).build();
        assert_eq!(open(&image).unwrap().format(), Format::WholeBzImage);
    }
}

#[test]
fn a_relocatable_bzimage_is_loaded_at_its_alignment_and_above_the_first_mib() {
    let mut image = BzImage::new(b"?");
    image.set(0x258, &0x1_2345u64.to_le_bytes());
    let address = |image: &BzImage| open(&image.build()).unwrap().segments()[0].guest_address;
    assert_eq!(address(&image), GuestAddress(0x20_0000));
    image.set(0x234, &[0]);
    assert_eq!(address(&image), GuestAddress(0x10_0000));
}

#[test]
fn a_setup_header_is_copied_as_far_as_the_file_says_that_it_reaches() {
    let mut image = BzImage::new(b"?");
    image.set(0x264, &0x1234u32.to_le_bytes());
    let handover = |image: &BzImage| {
        let kernel = open(&image.build()).unwrap();
        kernel.setup_header().unwrap().handover_offset
    };
    assert_eq!(handover(&image), 0x1234);
    // The header of an older protocol ends before; what follows is code.
    image.set(0x201, &[0x62]);
    assert_eq!(handover(&image), 0);
    // A newer one is longer than the fields known here.
    image.set(0x201, &[0x7e]);
    assert_eq!(handover(&image), 0x1234);
}

#[test]
fn a_strange_version_string_is_not_passed_on() {
    let mut image = BzImage::new(b"?");
    image.set(0x300, b"\x1b[2J");
    assert_eq!(open(&image.build()).unwrap().version(), None);
    image.set(0x20e, &0xffffu16.to_le_bytes());
    assert_eq!(open(&image.build()).unwrap().version(), None);
}

#[test]
fn the_zeros_that_a_build_leaves_for_bss_are_not_loaded() {
    let mut bytes = vec![1; 5000];
    bytes.resize(600_000, 0);
    let elf = Elf::new(0x20_0000)
        .load(0x20_0000, &bytes, 600_000)
        .load(0x40_0000, &[0; 5000], 5000)
        .load(0x60_0000, &[0, 0, 1], 3);
    let kernel = open(&BzImage::new(&Compression::Zstd.payload(&elf.build())).build()).unwrap();
    let sizes = |segment: &Segment| (segment.file_size, segment.memory_size);
    let sizes: Vec<_> = kernel.segments().iter().map(sizes).collect();
    assert_eq!(sizes, [(8192, 600_000), (0, 5000), (3, 3)]);
    let memory = memory(8);
    kernel.load(&memory).unwrap();
    assert_eq!(read(&memory, 0x20_0000, 600_000), bytes);
}

#[test]
fn the_payload_may_be_anywhere_in_the_image() {
    let elf = Elf::kernel().build();
    let mut payload = vec![0; 0x10000];
    payload.extend_from_slice(&Compression::Gzip.payload(&elf));
    let mut image = BzImage::new(&payload);
    let length = u32::try_from(payload.len() - 0x10000).unwrap();
    image
        .set(0x248, &0x1_0240u32.to_le_bytes())
        .set(0x24c, &length.to_le_bytes());
    let kernel = open(&image.build()).unwrap();
    assert_eq!(kernel.format(), Format::BzImage(Codec::Gzip));
}
