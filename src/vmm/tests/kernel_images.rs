//! The kernels that distributions ship, opened, cached and loaded.
//!
//! `AMPOULE_TEST_KERNELS` lists them, separated by colons; `tools/test` provides them and sets it.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::boot::cache::Cache;
use vmm::boot::kernel::{self, CacheUse, Entry, EntryKind, Format, Kernel};

fn kernels() -> Vec<PathBuf> {
    let list = std::env::var_os("AMPOULE_TEST_KERNELS").expect(
        "AMPOULE_TEST_KERNELS is not set: run this with tools/test, which provides the kernels",
    );
    let kernels: Vec<_> = std::env::split_paths(&list).collect();
    assert!(!kernels.is_empty());
    kernels
}

fn open(path: &Path, cache: Option<&Cache>) -> Kernel {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Kernel::open(file, cache).unwrap_or_else(|error| panic!("{} {error}", path.display()))
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 512 << 20)]).expect("512 MiB")
}

/// All that was loaded, as one sequence of bytes.
fn contents(kernel: &Kernel) -> Vec<u8> {
    let memory = memory();
    kernel.load(&memory).expect("the guest has room");
    let mut all = Vec::new();
    for segment in kernel.segments() {
        let start = all.len();
        all.resize(
            start + usize::try_from(segment.memory_size).expect("a kernel is small"),
            0,
        );
        memory
            .read_slice(&mut all[start..], segment.guest_address)
            .expect("it was loaded there");
    }
    all
}

#[test]
fn every_kernel_is_decompressed_and_loaded() {
    for path in kernels() {
        let start = Instant::now();
        let kernel = open(&path, None);
        let opened = start.elapsed();
        let memory = memory();
        let start = Instant::now();
        kernel.load(&memory).unwrap();
        println!(
            "{}: {} {:?}, end {:#x}, opened in {opened:?}, loaded in {:?}, {:?}",
            path.display(),
            kernel.format(),
            kernel.version(),
            kernel.end().0,
            start.elapsed(),
            kernel.counters(),
        );
        assert!(
            matches!(kernel.format(), Format::BzImage(_)),
            "{}",
            kernel.format()
        );
        let version = kernel.version().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            name.ends_with(version.split(' ').next().unwrap()),
            "{version}"
        );
        // The kernel's own banner proves that what came out is what its build put in.
        let banner = format!("Linux version {} (", version.split(' ').next().unwrap());
        let loaded = contents(&kernel);
        assert!(
            loaded
                .windows(banner.len())
                .any(|window| window == banner.as_bytes())
        );
    }
}

#[test]
fn every_kernel_has_both_entries() {
    for path in kernels() {
        let kernel = open(&path, None);
        let header = kernel.setup_header().unwrap();
        let preferred = GuestAddress(header.pref_address);
        // Until 6.5 at the start of the image, then anywhere in it.
        assert!(matches!(
            kernel.entry(EntryKind::Auto).unwrap(),
            Entry::Linux64(address) if address >= preferred
        ));
        assert!(matches!(
            kernel.entry(EntryKind::Pvh).unwrap(),
            Entry::Pvh(_)
        ));
        // The image promises that this is enough until the kernel reads its memory map.
        assert!(kernel.end().0 <= preferred.0 + u64::from(header.init_size));
    }
}

#[test]
fn every_kernel_is_the_same_from_the_cache() {
    let directory = tempfile::tempdir().unwrap();
    let cache = kernel::cache(directory.path().join("kernels"));
    for path in kernels() {
        let extracted = open(&path, None);
        let start = Instant::now();
        let stored = open(&path, Some(&cache));
        let cold = start.elapsed();
        let start = Instant::now();
        let hit = open(&path, Some(&cache));
        println!(
            "{}: cold {cold:?}, warm {:?}",
            path.display(),
            start.elapsed()
        );
        assert_eq!(*stored.cache_use(), CacheUse::Stored);
        assert_eq!(*hit.cache_use(), CacheUse::Hit);
        let expected = contents(&extracted);
        assert!(contents(&stored) == expected);
        assert!(contents(&hit) == expected);
    }
}
