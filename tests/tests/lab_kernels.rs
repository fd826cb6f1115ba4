//! Stock kernels, as distributions ship them: each boots to user space, by each way in, and finds the machine it was given.
use std::{ffi::OsStr, fs, path::Path, process::Command};

use ampoule_tests::{
    Launch, ampoule,
    linux::{Image, MACHINE, Report, WITHOUT_THE_LABS_QUIRK, linux},
};

/// What a kernel's file says of its release: Debian 12 and 13 have different ones under the same package's name.
fn release_of(kernel: Image) -> String {
    let path = kernel.path();
    let name = path.file_name().and_then(OsStr::to_str);
    let release = name.and_then(|name| name.strip_prefix("vmlinuz-"));
    release.expect("vmlinuz-RELEASE").to_owned()
}

/// Boots `kernel` with two vCPUs and 6 GiB; what it told is returned after what holds for all of them was checked.
fn boots(kernel: Image, format: &str) -> Report {
    let report = linux()
        .kernel(kernel)
        .with("-v --cpus 2 --memory 6G")
        .parameters(WITHOUT_THE_LABS_QUIRK)
        .script(MACHINE)
        .report();
    let release = release_of(kernel);
    assert_eq!(report.value("release"), release);
    // From 6.12 on, Debian's payloads are all of one kind.
    let format = if release.starts_with("6.1.") {
        format
    } else {
        "bzImage (zstd)"
    };
    assert!(
        report.stderr.contains(&format!("kernel: {format}")),
        "{}",
        report.stderr
    );
    assert_eq!(report.number("cpus"), 2);
    report.assert_has_memory(6 << 10);
    assert_eq!(report.value("clock"), "kvm-clock");
    assert_eq!(report.complaints(), [""; 0]);
    report
}

#[test]
fn debians_cloud_kernel_whose_payload_is_lz4_on_debian_12() {
    boots(Image::Cloud, "bzImage (LZ4)");
}

#[test]
fn debians_kernel_whose_payload_is_xz_on_debian_12() {
    boots(Image::Generic, "bzImage (xz)");
}

#[test]
fn debians_6_12_cloud_kernel_with_a_zstd_payload() {
    assert!(release_of(Image::Newer).starts_with("6.12."));
    boots(Image::Newer, "bzImage (zstd)");
}

#[test]
fn an_elf_kernel_by_either_entry() {
    for (entry, protocol) in [("linux64", "Linux64"), ("pvh", "Pvh")] {
        let report = linux()
            .kernel(Image::Elf)
            .with(&format!("-v --entry {entry}"))
            .script("echo release=$(uname -r)")
            .report();
        // The cloud kernel's own image, taken out of its bzImage.
        assert_eq!(report.value("release"), release_of(Image::Cloud));
        assert!(
            report.stderr.contains(&format!("entry: {protocol}")),
            "{}",
            report.stderr
        );
    }
}

#[test]
fn a_bzimage_that_unpacks_itself_may_move_its_kernel() {
    // The loader's flags, as the kernel was handed them: bit 1 says that its address was drawn.
    let flags = "echo flags=$(dd if=/sys/kernel/boot_params/data bs=1 skip=529 count=1 2>/dev/null | hexdump -e '\"%u\"')";
    let (own, ours) = (
        linux().with("-v --entry bzimage").script(flags).report(),
        linux().script(flags).report(),
    );
    assert!(
        own.stderr.contains("bzImage (unpacks itself)"),
        "{}",
        own.stderr
    );
    assert_eq!(own.number("flags") & 2, 2);
    assert_eq!(ours.number("flags") & 2, 0);
}

/// `ampoule run ARGUMENTS` behind `setup`, a shell script that finds an empty directory as $1.
fn behind(setup: &str, directory: &Path, arguments: &[&OsStr]) -> Launch {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args([
        "--mount",
        "sh",
        "-ec",
        &format!("{setup}; shift; exec \"$@\""),
        "sh",
    ]);
    command
        .arg(directory)
        .arg(ampoule())
        .arg("run")
        .args(arguments);
    Launch::command(command)
}

#[test]
fn a_cache_that_takes_nothing_costs_only_time() {
    for setup in [
        // Full.
        "mount -t tmpfs -o size=64k tmpfs \"$1\"",
        // Read-only.
        "mount -t tmpfs -o ro tmpfs \"$1\"",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (kernel, initrd) = (Image::Cloud.path(), Image::Initrd.path());
        let arguments: [&OsStr; 5] = [
            "-v".as_ref(),
            "--kernel".as_ref(),
            kernel.as_ref(),
            "--initrd".as_ref(),
            initrd.as_ref(),
        ];
        let mut guest = behind(setup, directory.path(), &arguments)
            .env("XDG_CACHE_HOME", directory.path())
            .start();
        guest.wait_for_message("cache: Skipped");
        guest.wait_for("user space");
        guest.type_line("poweroff -f");
        assert_eq!(guest.finish().code, 0);
    }
}

#[test]
fn first_runs_at_the_same_time_share_one_cache() {
    let cache = tempfile::tempdir().unwrap();
    let mut guests: Vec<_> = (0..4)
        .map(|_| {
            let launch = linux().kernel(Image::Newer).with("-v").launch();
            launch.env("XDG_CACHE_HOME", cache.path()).start()
        })
        .collect();
    for guest in &mut guests {
        guest.wait_for("user space");
        guest.type_line("poweroff -f");
    }
    for guest in guests {
        assert_eq!(guest.finish().code, 0);
    }
    let report = linux().kernel(Image::Newer).with("-v").script("true");
    let finished = report
        .launch()
        .env("XDG_CACHE_HOME", cache.path())
        .start()
        .finish();
    assert!(
        finished.stderr.contains("cache: Hit"),
        "{}",
        finished.stderr
    );
    assert!(
        fs::read_dir(cache.path().join("ampoule/kernel"))
            .unwrap()
            .count()
            > 0
    );
}
