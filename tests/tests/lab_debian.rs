//! A whole Debian on a disk, with a stock kernel: to its login, off, and on again.
use std::{env, path::Path, process::Command};

use ampoule_tests::{Guest, Launch, linux::Image};
use rustix::process::Signal;
use tempfile::TempDir;

/// A directory for the image: the lab's scratch disk, or where this host keeps such things.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/scratch")
        .or_else(|_| tempfile::tempdir())
        .expect("there is room")
}

fn start(image: &Path) -> Guest {
    let kernel = Image::Given.path();
    let words = [
        "--kernel".as_ref(),
        kernel.as_os_str(),
        "--disk".as_ref(),
        image.as_os_str(),
        "--cpus".as_ref(),
        "2".as_ref(),
        "--cmdline".as_ref(),
        // The log of each unit would be most of what there is to wait for.
        "quiet systemd.show_status=0".as_ref(),
    ];
    Launch::run(words).start()
}

/// Logs in, and has a shell without what is for people.
fn log_in(guest: &mut Guest) {
    guest.wait_for("login: ");
    guest.type_line("root");
    guest.wait_for("# ");
    guest.type_line("export TERM=dumb SYSTEMD_PAGER=; PS1='$ '; echo logged-$((1+1))in");
    guest.wait_for("logged-2in");
}

#[test]
fn a_debian_gives_a_login_powers_off_and_comes_back_as_it_was() {
    if Image::Given.path() != Image::Cloud.path() {
        return; // It is the stock kernel's modules that this is about.
    }
    let directory = scratch();
    let image = directory.path().join("debian.raw");
    let debian = env::var_os("AMPOULE_TEST_DEBIAN").expect("guest-tests names an image");
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .arg(debian)
        .arg(&image)
        .status();
    assert!(copied.is_ok_and(|status| status.success()));

    let mut guest = start(&image);
    log_in(&mut guest);
    guest.type_line("echo is=$(systemctl is-system-running --wait); systemctl --failed --plain; date >/root/was-here; poweroff");
    guest.wait_for("is=running");
    let first = guest.finish();
    assert_eq!(first.code, 0, "{}", first.console());
    let fsck = Command::new("e2fsck").arg("-fn").arg(&image).output();
    let fsck = fsck.expect("e2fsck runs");
    assert!(fsck.status.success(), "{fsck:?}");

    let mut guest = start(&image);
    log_in(&mut guest);
    guest.type_line("cat /root/was-here; echo replays=$(dmesg | grep -c 'EXT4.*recovery'); systemctl is-active systemd-logind");
    guest.wait_for("replays=0");
    guest.wait_for("active");
    // The power button, which systemd-logind listens to.
    guest.signal(Signal::TERM);
    let second = guest.finish();
    assert_eq!(second.code, 0, "{}", second.console());
}
