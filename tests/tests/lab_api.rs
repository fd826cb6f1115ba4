//! The control socket, and what Linux sees of what is done by it.
use std::{fs::File, os::fd::AsFd, path::Path};

use ampoule_tests::{
    Guest,
    api::{Socket, request},
    linux::{Image, linux},
};
use tempfile::NamedTempFile;

const MIB: u64 = 1 << 20;

/// An image of so many bytes of one letter.
fn image(bytes: u64, letter: u8) -> NamedTempFile {
    let file = NamedTempFile::new().expect("there is room for an image");
    let bytes = usize::try_from(bytes).expect("a small image");
    std::fs::write(file.path(), vec![letter; bytes]).expect("there is room for an image");
    file
}

/// A guest at its shell, with a disk `data`, and its control socket.
fn with_disk(image: &Path, more: &str) -> (Guest, Socket) {
    let socket = Socket::default();
    let arguments = format!(
        "--api-sock {} --disk {},id=data {more}",
        socket.argument(),
        image.display()
    );
    let guest = linux().initrd(Image::DriversInitrd).with_more(&arguments);
    let mut guest = guest.start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    (guest, socket)
}

/// Waits until the disk has so many sectors, in the guest.
fn wait_for_sectors(guest: &mut Guest, sectors: u64) {
    let size = "cat /sys/block/vda/size";
    guest.type_line(&format!(
        "until [ $({size}) = {sectors} ]; do :; done; echo si''ze $({size})"
    ));
    guest.wait_for(&format!("size {sectors}"));
}

/// Lets the guest tell the first byte of the disk at `mib`, past its page cache.
fn tell_byte(guest: &mut Guest, mib: u64) {
    guest.type_line(&format!(
        "dd if=/dev/vda bs=1M skip={mib} count=1 iflag=direct 2>/dev/null | head -c 1 | sed s/^/by''te=/; echo"
    ));
}

#[test]
fn a_disk_that_grows_and_shrinks_does_so_in_the_guest() {
    for more in ["", "--transport pci"] {
        let disk = image(2 * MIB, b'a');
        let (mut guest, socket) = with_disk(disk.path(), more);
        wait_for_sectors(&mut guest, 2 * 2048);
        for mib in [4, 3] {
            disk.as_file().set_len(mib * MIB).expect("it is a file");
            socket.patch("/drives/data", r#"{"drive_id": "data"}"#);
            wait_for_sectors(&mut guest, mib * 2048);
        }
        guest.type_line(
            "dd if=/dev/zero of=/dev/vda bs=1M seek=2 count=1 conv=fsync 2>/dev/null && echo wr''itten",
        );
        guest.wait_for("written");
        guest.type_line("poweroff -f");
        assert_eq!(guest.finish().code, 0);
    }
}

#[test]
fn another_image_is_what_the_guest_reads() {
    let (disk, other) = (image(2 * MIB, b'a'), image(3 * MIB, b'b'));
    let (mut guest, socket) = with_disk(disk.path(), "");
    tell_byte(&mut guest, 0);
    guest.wait_for("byte=a");
    let opened = File::options().read(true).write(true).open(other.path());
    let opened = opened.expect("it is there");
    let mut client = socket.connect();
    let body = r#"{"drive_id": "data", "path_on_host": "other"}"#;
    let asked = request("PATCH", "/drives/data", body);
    client
        .send_with(&asked, &[opened.as_fd()])
        .expect("it listens");
    assert_eq!(client.answer().expect("an answer").status, 204);
    wait_for_sectors(&mut guest, 3 * 2048);
    tell_byte(&mut guest, 2);
    guest.wait_for("byte=b");
    guest.type_line("poweroff -f");
    assert_eq!(guest.finish().code, 0);
}

#[test]
fn linux_goes_on_where_it_was_paused() {
    let disk = image(8 * MIB, b'a');
    let (mut guest, socket) = with_disk(disk.path(), "--cpus 2");
    guest.type_line(
        "for i in 1 2 3 4 5 6; do dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null || echo fai''led; done; echo re''ad",
    );
    for _ in 0..10 {
        socket.patch("/vm", r#"{"state": "Paused"}"#);
        assert_eq!(socket.state(), "Paused");
        socket.patch("/vm", r#"{"state": "Resumed"}"#);
    }
    guest.wait_for("read");
    guest.type_line("poweroff -f");
    let finished = guest.finish();
    assert_eq!(finished.code, 0);
    assert!(!finished.console().contains("failed"));
}

#[test]
fn ctrl_alt_del_powers_linux_off() {
    let disk = image(MIB, b'a');
    let (mut guest, socket) = with_disk(disk.path(), "");
    // What an event daemon does: it opens the button's device, and when its first event has come, powers the machine off.
    guest.type_line(
        "exec 3</dev/input/event0; echo liste''ning; dd of=/dev/null bs=24 count=1 <&3; poweroff -f",
    );
    guest.wait_for("listening");
    let pressed = socket.ask("PUT", "/actions", r#"{"action_type": "SendCtrlAltDel"}"#);
    assert_eq!(pressed.status, 204, "{pressed:?}");
    assert_eq!(guest.finish().code, 0);
}
