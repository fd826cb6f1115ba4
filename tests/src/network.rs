//! Networks of a test's own, between this side of a TAP and the guest on the other.
use std::{env, path::PathBuf, process::Command};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// This side's address.
pub const HOST: &str = "10.9.0.1";
/// The address that guests take.
pub const GUEST: &str = "10.9.0.2";

/// From here on this thread, and what it starts, has a network of its own.
///
/// # Panics
/// Where that is not permitted.
pub fn namespace() {
    // SAFETY: nothing of this process is shared that a network namespace is about.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("the lab lets tests do so");
    ip("link set lo up");
}

/// Runs iproute2's `ip`.
///
/// # Panics
/// When it fails.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output();
    let output = output.expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {output:?}");
}

/// Makes a TAP with this side's address; `more` are words for `ip tuntap`.
pub fn tap(name: &str, more: &str, mtu: u32) {
    ip(&format!("tuntap add dev {name} mode tap {more}"));
    ip(&format!("addr add {HOST}/24 dev {name}"));
    ip(&format!("link set {name} mtu {mtu} up"));
}

/// Runs a program to its end, and returns what it printed.
///
/// # Panics
/// When it fails, with what it said.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program of Debian's, as the guests have it.
///
/// # Panics
/// Where nobody says where these are.
pub fn program(name: &str) -> Command {
    let tree = PathBuf::from(env::var_os("AMPOULE_TEST_NET").expect("AMPOULE_TEST_NET is set"));
    let mut command = Command::new(tree.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(tree.join("lib"));
    command.arg(tree.join("bin").join(name));
    command
}
