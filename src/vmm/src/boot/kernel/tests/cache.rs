//! Extracted kernels kept between launches.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::super::{CacheUse, Kernel, cache};
use super::{memory, read};
use crate::boot::cache::Cache;
use crate::testing::kernel_image::{BzImage, Compression, Elf, KERNEL_ADDRESS};

/// A directory with a kernel and, later, a cache.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        bench.write("kernel", &image(b"first"));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that looks a minute old: fresher ones are not cached.
    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
        let file = File::options().write(true).open(self.path(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
    }

    fn cache(&self) -> Cache {
        cache(self.path("cache/kernels"))
    }

    fn open(&self, name: &str) -> Kernel {
        open(&self.path(name), &self.cache())
    }

    fn names(&self, part: &str) -> Vec<PathBuf> {
        fs::read_dir(self.path("cache/kernels"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains(part))
            .collect()
    }
}

fn image(contents: &[u8]) -> Vec<u8> {
    let elf = Elf::new(KERNEL_ADDRESS).load(KERNEL_ADDRESS, contents, 0x2000);
    BzImage::new(&Compression::Gzip.payload(&elf.build())).build()
}

fn open(path: &Path, cache: &Cache) -> Kernel {
    Kernel::open(File::open(path).unwrap(), Some(cache)).unwrap()
}

fn contents(kernel: &Kernel, length: usize) -> Vec<u8> {
    let memory = memory(32);
    kernel.load(&memory).unwrap();
    read(&memory, KERNEL_ADDRESS, length)
}

#[test]
fn the_second_launch_finds_what_the_first_extracted() {
    let bench = Bench::new();
    let first = bench.open("kernel");
    assert_eq!(*first.cache_use(), CacheUse::Stored);
    assert_eq!(first.counters().extracted_bytes, 125);

    let second = bench.open("kernel");
    assert_eq!(*second.cache_use(), CacheUse::Hit);
    assert_eq!(second.counters().cache_hits, 1);
    assert_eq!(second.counters().extracted_bytes, 0);
    assert_eq!(second.version(), first.version());
    assert_eq!(second.segments(), first.segments());
    assert_eq!(contents(&second, 5), b"first");
}

#[test]
fn the_cache_is_the_owners_alone_and_its_blobs_are_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let kernel = bench.open("kernel");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&bench.path("cache")), 0o700);
    assert_eq!(mode(&bench.path("cache/kernels")), 0o700);
    assert_eq!(mode(&bench.names(".elf")[0]), 0o400);
    assert!(std::io::Write::write(&mut kernel.file(), b"x").is_err());
}

#[test]
fn a_changed_kernel_is_extracted_again() {
    let bench = Bench::new();
    bench.open("kernel");
    bench.write("kernel", &image(b"second, longer"));
    let kernel = bench.open("kernel");
    assert_eq!(*kernel.cache_use(), CacheUse::Stored);
    assert_eq!(contents(&kernel, 6), b"second");
}

#[test]
fn a_kernel_written_a_moment_ago_is_not_kept_because_it_may_change_unseen() {
    let bench = Bench::new();
    let file = File::options()
        .write(true)
        .open(bench.path("kernel"))
        .unwrap();
    file.set_modified(SystemTime::now()).unwrap();
    let kernel = bench.open("kernel");
    assert!(matches!(kernel.cache_use(), CacheUse::Skipped(_)));
    assert_eq!(contents(&kernel, 5), b"first");
}

#[test]
fn two_copies_of_a_kernel_share_a_blob() {
    let bench = Bench::new();
    bench.write("copy", &image(b"first"));
    for name in ["kernel", "copy"] {
        assert_eq!(*bench.open(name).cache_use(), CacheUse::Stored);
    }
    for name in ["kernel", "copy"] {
        assert_eq!(*bench.open(name).cache_use(), CacheUse::Hit);
    }
    assert_eq!(bench.names("index-").len(), 2);
    assert_eq!(bench.names(".elf").len(), 1);
}

#[test]
fn damaged_blobs_and_entries_are_replaced() {
    let bench = Bench::new();
    bench.open("kernel");
    let blob = bench.names(".elf").remove(0);
    let entry = bench.names("index-").remove(0);
    let good = fs::read(&blob).unwrap();
    let garbage = vec![7; good.len()];
    let overwrite = |bytes: &[u8]| {
        fs::remove_file(&blob).unwrap();
        fs::write(&blob, bytes).unwrap();
    };
    let link = |target: &str| {
        fs::remove_file(&entry).unwrap();
        std::os::unix::fs::symlink(target, &entry).unwrap();
    };
    let damages: [&dyn Fn(); 9] = [
        &|| overwrite(&good[..good.len() - 1]),
        &|| overwrite(b""),
        &|| overwrite(&garbage),
        &|| fs::remove_file(&blob).unwrap(),
        &|| {
            fs::remove_file(&blob).unwrap();
            std::os::unix::fs::symlink("/bin/ls", &blob).unwrap();
        },
        &|| link("/etc/passwd"),
        &|| link("../../kernel"),
        &|| link("nowhere"),
        &|| {
            fs::remove_file(&entry).unwrap();
            fs::write(&entry, b"no link").unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        let kernel = bench.open("kernel");
        assert_eq!(*kernel.cache_use(), CacheUse::Stored, "damage {number}");
        assert_eq!(contents(&kernel, 5), b"first", "damage {number}");
        assert_eq!(
            *bench.open("kernel").cache_use(),
            CacheUse::Hit,
            "damage {number}"
        );
        assert_eq!(fs::read(&blob).unwrap(), good, "damage {number}");
    }
}

#[test]
fn a_blob_that_others_could_have_written_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.open("kernel");
    let blob = bench.names(".elf").remove(0);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(*bench.open("kernel").cache_use(), CacheUse::Stored);

    let directory = bench.path("cache/kernels");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    bench.write("other", &image(b"other"));
    assert_eq!(
        *bench.open("other").cache_use(),
        CacheUse::Skipped("others may write to it".to_owned())
    );
}

#[test]
fn without_a_usable_directory_the_kernel_is_extracted_to_memory() {
    let bench = Bench::new();
    // Root may write anywhere, so a directory that cannot be made stands for one that cannot be written.
    for directory in [
        bench.path("kernel"),
        bench.path("kernel/below"),
        "/proc/no".into(),
    ] {
        let kernel = open(&bench.path("kernel"), &cache(directory));
        assert!(matches!(kernel.cache_use(), CacheUse::Skipped(_)));
        assert_eq!(kernel.counters().cache_skips, 1);
        assert_eq!(contents(&kernel, 5), b"first");
    }
}

#[test]
fn a_full_cache_only_costs_time() {
    let bench = Bench::new();
    for room in [0, 124] {
        let mut cache = bench.cache();
        cache.room = room;
        let kernel = open(&bench.path("kernel"), &cache);
        assert!(matches!(kernel.cache_use(), CacheUse::Skipped(why) if !why.is_empty()));
        assert_eq!(contents(&kernel, 5), b"first");
        assert_eq!(
            fs::read_dir(bench.path("cache/kernels")).unwrap().count(),
            1,
            "only the lock"
        );
    }
    assert_eq!(*bench.open("kernel").cache_use(), CacheUse::Stored);
}

#[test]
fn launches_at_the_same_time_do_not_disturb_each_other() {
    let bench = Bench::new();
    bench.write("other", &image(b"other"));
    std::thread::scope(|scope| {
        for number in 0..16 {
            let bench = &bench;
            scope.spawn(move || {
                let (name, expected) = if number % 2 == 0 {
                    ("kernel", b"first")
                } else {
                    ("other", b"other")
                };
                for _ in 0..20 {
                    assert_eq!(contents(&bench.open(name), 5), expected);
                }
            });
        }
    });
    for name in ["kernel", "other"] {
        // Whoever finds the cache locked does without: it may be that none of a kernel's launches has stored it.
        bench.open(name);
        assert_eq!(*bench.open(name).cache_use(), CacheUse::Hit);
    }
    assert!(bench.names("tmp-").is_empty());
}

#[test]
fn what_a_killed_launch_left_behind_is_cleaned_up() {
    let bench = Bench::new();
    bench.open("kernel");
    fs::write(bench.path("cache/kernels/tmp-1"), b"half a kernel").unwrap();
    bench.open("kernel");
    assert_eq!(bench.names("tmp-").len(), 1, "a hit touches nothing");
    bench.write("other", &image(b"other"));
    bench.open("other");
    assert!(bench.names("tmp-").is_empty());
}

#[test]
fn the_cache_does_not_grow_without_bound() {
    let bench = Bench::new();
    for number in 0..20 {
        bench.write("kernel", &image(format!("kernel {number}").as_bytes()));
        assert_eq!(*bench.open("kernel").cache_use(), CacheUse::Stored);
    }
    assert_eq!(bench.names("index-").len(), 16);
    assert_eq!(bench.names(".elf").len(), 16);
    assert_eq!(*bench.open("kernel").cache_use(), CacheUse::Hit);
}
