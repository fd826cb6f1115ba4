//! Disks: what an image holds is what the guest reads, and what the guest writes is in the image.
use std::{fs, io::Write, os::unix::fs::FileExt, path::Path, process::Command};

use ampoule_tests::linux::{Image, Linux, linux};
use tempfile::NamedTempFile;

const MIB: usize = 1 << 20;

/// An image of which no two blocks are alike.
fn image(bytes: usize) -> NamedTempFile {
    // The lab's own file system knows no way around the page cache, its scratch disk does.
    let mut file = NamedTempFile::new_in("/scratch")
        .or_else(|_| NamedTempFile::new())
        .expect("there is room for an image");
    let words = (0..bytes / 8).map(|word| (word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let content: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    file.write_all(&content)
        .expect("there is room for an image");
    file
}

fn md5(path: &Path) -> String {
    let output = Command::new("md5sum").arg(path).output();
    let output = output.expect("md5sum runs").stdout;
    String::from_utf8_lossy(&output)[..32].to_owned()
}

/// A guest with drivers for disks, which are `options`.
fn with_disks(options: &[String]) -> Linux {
    let flags: Vec<String> = options
        .iter()
        .map(|disk| format!("--disk {disk}"))
        .collect();
    let guest = linux().initrd(Image::DriversInitrd);
    guest.with_more(&flags.join(" "))
}

/// Some tests put the disks on a PCI bus, with one of the kernels: transports go pairwise.
fn on_a_bus(guest: Linux) -> Linux {
    if Image::Given.path() == Image::Cloud.path() {
        guest.with("--transport pci")
    } else {
        guest
    }
}

#[test]
fn a_guest_reads_its_disk_and_what_it_writes_is_kept() {
    let disk = image(8 * MIB);
    let path = disk.path().display();
    let report = with_disks(&[format!("{path},serial=A-1")])
        .with("--cpus 2")
        .script(
            "cd /sys/block/vda; echo serial=$(cat serial); echo size=$(cat size)
echo cache=$(cat queue/write_cache)
echo sum=$(md5sum </dev/vda)
tr '\\0' x </dev/zero | dd of=/dev/vda bs=4096 seek=100 count=10 iflag=fullblock
sync",
        )
        .report();
    assert_eq!(report.value("serial"), "A-1");
    assert_eq!(report.number("size"), 8 * 2048);
    assert_eq!(report.value("cache"), "write back");
    let untouched = image(8 * MIB);
    assert_eq!(&report.value("sum")[..32], md5(untouched.path()));
    let (now, before) = (fs::read(disk.path()), fs::read(untouched.path()));
    let (now, mut before) = (now.expect("an image"), before.expect("an image"));
    before[100 * 4096..110 * 4096].fill(b'x');
    assert!(now == before, "what was written, where it was written");
}

#[test]
fn several_disks_are_several() {
    let disks = [image(MIB), image(2 * MIB), image(3 * MIB)];
    let options: Vec<_> = disks
        .iter()
        .zip(["a", "b", "c"])
        .map(|(disk, id)| format!("{},id={id}", disk.path().display()))
        .collect();
    let report = with_disks(&options)
        .script("for d in vda vdb vdc; do echo $d=$(cat /sys/block/$d/size) $(cat /sys/block/$d/serial); done")
        .report();
    assert_eq!(report.value("vda"), "2048 a");
    assert_eq!(report.value("vdb"), "4096 b");
    assert_eq!(report.value("vdc"), "6144 c");
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let disk = image(MIB);
    let before = md5(disk.path());
    let report = with_disks(&[format!("{},ro", disk.path().display())])
        .script(
            "echo ro=$(cat /sys/block/vda/ro)
dd if=/dev/zero of=/dev/vda count=1 2>/dev/null && sync && echo written=yes || echo written=no",
        )
        .report();
    assert_eq!(report.value("ro"), "1");
    assert_eq!(report.value("written"), "no");
    assert_eq!(md5(disk.path()), before);
}

#[test]
fn an_image_that_is_cut_short_under_a_guest_is_an_error_there() {
    let disk = image(4 * MIB);
    let mut guest = with_disks(&[disk.path().display().to_string()]).start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    disk.as_file().set_len(0).expect("an image can be cut");
    guest.type_line(
        "dd if=/dev/vda of=/dev/null count=1 2>&1 | grep -o 'I/O err''or'; echo li''ves",
    );
    guest.wait_for("I/O error");
    guest.wait_for("lives");
    guest.type_line("poweroff -f");
    assert_eq!(guest.finish().code, 0);
}

#[test]
fn a_disk_outlives_a_reboot_in_place() {
    let disk = image(MIB);
    let path = disk.path().display().to_string();
    let mut guest = on_a_bus(with_disks(&[path]))
        .with("--on-reboot restart")
        .start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    guest.type_line("echo before | dd of=/dev/vda conv=notrunc; sync; reboot -f");
    guest.wait_for("user space");
    guest.wait_for("# ");
    guest.type_line(
        "dd if=/dev/vda bs=6 count=1 | tr a-z A-Z; echo after | dd of=/dev/vda seek=1; sync; echo do''ne",
    );
    guest.wait_for("BEFORE");
    guest.wait_for("done");
    guest.type_line("poweroff -f");
    assert_eq!(guest.finish().code, 0);
    let mut bytes = [0; 6];
    let read = disk.as_file().read_exact_at(&mut bytes, 512);
    assert!(read.is_ok() && bytes == *b"after\n", "{bytes:?}");
}

#[test]
fn a_file_system_survives_its_guest() {
    let disk = NamedTempFile::new().expect("there is room for an image");
    disk.as_file().set_len(32 << 20).expect("a sparse image");
    let path = disk.path().display().to_string();
    let make = Command::new("mkfs.ext4").args(["-q", &path]).status();
    assert!(make.is_ok_and(|status| status.success()));
    on_a_bus(with_disks(std::slice::from_ref(&path)))
        .script(
            "mkdir /m; mount -t ext4 /dev/vda /m && cd /m
for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=f$i bs=64k count=8 2>/dev/null; done
md5sum f* >sums; cd /; umount /m",
        )
        .report();
    let check = Command::new("e2fsck").args(["-fn", &path]).status();
    assert!(check.is_ok_and(|status| status.success()));
    let report = with_disks(&[format!("{path},ro")])
        .script(
            "mkdir /m; mount -t ext4 -o ro /dev/vda /m && cd /m && md5sum -c sums && echo all=well",
        )
        .report();
    assert_eq!(report.value("all"), "well");
}

/// A definition of `drives`, as members of a JSON array, whose kernel a flag gives.
fn definition(drives: &[String]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("there is room for a definition");
    let drives = drives.join(",");
    let text = format!(
        r#"{{"boot-source": {{"kernel_image_path": "k"}}, "drives": [{drives}],
"machine-config": {{"vcpu_count": 2, "mem_size_mib": 256}}}}"#
    );
    file.write_all(text.as_bytes())
        .expect("there is room for a definition");
    file
}

#[test]
fn drives_of_a_definition_are_cached_as_they_say() {
    let disks = [image(MIB), image(MIB), image(MIB), image(MIB)];
    let drive = |index: usize, more: &str| {
        let path = disks[index].path().display();
        format!(
            r#"{{"drive_id": "d{index}", "path_on_host": "{path}", "is_root_device": {}{more}}}"#,
            index == 3
        )
    };
    let file = definition(&[
        drive(0, ""),
        drive(1, r#", "cache_type": "Writethrough", "queues": 1"#),
        drive(2, r#", "cache_type": "None""#),
        drive(3, r#", "cache_type": "Writeback", "is_read_only": true"#),
    ]);
    let report = on_a_bus(linux().initrd(Image::DriversInitrd))
        .with(&format!("--config {}", file.path().display()))
        .script(
            "cat /proc/cmdline
for d in vda vdb vdc vdd; do cd /sys/block/$d; echo $d=$(cat serial) $(cat queue/write_cache) $(ls mq | wc -l); done
for d in vdb vdc vdd; do dd if=/dev/zero of=/dev/$d bs=4096 seek=3 count=2 conv=fsync; done
dd if=/dev/zero of=/dev/vdd bs=512 seek=1 count=1 conv=fsync,notrunc",
        )
        .report();
    // The root comes first.
    assert_eq!(report.value("vda"), "d3 write back 2");
    assert_eq!(report.value("vdb"), "d0 write through 2");
    assert_eq!(report.value("vdc"), "d1 write through 1");
    assert_eq!(report.value("vdd"), "d2 write back 2");
    assert!(report.text().contains("root=/dev/vda ro"));
    for (index, disk) in disks.iter().enumerate() {
        let mut expected = fs::read(image(MIB).path()).expect("an image");
        if index < 3 {
            expected[3 * 4096..5 * 4096].fill(0);
        }
        if index == 2 {
            expected[512..1024].fill(0);
        }
        let found = fs::read(disk.path()).expect("an image");
        assert!(found == expected, "disk {index}");
    }
}

#[test]
fn a_limited_disk_is_no_faster_than_its_limit() {
    let disk = image(8 * MIB);
    let file = definition(&[format!(
        r#"{{"drive_id": "d", "path_on_host": "{}", "is_root_device": false,
"rate_limiter": {{"bandwidth": {{"size": 1048576, "refill_time": 1000}}}}}}"#,
        disk.path().display()
    )]);
    let report = linux()
        .initrd(Image::DriversInitrd)
        .with(&format!("--config {}", file.path().display()))
        .script(
            "set -- $(cat /proc/uptime); a=${1%.*}
dd if=/dev/vda of=/dev/null bs=64k iflag=direct
set -- $(cat /proc/uptime); echo took=$((${1%.*} - a))",
        )
        .report();
    // The first of eight is in the bucket already, and whole seconds lose one.
    assert!(report.number("took") >= 6, "{}", report.number("took"));
}

#[test]
fn a_driver_may_leave_in_the_middle_of_its_work_and_come_back() {
    let disk = image(8 * MIB);
    let report = on_a_bus(with_disks(&[disk.path().display().to_string()]))
        .with("--cpus 2")
        .script(
            "cd /sys/bus/virtio/drivers/virtio_blk; d=$(ls -d virtio*)
for i in 1 2 3; do
  dd if=/dev/vda of=/dev/null bs=4k iflag=direct & dd if=/dev/vda of=/dev/null bs=64k iflag=direct &
  usleep 100000; echo $d >unbind; wait; echo $d >bind
done
echo sum=$(md5sum </dev/vda)",
        )
        .report();
    assert_eq!(&report.value("sum")[..32], md5(disk.path()));
}

#[test]
fn sixteen_disks_work_at_once() {
    let disks: Vec<_> = (0..16).map(|_| image(MIB)).collect();
    let options: Vec<_> = disks
        .iter()
        .map(|disk| disk.path().display().to_string())
        .collect();
    let report = on_a_bus(with_disks(&options))
        .with("--cpus 2")
        .script(
            "for d in /dev/vd?; do md5sum $d >/tmp.${d#/dev/} & done; wait
set -- $(cat /tmp.* | cut -c1-32 | sort | uniq -c); echo sums=$1 $2",
        )
        .report();
    let expected = format!("16 {}", md5(disks[0].path()));
    assert_eq!(report.value("sums"), expected);
}
