//! A whole Debian on a disk, with a stock kernel: to its login, off, and on again.
use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ampoule_tests::{
    Guest, Launch,
    linux::Image,
    network::{GUEST, namespace, succeed, tap},
    wait_until,
};
use rustix::process::Signal;
use tempfile::TempDir;

/// A directory for the image: the lab's scratch disk, or where this host keeps such things.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/scratch")
        .or_else(|_| tempfile::tempdir())
        .expect("there is room")
}

/// A copy of the image, for one test to write to.
fn copy(directory: &TempDir) -> PathBuf {
    let image = directory.path().join("debian.raw");
    let debian = env::var_os("AMPOULE_TEST_DEBIAN").expect("guest-tests names an image");
    succeed(
        Command::new("cp")
            .arg("--sparse=always")
            .arg(debian)
            .arg(&image),
    );
    image
}

fn is_stock() -> bool {
    Image::Given.path() == Image::Cloud.path()
}

fn start(image: &Path, more: &[&str]) -> Guest {
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
    Launch::run(words.into_iter().chain(more.iter().map(OsStr::new))).start()
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
    if !is_stock() {
        return; // It is the stock kernel's modules that this is about.
    }
    let directory = scratch();
    let image = copy(&directory);

    let mut guest = start(&image, &[]);
    log_in(&mut guest);
    guest.type_line("echo is=$(systemctl is-system-running --wait); systemctl --failed --plain; date >/root/was-here; poweroff");
    guest.wait_for("is=running");
    let first = guest.finish();
    assert_eq!(first.code, 0, "{}", first.console());
    let fsck = Command::new("e2fsck").arg("-fn").arg(&image).output();
    let fsck = fsck.expect("e2fsck runs");
    assert!(fsck.status.success(), "{fsck:?}");

    let mut guest = start(&image, &[]);
    log_in(&mut guest);
    guest.type_line("cat /root/was-here; echo replays=$(dmesg | grep -c 'EXT4.*recovery'); systemctl is-active systemd-logind");
    guest.wait_for("replays=0");
    guest.wait_for("active");
    // The power button, which systemd-logind listens to.
    guest.signal(Signal::TERM);
    let second = guest.finish();
    assert_eq!(second.code, 0, "{}", second.console());
}

/// Bytes that go each way: 100 MB where there is time.
fn many() -> usize {
    match env::var_os("AMPOULE_TEST_FULL") {
        Some(_) => 100_000_000,
        None => 10_000_000,
    }
}

#[test]
fn a_debian_is_reached_by_ssh_and_files_go_both_ways_by_scp() {
    if !is_stock() {
        return;
    }
    let directory = scratch();
    let image = copy(&directory);
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (key, sent, back) = (at("key"), at("sent"), at("back"));
    succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]));
    let public = fs::read_to_string(at("key.pub")).expect("a key");
    let bytes: Vec<u8> = (0u32..).flat_map(u32::to_le_bytes).take(many()).collect();
    fs::write(&sent, &bytes).expect("there is room");

    namespace();
    tap("tap0", "", 1500);
    let vsock = format!("3,{}", at("vsock"));
    let mut guest = start(&image, &["--net", "tap=tap0", "--vsock", &vsock]);
    log_in(&mut guest);
    guest.type_line(&format!(
        "mkdir -p ~/.ssh && echo {} >~/.ssh/authorized_keys && cd /sys/class/net && n=$(echo e*) && ip addr add {GUEST}/24 dev $n && ip link set $n up \
&& systemctl start ssh && [ -c /dev/vsock ] && echo li''stens",
        public.trim()
    ));
    guest.wait_for("listens");
    let options = [
        &format!("-i{key}"),
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oLogLevel=ERROR",
        "-oBatchMode=yes",
    ];
    let user = format!("root@{GUEST}");
    let ssh = |command: &str| {
        let mut ssh = Command::new("ssh");
        ssh.args(options).args([&user, command]);
        ssh
    };
    wait_until("the link is up", || {
        ssh("true").status().is_ok_and(|status| status.success())
    });
    assert_eq!(succeed(&mut ssh("uname -n")), "debian\n");
    succeed(
        Command::new("scp")
            .args(options)
            .args([&sent, &format!("{user}:/root/file")]),
    );
    succeed(
        Command::new("scp")
            .args(options)
            .args([&format!("{user}:/root/file"), &back]),
    );
    assert!(fs::read(&back).expect("it came back") == bytes);
    guest.signal(Signal::TERM);
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
}
