//! Roots on disks: found and mounted without an initial RAM disk of the user's, by kernels with their drivers built in or in modules.
use std::{ffi::OsString, fs, os::unix::fs::FileExt, path::Path, process::Command};

use ampoule_tests::{Guest, Launch, linux::Image};
use tempfile::{NamedTempFile, TempDir};

/// What the guest's user space is made of: the files of the initial RAM disk that other tests use.
fn tree() -> TempDir {
    let tree = tempfile::tempdir().expect("there is room for a tree");
    run(
        "cd \"$1\"; cpio -id --quiet <\"$2\"",
        &[tree.path(), &Image::Initrd.path()],
    );
    tree
}

/// Runs a shell script with arguments.
fn run(script: &str, arguments: &[&Path]) {
    let status = Command::new("sh")
        .args(["-ec", script, "sh"])
        .args(arguments)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{script}");
}

/// An image of so many MiB, in which `make` (a script; the tree is $1, the image $2) has made a root.
fn image(mib: u64, make: &str) -> NamedTempFile {
    let image = NamedTempFile::new().expect("there is room for an image");
    image.as_file().set_len(mib << 20).expect("a sparse image");
    run(make, &[tree().path(), image.path()]);
    image
}

/// A guest on its root, with a shell: `init` of the tree runs one.
fn start(image: &Path, cmdline: &str, more: &[&str]) -> Guest {
    let disk = [
        "--kernel".into(),
        Image::Given.path().into_os_string(),
        "--disk".into(),
        image.as_os_str().to_owned(),
        "--cmdline".into(),
        format!("quiet init=/init {cmdline}").into(),
    ];
    Launch::run(disk.into_iter().chain(more.iter().map(OsString::from))).start()
}

fn has_modules() -> bool {
    Image::Given.path() == Image::Cloud.path()
}

/// Says what is mounted, and powers off.
fn asks_what_the_root_is(mut guest: Guest) -> String {
    guest.wait_for("user space");
    guest.type_line("mount | grep ' on / '; mount -o remount,ro /; poweroff -f");
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
    finished.console()
}

#[test]
fn the_first_disk_is_the_root_where_there_is_no_initrd() {
    let disk = image(32, "mkfs.ext4 -q -d \"$1\" \"$2\"");
    let device = if has_modules() {
        "/dev/vda"
    } else {
        "/dev/root"
    };
    // The second time, what was made for the first is found.
    for _ in 0..2 {
        let console = asks_what_the_root_is(start(disk.path(), "", &[]));
        let mounted = format!("{device} on / type ext4 (rw");
        assert!(console.contains(&mounted), "{console}");
    }
    run("e2fsck -fn \"$1\"", &[disk.path()]);
}

#[test]
fn a_file_system_is_found_by_its_uuid_and_gets_its_drivers() {
    if !has_modules() {
        return; // It has no driver for Btrfs.
    }
    let id = "01234567-89ab-cdef-0123-456789abcdef";
    let disk = image(
        128,
        &format!("mkfs.btrfs -q -U {id} --rootdir \"$1\" \"$2\""),
    );
    let guest = start(
        disk.path(),
        &format!("root=UUID={id} rw rootflags=noatime,compress=zstd"),
        &["--transport", "mmio"],
    );
    let console = asks_what_the_root_is(guest);
    let mounted = "/dev/vda on / type btrfs (rw,noatime,compress=zstd";
    assert!(console.contains(mounted), "{console}");
}

#[test]
fn a_partition_is_found_by_the_name_that_its_table_has_for_it() {
    if !has_modules() {
        return; // It finds partitions itself.
    }
    let root = image(0, "mksquashfs \"$1\" \"$2\" -noappend -quiet -no-progress");
    let disk = NamedTempFile::new().expect("there is room for an image");
    let content = fs::read(root.path()).expect("it was made");
    let sectors = u32::try_from(content.len().div_ceil(512)).expect("it is small");
    disk.as_file()
        .set_len((2048 + u64::from(sectors)) * 512)
        .expect("a sparse image");
    // An MBR: a signature, and one entry of type 0x83 from sector 2048 on.
    let mut table = [0; 512];
    table[0x1b8..0x1bc].copy_from_slice(&0x0fea_57e5_u32.to_le_bytes());
    table[0x1be + 4] = 0x83;
    table[0x1be + 8..0x1be + 12].copy_from_slice(&2048_u32.to_le_bytes());
    table[0x1be + 12..0x1be + 16].copy_from_slice(&sectors.to_le_bytes());
    table[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
    disk.as_file().write_all_at(&table, 0).expect("it is open");
    disk.as_file()
        .write_all_at(&content, 2048 * 512)
        .expect("it is open");
    let console = asks_what_the_root_is(start(disk.path(), "root=PARTUUID=0FEA57E5-01", &[]));
    let mounted = "/dev/vda1 on / type squashfs (ro";
    assert!(console.contains(mounted), "{console}");
}

#[test]
fn a_root_that_is_not_there_is_told_and_ends_the_guest() {
    if !has_modules() {
        return; // The kernel itself says so.
    }
    let disk = image(1, ":");
    let finished = start(disk.path(), "root=LABEL=nowhere", &[]).finish();
    assert_eq!(finished.code, 125);
    let console = finished.console();
    let told = "ampoule-agent: root=LABEL=nowhere: there is no such device (there are: vda)";
    assert!(console.contains(told), "{console}");
    let told = start(disk.path(), "", &[]).finish();
    let why = "ampoule-agent: /dev/vda: no file system that is known";
    assert!(told.console().contains(why), "{}", told.console());
}
