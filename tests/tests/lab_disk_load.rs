//! Disks under load: what is written under pressure reads back, what was flushed survives whatever ends, and limits hold.
use std::{
    env, fs,
    hash::{BuildHasher, RandomState},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use ampoule_tests::linux::{Image, Linux, linux};
use rustix::process::Signal;
use tempfile::{NamedTempFile, TempDir};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// What every run of fio has in common. Its jobs are threads: processes take longer to make.
const FIO: &str = "F='fio --minimal --name=j --thread --bs=4k --direct=1 --ioengine=io_uring --filename'";

/// An image full of `y`, where the host's file system can go around the page cache and punch holes.
fn image(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in("/scratch").expect("there is room for an image");
    let bytes = usize::try_from(bytes).expect("a small image");
    fs::write(file.path(), vec![b'y'; bytes]).expect("there is room for an image");
    file
}

/// A guest with fio and these disks. A stock kernel finds them on a PCI bus, for which the own one has no driver.
fn with_disks(disks: &[String]) -> Linux {
    let flags: Vec<String> = disks.iter().map(|disk| format!("--disk {disk}")).collect();
    let guest = linux().initrd(Image::FioInitrd);
    guest.with_more(&flags.join(" "))
}

fn is_stock() -> bool {
    Image::Given.path() == Image::Cloud.path()
}

fn on_pci_where_it_can(guest: Linux) -> Linux {
    if is_stock() {
        guest.with("--transport pci")
    } else {
        guest
    }
}

/// Has fio look, from outside, at `bytes` of an image that fio in a guest has written.
fn assert_verified(image: &Path, bytes: &str) {
    let tree = PathBuf::from(env::var_os("AMPOULE_TEST_FIO").expect("AMPOULE_TEST_FIO is set"));
    let here = tempfile::tempdir().expect("there is room for fio's state");
    let output = Command::new(tree.join("lib64/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(tree.join("lib"))
        .arg(tree.join("bin/fio"))
        .args(["--minimal", "--name=j", "--bs=4k", "--rw=randwrite"])
        .args(["--ioengine=psync", "--verify=crc32c", "--verify_only"])
        .arg(format!("--size={bytes}"))
        .arg(format!("--filename={}", image.display()))
        .current_dir(here.path())
        .output();
    let output = output.expect("fio runs");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_is_written_at_random_reads_back() {
    let disks = [image(4 * MIB), image(4 * MIB)];
    let options = [
        format!("{},cache=none", disks[0].path().display()),
        format!("{}", disks[1].path().display()),
    ];
    let report = on_pci_where_it_can(with_disks(&options))
        .script(&format!(
            "{FIO}; set -e
$F=/dev/vda --rw=randrw --iodepth=1 --size=1M --verify=crc32c
$F=/dev/vdb --rw=randrw --iodepth=32 --size=2M --verify=crc32c
$F=/dev/vda --rw=randtrimwrite --iodepth=32 --size=2M --verify=crc32c
$F=/dev/vdb --rw=randtrimwrite --iodepth=1 --size=1M --verify=crc32c --do_verify=0
echo all=well"
        ))
        .report();
    assert_eq!(report.value("all"), "well");
    assert_eq!(report.stderr, "");
    assert_verified(disks[0].path(), "2M");
    assert_verified(disks[1].path(), "1M");
}
