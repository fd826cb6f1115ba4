//! Refusals that have to do with KVM: that it is not there, that it is forbidden, that a guest does not fit its machine.
//! The first two need root, to be without it: to hide the device, to become somebody else.
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use ampoule_tests::{Finished, Launch, ampoule, handmade};

fn refused<'a>(finished: &'a Finished, start: &str) -> &'a str {
    let message = finished.stderr.as_str();
    assert_eq!(finished.code, 125, "{message}");
    assert_eq!(finished.console(), "");
    assert!(message.starts_with(start), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `ampoule run`, with a kernel that anybody may read, started by a shell as `"$@"`.
fn by_shell(script: &str) -> Finished {
    let kernel = handmade::hello();
    fs::set_permissions(kernel.path(), fs::Permissions::from_mode(0o644)).expect("it is ours");
    let mut shell = Command::new("unshare");
    shell
        .args(["--mount", "sh", "-ec", script, "sh"])
        .arg(ampoule())
        .args(["run", "--kernel"])
        .arg(kernel.path());
    Launch::command(shell).start().finish()
}

#[test]
fn no_kvm() {
    if !is_root() {
        return not_tested("hide /dev/kvm");
    }
    let finished = by_shell(r#"mount -t tmpfs none /dev && exec "$@""#);
    let message = refused(&finished, "ampoule: KVM: ");
    assert!(message.contains("/dev/kvm"), "{message}");
    assert!(message.contains("kvm_intel"), "{message}");
}

#[test]
fn no_permission() {
    if !is_root() {
        return not_tested("become another user");
    }
    // The program may lie where only root goes: it is mounted where anybody may.
    let script = r#"
        program=$1; shift
        mount -t tmpfs -o mode=755 none /mnt
        cp "$program" /mnt/ampoule
        touch /mnt/kvm
        mount -t tmpfs -o mode=755 none /media
        mknod -m 600 /media/kvm c 10 232
        mount --bind /media/kvm /dev/kvm
        exec setpriv --reuid 65534 --regid 65534 --clear-groups /mnt/ampoule "$@""#;
    let finished = by_shell(script);
    let message = refused(&finished, "ampoule: KVM: ");
    assert!(message.contains("/dev/kvm"), "{message}");
    assert!(
        message.contains("(hint: sudo usermod -aG kvm $USER"),
        "{message}"
    );
}

#[test]
fn something_else_in_its_place() {
    if !is_root() {
        return not_tested("hide /dev/kvm");
    }
    let finished = by_shell(r#"mount --bind /dev/null /dev/kvm && exec "$@""#);
    refused(&finished, "ampoule: KVM: ");
}

#[test]
fn an_initrd_that_does_not_fit() {
    let kernel = handmade::hello();
    let large = tempfile::NamedTempFile::new().expect("a file can be made");
    large.as_file().set_len(64 << 20).expect("it may be sparse");
    let initrd = large.path().to_str().expect("a plain path");
    let finished = kernel
        .run(&["--memory", "64M", "--initrd", initrd])
        .finish();
    let message = refused(&finished, "ampoule: ");
    assert!(message.contains("initrd"), "{message}");
    assert!(message.contains("--memory"), "{message}");
}

fn not_tested(why: &str) {
    eprintln!("skipped: only root can {why}");
}
