//! Disks under load: what is written under pressure reads back, what was flushed survives whatever ends, and limits hold.
use std::{
    collections::BTreeSet,
    env, fs,
    hash::{BuildHasher, RandomState},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use ampoule_tests::{
    Finished, Guest, HostDisk, LoopDevice,
    linux::{Image, Linux, Report, linux},
};
use rustix::process::Signal;
use tempfile::NamedTempFile;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// What every run of fio has in common. Its jobs are threads: processes take longer to make.
const FIO: &str =
    "F='fio --minimal --name=j --thread --bs=4k --direct=1 --ioengine=io_uring --filename'";

/// An image full of `y`, where the host's file system can go around the page cache and punch holes.
fn image(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in("/scratch").expect("there is room for an image");
    let bytes = usize::try_from(bytes).expect("a small image");
    fs::write(file.path(), vec![b'y'; bytes]).expect("there is room for an image");
    file
}

/// A guest with fio and these disks.
fn with_disks(disks: &[String]) -> Linux {
    let flags: Vec<String> = disks.iter().map(|disk| format!("--disk {disk}")).collect();
    let guest = linux().initrd(Image::FioInitrd);
    guest.with_more(&flags.join(" "))
}

fn is_stock() -> bool {
    Image::Given.path() == Image::Cloud.path()
}

/// Whether there is time for more of the same.
fn is_full() -> bool {
    env::var_os("AMPOULE_TEST_FULL").is_some()
}

/// Transports go pairwise: one kernel's disks are on PCI, the other's are not.
fn on_pci_or_not(guest: Linux) -> Linux {
    if is_stock() {
        guest.with("--transport pci")
    } else {
        guest
    }
}

/// Whether a guest's disks are served by rings.
fn uses_io_uring(guest: &Guest) -> bool {
    let descriptors = format!("/proc/{}/fd", guest.pid().as_raw_nonzero());
    fs::read_dir(descriptors)
        .expect("a running program has descriptors")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| target == Path::new("anon_inode:[io_uring]"))
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
    let disks = [image(2 * MIB), image(2 * MIB)];
    let options = [
        format!("{},cache=none", disks[0].path().display()),
        disks[1].path().display().to_string(),
    ];
    let report = with_disks(&options)
        .script(&format!(
            "{FIO}; set -e
$F=/dev/vda --rw=randrw --iodepth=1 --size=1M --verify=crc32c
$F=/dev/vdb --rw=randrw --iodepth=32 --size=1M --verify=crc32c
$F=/dev/vda --rw=randtrimwrite --iodepth=32 --size=1M --verify=crc32c
$F=/dev/vdb --rw=randtrimwrite --iodepth=1 --size=1M --verify=crc32c --do_verify=0
echo all=well"
        ))
        .report();
    assert_eq!(report.value("all"), "well");
    assert_eq!(report.stderr, "");
    assert_verified(disks[0].path(), "1M");
    assert_verified(disks[1].path(), "1M");
}

#[test]
fn two_processors_write_by_two_queues_and_read_back() {
    let disks = [image(4 * MIB), image(2 * MIB)];
    let options = [
        format!("{},cache=none,queues=2", disks[0].path().display()),
        format!("{},cache=writethrough,queues=2", disks[1].path().display()),
    ];
    // Two jobs, each on a part and a processor of its own.
    let guest = on_pci_or_not(with_disks(&options))
        .with("--cpus 2")
        .script(&format!(
            "{FIO}; P='--numjobs=2 --offset_increment=1M --cpus_allowed=0,1 --cpus_allowed_policy=split'; set -e
echo queues=$(ls /sys/block/vda/mq | wc -l)
$F=/dev/vda $P --rw=randrw --iodepth=32 --size=512k --verify=crc32c
$F=/dev/vdb $P --rw=randtrimwrite --iodepth=32 --size=512k --verify=crc32c
$F=/dev/vda $P --rw=randtrimwrite --iodepth=1 --size=256k --verify=crc32c
$F=/dev/vdb --rw=randrw --iodepth=1 --size=512k --verify=crc32c --fsync=8
echo all=well"
        ))
        .launch();
    // One of the runs is on a host that lacks it.
    let mut guest = if is_stock() {
        guest.start()
    } else {
        guest.without_io_uring().start()
    };
    guest.wait_for("user space");
    assert_eq!(uses_io_uring(&guest), is_stock());
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
    let report = Report::of(&finished);
    assert_eq!(report.value("queues"), "2");
    assert_eq!(report.value("all"), "well");
    assert_eq!(report.stderr, "");
}

#[test]
fn what_is_discarded_gives_its_room_back_and_nothing_else() {
    let disk = image(8 * MIB);
    let allocated = || fs::metadata(disk.path()).expect("an image").blocks() * 512;
    let before = allocated();
    let report = on_pci_or_not(with_disks(&[disk.path().display().to_string()]))
        .script(&format!(
            "{FIO}; set -e
blkdiscard -o 1048576 -l 2097152 /dev/vda
$F=/dev/vda --rw=randtrim --bs=16k --iodepth=32 --offset=4M --size=2M
echo zeroes=$(dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | tr -dc '\\0' | wc -c)"
        ))
        .report();
    assert_eq!(report.number("zeroes"), 4 * MIB);
    // The host's file system may need a block to say where the holes are.
    let given_back = before - allocated();
    assert!(
        (4 * MIB - 65536..=4 * MIB).contains(&given_back),
        "{given_back}"
    );
    let bytes = fs::read(disk.path()).expect("an image");
    for (mib, chunk) in bytes.chunks(1 << 20).enumerate() {
        let expected = if matches!(mib, 1 | 2 | 4 | 5) {
            0
        } else {
            b'y'
        };
        assert!(chunk.iter().all(|byte| *byte == expected), "MiB {mib}");
    }
}

/// Writes block after block, each with its number in it, to each disk, and tells the number when all have it for sure: `w DISK NUMBER
/// HOW`.
const ACKNOWLEDGE: &str =
    "w() { yes block $2 | head -c 4096 | dd of=/dev/$1 bs=4096 seek=$2 iflag=fullblock $3 2>/dev/null; }
S='conv=notrunc,fsync' D='conv=notrunc oflag=direct'";

/// The numbers that a guest has told as `ack N`, in whole lines.
fn acknowledged(finished: &Finished) -> Vec<u64> {
    let console = finished.console();
    let whole = console.rfind('\n').map_or("", |end| &console[..end]);
    let numbers = whole
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ack "));
    numbers
        .map(|number| number.parse().expect("a number"))
        .collect()
}

/// Whether an image has in block `number` what a guest has written there.
fn assert_has_block(image: &Path, number: u64) {
    let mut found = vec![0; BLOCK];
    let file = fs::File::open(image).expect("an image");
    let read = file.read_exact_at(&mut found, number * BLOCK as u64);
    read.expect("it is that long");
    let expected = format!("block {number}\n").into_bytes().into_iter().cycle();
    assert!(
        found.iter().copied().eq(expected.take(BLOCK)),
        "{}: block {number} was lost: {:?}",
        image.display(),
        String::from_utf8_lossy(&found[..32])
    );
}

/// Some number of acknowledgements to wait for: another one each time.
fn some() -> u64 {
    2 + RandomState::new().hash_one(()) % 8
}

/// Replays the journal, after which there must be nothing to repair.
fn assert_clean_but_for_its_journal(image: &Path) {
    for options in [["-E", "journal_only", "-y"].as_slice(), &["-f", "-n"]] {
        let output = Command::new("e2fsck").args(options).arg(image).output();
        let output = output.expect("e2fsck runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{options:?}: {text}");
    }
}

#[test]
fn what_was_flushed_outlives_a_monitor_that_is_killed() {
    let disks = [image(8 * MIB), image(8 * MIB), image(32 * MIB)];
    let paths = disks.each_ref().map(NamedTempFile::path);
    let made = Command::new("mkfs.ext4").arg("-qF").arg(paths[2]).status();
    assert!(made.is_ok_and(|status| status.success()));
    let options = [
        paths[0].display().to_string(),
        format!("{},cache=writethrough", paths[1].display()),
        format!("{},cache=none", paths[2].display()),
    ];
    let (rounds, processors) = match (is_full(), is_stock()) {
        (true, _) => (8, 2),
        (_, true) => (1, 1),
        (_, false) => (2, 2),
    };
    let mut all = BTreeSet::new();
    for round in 0..rounds {
        let first = round * 100;
        let mut guest = with_disks(&options)
            .with(&format!("--cpus {processors}"))
            .script(&format!(
                "{ACKNOWLEDGE}
mkdir /m; mount -t ext4 /dev/vdc /m
fio --thread --direct=1 --ioengine=io_uring --bs=4k --rw=randrw --size=2M --iodepth=8 --fsync=16 --time_based --runtime=900 \\
--offset=4M --name=c --filename=/m/load --name=a --filename=/dev/vda --name=b --filename=/dev/vdb >/dev/null &
until grep -q '^ *[1-9][0-9]' /sys/block/vdb/stat; do :; done
n={first}; while w vda $n $S && w vdb $n \"$D\" && yes block $n | head -c 9000 | dd of=/m/$n conv=fsync 2>/dev/null
do echo ack $n; n=$((n + 1)); done"
            ))
            .start();
        guest.wait_for(&format!("ack {}", first + some()));
        guest.signal(Signal::KILL);
        let finished = guest.finish();
        assert_eq!((finished.code, finished.stderr.as_str()), (137, ""));
        all.extend(acknowledged(&finished));
        assert_clean_but_for_its_journal(paths[2]);
    }
    for number in all {
        assert_has_block(paths[0], number);
        assert_has_block(paths[1], number);
        let request = format!("cat /{number}");
        let cat = Command::new("debugfs")
            .args(["-R", &request])
            .arg(paths[2])
            .output();
        let text = cat.expect("debugfs runs").stdout;
        let expected = format!("block {number}\n").repeat(9000);
        assert!(
            text == expected.as_bytes()[..9000],
            "file {number} was lost"
        );
    }
    let load = fs::read(paths[0]).expect("an image");
    assert!(load[4 << 20..6 << 20].iter().any(|byte| *byte != b'y'));
}

#[test]
fn what_was_flushed_outlives_a_host_that_fails() {
    let host = HostDisk::new(64 * MIB);
    let images = ["writeback", "none", "writethrough"].map(|cache| (cache, host.file(cache)));
    let options = images.each_ref().map(|(cache, path)| {
        fs::write(path, vec![b'y'; 4 << 20]).expect("there is room for an image");
        format!("{},cache={cache}", path.display())
    });
    rustix::fs::sync();
    let mut guest = on_pci_or_not(with_disks(&options))
        .script(&format!(
            "{ACKNOWLEDGE}
n=0; while w vda $n $S && w vdb $n $S && w vdc $n \"$D\"; do echo ack $n; n=$((n + 1)); done; echo over"
        ))
        .start();
    guest.wait_for(&format!("ack {}", some()));
    host.fail();
    // Its disks have failed; it has not.
    guest.wait_for("over");
    let finished = guest.finish();
    assert_eq!(finished.code, 0);
    let refused = finished.stderr.contains("(os error 5)");
    assert!(refused, "{}", finished.stderr);
    host.come_back();
    for number in acknowledged(&finished) {
        for (_, image) in &images {
            assert_has_block(image, number);
        }
    }
}

#[test]
fn no_flush_succeeds_behind_one_that_failed() {
    if is_stock() && !is_full() {
        return; // It is the host's doing.
    }
    // What host disks are that promise more room than there is: writing fails when the page cache is written back.
    let host = HostDisk::new(8 * MIB);
    let thin = host.file("thin");
    let made = fs::File::create(&thin).and_then(|file| file.set_len(2 * MIB));
    made.expect("a sparse file");
    let ballast = host.fill();
    let device = LoopDevice::of(&thin);
    let mut guest = with_disks(&[device.path().display().to_string()])
        .script(&format!(
            "{ACKNOWLEDGE}
f() {{ dd if=/dev/null of=/dev/vda $S 2>/dev/null; echo $1=$?; }}
f empty; w vda 3 \"$D\"; echo written=$?; f failed; read x; f behind; w vda 3 \"$D\"; f last"
        ))
        .start();
    guest.wait_for("failed=");
    drop(ballast);
    guest.type_line("");
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
    let report = Report::of(&finished);
    assert_eq!(report.number("empty"), 0);
    assert_eq!(report.number("written"), 0);
    // The host has forgotten by then that what block 3 holds was never written.
    for flush in ["failed", "behind", "last"] {
        assert_ne!(report.number(flush), 0, "{flush}: {}", report.stderr);
    }
    assert!(report.stderr.contains("cannot flush"), "{}", report.stderr);
    assert!(report.stderr.contains("may be lost"), "{}", report.stderr);
}

#[test]
fn limits_are_kept_to_a_tenth() {
    if is_stock() {
        return; // It is the same whoever is limited.
    }
    let disks = [image(4 * MIB), image(4 * MIB)];
    let drive = |index: usize, limit: &str| {
        let path = disks[index].path().display();
        format!(
            r#"{{"drive_id": "d{index}", "path_on_host": "{path}", "is_root_device": false, "rate_limiter": {{{limit}}}}}"#
        )
    };
    let drives = [
        drive(0, r#""bandwidth": {"size": 1048576, "refill_time": 1000}"#),
        drive(1, r#""ops": {"size": 40, "refill_time": 500}"#),
    ];
    let mut file = NamedTempFile::new().expect("there is room for a definition");
    let text = format!(
        r#"{{"boot-source": {{"kernel_image_path": "k"}}, "drives": [{}]}}"#,
        drives.join(",")
    );
    file.write_all(text.as_bytes())
        .expect("there is room for a definition");
    // Full buckets are spent in the first two seconds, which do not count.
    let report = linux()
        .initrd(Image::FioInitrd)
        .with(&format!("--config {}", file.path().display()))
        .script(
            "fio --minimal --thread --direct=1 --ioengine=io_uring --time_based --ramp_time=2 --runtime=10 --iodepth=8 \\
--name=bytes --filename=/dev/vda --rw=randread --bs=32k --name=ops --filename=/dev/vdb --rw=randwrite --bs=4k >/f
IFS=';'; while read -r _ _ name _ _ r _ _ rt x; do
echo $name=$r $rt; echo w$name=$(echo \"$x\" | cut -d';' -f38,41); done </f",
        )
        .report();
    let (bytes, ops) = (report.value("bytes"), report.value("wops"));
    // KiB and milliseconds, each.
    let rate = |pair: &str, unit: f64| {
        let (kib, ms) = pair.split_once([' ', ';']).expect("two numbers");
        let [kib, ms] = [kib, ms].map(|text| text.parse::<f64>().expect("a number"));
        assert!(ms >= 9500.0, "{pair}");
        kib / unit / ms * 1000.0
    };
    let (bytes, ops) = (rate(bytes, 1024.0), rate(ops, 4.0));
    assert!((0.9..=1.1).contains(&bytes), "{bytes} MiB/s");
    assert!((72.0..=88.0).contains(&ops), "{ops} per second");
}

#[test]
fn a_guest_goes_on_when_an_image_is_full_or_cut_or_deleted() {
    if is_stock() && !is_full() {
        return; // It is the same whoever is refused.
    }
    let host = HostDisk::new(8 * MIB);
    let full = host.file("full");
    let made = fs::File::create(&full).and_then(|file| file.set_len(16 * MIB));
    made.expect("a sparse image");
    let (cut, deleted) = (image(2 * MIB), image(2 * MIB));
    let options =
        [full.as_path(), cut.path(), deleted.path()].map(|path| path.display().to_string());
    let mut guest = with_disks(&options)
        .script(&format!(
            "{FIO}; L='--rw=randrw --size=2M --iodepth=8'
$F=/dev/vda --rw=write --size=16M --iodepth=8 >/dev/null 2>&1; echo full=$?
dd if=/dev/vda of=/dev/null bs=4k count=9 iflag=direct 2>/dev/null; echo reads=$?
blkdiscard /dev/vda; $F=/dev/vda $L --verify=crc32c >/dev/null; echo room=$?
$F=/dev/vdc --name=k --time_based --runtime=900 $L >/dev/null & 
$F=/dev/vdb --time_based --runtime=900 $L >/dev/null 2>&1 &
until grep -q '^ *[1-9][0-9]' /sys/block/vdb/stat && grep -q '^ *[1-9][0-9]' /sys/block/vdc/stat; do :; done
echo lo''ad; wait $!; echo cut=$?; kill %1; wait
$F=/dev/vdc $L --verify=crc32c >/dev/null; echo deleted=$?"
        ))
        .start();
    guest.wait_for("load");
    fs::remove_file(deleted.path()).expect("it can be deleted");
    cut.as_file().set_len(0).expect("it can be cut");
    let finished = guest.finish();
    assert_eq!(
        finished.code,
        0,
        "{}\n{}",
        finished.console(),
        finished.stderr
    );
    let report = Report::of(&finished);
    assert_ne!(report.number("full"), 0);
    assert_eq!(report.number("reads"), 0);
    assert_eq!(report.number("room"), 0);
    assert_ne!(report.number("cut"), 0);
    assert_eq!(report.number("deleted"), 0);
    let lines: Vec<_> = report.stderr.lines().collect();
    let of = |disk: &str, why: &str| {
        let said = lines
            .iter()
            .filter(|line| line.contains(disk) && line.contains(why));
        said.count()
    };
    assert_eq!(of("disk0", "No space left on device"), 1, "{lines:?}");
    assert!(of("disk1", "cannot read") > 0, "{lines:?}");
}
