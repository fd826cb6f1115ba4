//! The seccomp filters against what the program really does: traced through its whole life, it uses every rule, and
//! makes no other call.
use std::{collections::BTreeSet, fs, os::fd::AsFd, path::Path};

use ampoule_tests::{
    Guest, Launch,
    api::{Connection, Socket, request},
    handmade,
    network::{namespace, tap},
    trace::{self, Call, compare},
};
use rustix::process::{Pid, Signal, kill_process};

/// What devices' threads are called, or begin with.
const DEVICES: [&str; 3] = ["disk", "balloon", "net"];

/// Everything that the confined threads of traced runs did, by role.
#[derive(Default)]
struct Trace {
    machine: BTreeSet<Call>,
    vcpu: BTreeSet<Call>,
    api: BTreeSet<Call>,
    /// Threads of its device: each guest here has one at most.
    device: BTreeSet<Call>,
    process: u64,
}

/// `ampoule run` under strace, which leaves a file per thread in `directory`.
fn traced(directory: &Path, kernel: &handmade::Kernel, arguments: &[&str]) -> Launch {
    let mut command = trace::traced(directory);
    command
        .args(["--net", "none", "--kernel", kernel.argument()])
        .args(arguments);
    Launch::command(command)
}

/// Reads the traces in `directory`: what each thread did once its filter stood.
fn read(directory: &Path) -> Trace {
    let mut trace = Trace::default();
    for (before, calls, number) in trace::threads(directory) {
        let named = |name: &str| before.contains(&format!("\"{name}"));
        if named("vcpu") {
            trace.vcpu.extend(calls);
        } else if named("api") {
            trace.api.extend(calls);
        } else if DEVICES.into_iter().any(named) {
            trace.device.extend(calls);
        } else {
            trace.process = number;
            trace.machine.extend(calls);
        }
    }
    trace
}

/// A run's trace, after the guest was told these things.
fn told(arguments: &[&str], act: impl FnOnce(&mut Guest)) -> Trace {
    let directory = tempfile::tempdir().expect("a run can be traced, and its trace read");
    let kernel = handmade::commands();
    let mut guest = traced(directory.path(), &kernel, arguments).start();
    guest.wait_for("ready\n");
    act(&mut guest);
    guest.finish();
    read(directory.path())
}

/// The trace of a guest whose power button is pressed.
fn pressed(arguments: &[&str]) -> Trace {
    let directory = tempfile::tempdir().expect("a run can be traced, and its trace read");
    let kernel = handmade::button();
    let mut guest = traced(directory.path(), &kernel, arguments).start();
    guest.wait_for("ready\n");
    // strace keeps signals to itself: the program is its only child.
    let strace = guest.pid().as_raw_nonzero();
    let child = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"))
        .expect("a run can be traced, and its trace read");
    let child = Pid::from_raw(
        child
            .trim()
            .parse()
            .expect("a run can be traced, and its trace read"),
    )
    .expect("a run can be traced, and its trace read");
    kill_process(child, Signal::TERM).expect("a run can be traced, and its trace read");
    assert_eq!(guest.finish().code, 0);
    read(directory.path())
}

#[test]
fn every_rule_is_used_and_no_other_call_is_made() {
    let crashed = told(&[], |guest| {
        guest.type_bytes(b"x");
        guest.close_input();
    });
    let interrupted = told(&[], |guest| {
        guest.type_bytes(b"i");
        guest.wait_for("interrupted\n");
        guest.type_bytes(b"x");
    });
    let pressed = pressed(&[]);
    let runs = [&crashed, &interrupted, &pressed];
    compare(
        "machine",
        &runs.map(|trace| (trace.process, &trace.machine)),
    );
    // A vCPU is called out of the guest when another resets.
    let restarted = told(&["--on-reboot", "restart", "--cpus", "2"], reset);
    let runs = [&crashed, &interrupted, &pressed, &restarted];
    compare("vcpu", &runs.map(|trace| (trace.process, &trace.vcpu)));
}

fn reset(guest: &mut Guest) {
    guest.type_bytes(b"r");
    guest.wait_for("ready\n");
    guest.type_bytes(b"p");
    guest.close_input();
}

#[test]
fn a_restarting_machine_uses_every_rule_of_its_own() {
    let initrd = handmade::hello();
    let private = told(
        &[
            "--on-reboot",
            "restart",
            "--cpus",
            "2",
            "--initrd",
            initrd.argument(),
        ],
        reset,
    );
    let shared = told(&["--on-reboot", "restart", "--shared-memory"], reset);
    let pressed = pressed(&["--on-reboot", "restart"]);
    let runs = [&private, &shared, &pressed];
    compare(
        "restarting_machine",
        &runs.map(|trace| (trace.process, &trace.machine)),
    );
}

/// The trace of a guest that drives its disk, which has these further `options`. The disk is limited and given another image meanwhile.
fn driven(options: &str, has_io_uring: bool) -> Trace {
    let directory = tempfile::tempdir().expect("a run can be traced, and its trace read");
    let socket = Socket::default();
    let [disk, other] = [(); 2].map(|()| image());
    let disk = format!("{}{options}", disk.path().display());
    let arguments = ["--api-sock", socket.argument(), "--disk", &disk];
    let kernel = handmade::disk();
    let mut launch = traced(directory.path(), &kernel, &arguments);
    if !has_io_uring {
        launch = launch.without_io_uring();
    }
    let mut guest = launch.start();
    guest.wait_for("ready\n");
    let mut ask = |requests: &str| {
        for request in requests.bytes() {
            guest.type_bytes(&[request]);
            guest.wait_for("outcome 00000000\n");
        }
    };
    ask("rwfdzm");
    let mut client = socket.connect();
    replace(&mut client, other.path());
    ask("rw");
    let limits =
        r#"{"drive_id": "disk0", "rate_limiter": {"ops": {"size": 1, "refill_time": 200}}}"#;
    patch(&mut client, "/drives/disk0", limits);
    ask("m");
    guest.type_bytes(b"b");
    guest.wait_for("started over\n");
    guest.type_bytes(b"p");
    guest.close_input();
    assert_eq!(guest.finish().code, 0);
    read(directory.path())
}

fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().expect("there is room for a disk");
    image
        .as_file()
        .set_len(1 << 20)
        .expect("there is room for a disk");
    image
}

#[test]
fn a_disk_uses_every_rule_of_its_own() {
    for (role, has_io_uring) in [("block_ring", true), ("block_calls", false)] {
        let runs = ["", ",cache=writethrough"].map(|options| driven(options, has_io_uring));
        let runs = runs.each_ref();
        compare(role, &runs.map(|trace| (trace.process, &trace.device)));
    }
}

/// The trace of a guest that drives its balloon.
fn inflated(more: &[&str]) -> Trace {
    let directory = tempfile::tempdir().expect("a run can be traced, and its trace read");
    let arguments = [&["--balloon", "1,stats_polling_interval_s=1"], more].concat();
    let kernel = handmade::balloon();
    let mut guest = traced(directory.path(), &kernel, &arguments).start();
    guest.wait_for("ready\n");
    for (order, outcome) in [
        (b"g", "given\n"),
        (b"s", "told\n"),
        (b"a", "asked\n"),
        (b"b", "started over\n"),
    ] {
        guest.type_bytes(order);
        guest.wait_for(outcome);
    }
    guest.type_bytes(b"p");
    guest.close_input();
    let finished = guest.finish();
    assert_eq!(finished.code, 0);
    assert!(
        finished
            .stderr
            .contains("balloon: its driver broke the rules")
    );
    read(directory.path())
}

#[test]
fn a_balloon_uses_every_rule_of_its_own() {
    let runs = [inflated(&[]), inflated(&["--shared-memory"])];
    let runs = runs.each_ref();
    compare("balloon", &runs.map(|trace| (trace.process, &trace.device)));
}

#[test]
fn a_vcpu_with_a_disk_uses_every_rule_of_its_own() {
    let image = image();
    let disk = image.path().to_str().expect("a plain path");
    let crashed = told(&["--disk", disk], |guest| {
        guest.type_bytes(b"i");
        guest.wait_for("interrupted\n");
        guest.type_bytes(b"x");
    });
    let arguments = ["--disk", disk, "--on-reboot", "restart", "--cpus", "2"];
    let runs = [crashed, told(&arguments, reset), driven("", true)];
    let runs = runs.each_ref();
    compare(
        "vcpu_with_devices",
        &runs.map(|trace| (trace.process, &trace.vcpu)),
    );
}

fn patch(client: &mut Connection, path: &str, body: &str) {
    assert_eq!(client.ask("PATCH", path, body).status, 204);
}

/// Puts `image` in the place of the first disk's.
fn replace(client: &mut Connection, image: &Path) {
    let image = fs::File::options().read(true).write(true).open(image);
    let image = image.expect("it is there");
    let body = r#"{"drive_id": "disk0", "path_on_host": "other"}"#;
    let asked = request("PATCH", "/drives/disk0", body);
    let sent = client.send_with(&asked, &[image.as_fd()]);
    sent.expect("it is listened to");
    assert_eq!(client.answer().expect("there is an answer").status, 204);
}

/// A client that uses everything there is.
fn direct(socket: &Socket, disk: &Path) {
    let mut client = socket.connect();
    patch(&mut client, "/vm", r#"{"state": "Paused"}"#);
    patch(&mut client, "/vm", r#"{"state": "Resumed"}"#);
    let limits = r#"{"drive_id": "disk0", "rate_limiter": {"ops": {"size": 1, "refill_time": 1}}}"#;
    patch(&mut client, "/drives/disk0", limits);
    patch(&mut client, "/drives/disk0", r#"{"drive_id": "disk0"}"#);
    replace(&mut client, disk);
    let card = r#"{"iface_id": "n", "host_dev_name": "tap0"}"#;
    client
        .send(&request("PUT", "/network-interfaces/n", card))
        .expect("it is listened to");
    assert_eq!(client.answer().expect("there is an answer").status, 204);
    client.send(b"\n\0\n").expect("it is listened to");
    assert_eq!(client.answer().expect("there is an answer").status, 400);
    assert!(client.ends());
}

#[test]
fn a_control_socket_uses_every_rule_of_its_own() {
    let socket = Socket::default();
    let disks = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("there is room for a disk"));
    let [disk, other] = disks.each_ref().map(|disk| disk.path());
    let disk = disk.to_str().expect("a plain path");
    namespace();
    tap("tap0", "", 1500);
    let arguments = [
        "--api-sock",
        socket.argument(),
        "--disk",
        disk,
        "--transport",
        "pci",
    ];
    let directed = told(&arguments, |guest| {
        direct(&socket, other);
        guest.type_bytes(b"p");
        guest.close_input();
    });
    // Whose guest has a driver for its disk.
    let driven = driven("", true);
    let runs = [&directed, &driven];
    compare("api", &runs.map(|trace| (trace.process, &trace.api)));
    let pressed = pressed(&arguments);
    let runs = [&directed, &pressed];
    compare(
        "attended_machine",
        &runs.map(|trace| (trace.process, &trace.machine)),
    );
}
