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

/// A client that the guest lets in.
struct Ssh {
    key: String,
    port: u16,
    host: &'static str,
}

impl Ssh {
    /// With a key of its own, made in `directory`.
    fn new(directory: &TempDir, host: &'static str, port: u16) -> Self {
        let key = directory.path().join("key").display().to_string();
        succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]));
        Self { key, port, host }
    }

    /// What lets it in, when the guest runs it.
    fn admit(&self) -> String {
        let public = fs::read_to_string(format!("{}.pub", self.key)).expect("a key");
        let public = public.trim();
        format!("mkdir -p ~/.ssh && echo {public} >~/.ssh/authorized_keys && systemctl start ssh")
    }

    fn options(&self, port: &str) -> Vec<String> {
        let key = format!("-i{}", self.key);
        let port = format!("{port}{}", self.port);
        let mut options = vec![key, port];
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "BatchMode=yes",
        ] {
            options.push(format!("-o{option}"));
        }
        options
    }

    fn run(&self, command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        let user = format!("root@{}", self.host);
        ssh.args(self.options("-p")).args([&user, command]);
        ssh
    }

    fn copy(&self, from: &str, to: &str) {
        succeed(
            Command::new("scp")
                .args(self.options("-P"))
                .args([from, to]),
        );
    }

    /// What a file is called in the guest.
    fn there(&self, path: &str) -> String {
        format!("root@{}:{path}", self.host)
    }

    fn wait(&self) {
        wait_until("the guest lets its client in", || {
            let status = self.run("true").status();
            status.is_ok_and(|status| status.success())
        });
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
    let (sent, back) = (at("sent"), at("back"));
    let bytes: Vec<u8> = (0u32..).flat_map(u32::to_le_bytes).take(many()).collect();
    fs::write(&sent, &bytes).expect("there is room");

    namespace();
    tap("tap0", "", 1500);
    let vsock = format!("3,{}", at("vsock"));
    let mut guest = start(&image, &["--net", "tap=tap0", "--vsock", &vsock]);
    let ssh = Ssh::new(&directory, GUEST, 22);
    log_in(&mut guest);
    guest.type_line(&format!(
        "{} && cd /sys/class/net && n=$(echo e*) && ip addr add {GUEST}/24 dev $n && ip link set $n up && [ -c /dev/vsock ] && echo li''stens",
        ssh.admit()
    ));
    guest.wait_for("listens");
    ssh.wait();
    assert_eq!(succeed(&mut ssh.run("uname -n")), "debian\n");
    ssh.copy(&sent, &ssh.there("/root/file"));
    ssh.copy(&ssh.there("/root/file"), &back);
    assert!(fs::read(&back).expect("it came back") == bytes);
    guest.signal(Signal::TERM);
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
}

/// What a package's archive is, by its hash and its size.
fn package(directory: &Path) -> String {
    let tree = directory.join("hello-ampoule");
    fs::create_dir_all(tree.join("DEBIAN")).expect("there is room");
    fs::create_dir_all(tree.join("usr/bin")).expect("there is room");
    let about = "Package: hello-ampoule\nVersion: 1\nArchitecture: all\nMaintainer: a test <test@example.org>\nDescription: a greeting\n";
    fs::write(tree.join("DEBIAN/control"), about).expect("there is room");
    let script = tree.join("usr/bin/hello-ampoule");
    fs::write(&script, "#!/bin/sh\necho gree''tings\n").expect("there is room");
    succeed(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&tree));
    succeed(Command::new("chmod").arg("755").arg(&script));
    let archive = directory.join("hello.deb");
    succeed(
        Command::new("dpkg-deb")
            .arg("--build")
            .arg(&tree)
            .arg(&archive),
    );
    let sum = succeed(Command::new("sha256sum").arg(&archive));
    let sum = sum.split(' ').next().expect("a sum");
    let size = fs::metadata(&archive).expect("it is there").len();
    format!("{about}Filename: ./hello.deb\nSize: {size}\nSHA256: {sum}\n")
}

#[test]
fn a_debian_without_set_up_installs_a_package_and_is_reached_by_a_published_port() {
    if !is_stock() {
        return;
    }
    let directory = scratch();
    let image = copy(&directory);
    namespace();
    let mirror = directory.path().join("mirror");
    fs::create_dir(&mirror).expect("there is room");
    fs::write(mirror.join("Packages"), package(&mirror)).expect("there is room");
    let mut server = Command::new("busybox");
    server.args(["httpd", "-f", "-p", "127.0.0.1:8080", "-h"]);
    let mut server = server.arg(&mirror).spawn().expect("busybox runs");

    let ssh = Ssh::new(&directory, "127.0.0.1", 2222);
    let net = ["--net", "user", "--publish", "2222:22"];
    let egress = ["--egress", "allow=127.0.0.1:8080"];
    let mut guest = start(&image, &[net.as_slice(), egress.as_slice()].concat());
    log_in(&mut guest);
    guest.type_line(&format!("{} && echo li''stens", ssh.admit()));
    guest.wait_for("listens");
    ssh.wait();
    let install = "echo 'deb [trusted=yes] http://10.0.2.2:8080 ./' >/etc/apt/sources.list && apt-get update && apt-get install -y hello-ampoule && hello-ampoule";
    let installed = succeed(&mut ssh.run(install));
    assert!(installed.contains("greetings"), "{installed}");
    let resolved = succeed(&mut ssh.run("resolvectl dns; ip -4 route show default"));
    assert!(
        resolved.contains("10.0.2.3") && resolved.contains("via 10.0.2.2"),
        "{resolved}"
    );
    let _ = server.kill();
    let _ = server.wait();
    guest.signal(Signal::TERM);
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
}
