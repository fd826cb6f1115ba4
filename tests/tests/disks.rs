//! Disks of guests that need no Linux to drive them.
use ampoule_tests::{Launch, handmade};
use rustix::process::Signal;

fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().expect("there is room for a disk");
    let sized = image.as_file().set_len(1 << 20);
    sized.expect("there is room for a disk");
    image
}

/// A guest that has used the disk.
fn used(launch: Launch) -> ampoule_tests::Guest {
    let mut guest = launch.start();
    guest.wait_for("ready\n");
    guest.type_bytes(b"w");
    guest.wait_for("outcome 00000000\n");
    guest
}

#[test]
fn a_disk_is_free_as_soon_as_its_guest_has_ended() {
    let (image, kernel) = (image(), handmade::disk());
    let disk = image.path().to_str().expect("a plain path");
    for killed in [false, true].repeat(5) {
        let mut guest = used(kernel.launch(&["--disk", disk]));
        let second = kernel.run(&["--disk", disk]).finish();
        assert_eq!(second.code, 125);
        let holder = format!(
            "another program is using it: ampoule, process {}",
            guest.pid().as_raw_nonzero()
        );
        assert!(second.stderr.contains(&holder), "{}", second.stderr);
        match killed {
            false => guest.type_bytes(b"p"),
            true => guest.signal(Signal::KILL),
        }
        let code = guest.finish().code;
        assert_eq!(code, if killed { 137 } else { 0 });
    }
}
