//! The seccomp filters against what the program really does: traced through its whole life, it uses every rule, and
//! makes no other call.
use std::{collections::BTreeSet, fs, os::fd::AsFd, path::Path, process::Command};

use ampoule_tests::{
    Guest, Launch, ampoule,
    api::{Connection, Socket, request},
    handmade,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

/// A rule, as the program under test has it built in.
#[derive(Clone, Debug, Deserialize)]
struct Rule {
    name: String,
    arguments: Vec<Argument>,
    why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Argument {
    Is(u8, u64),
    Masked(u8, u64, u64),
    OwnProcess(u8),
}

#[derive(Deserialize)]
struct RoleReport {
    role: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Report {
    roles: Vec<RoleReport>,
}

/// The rules of a role: another C library makes other calls, so they are the program's to tell.
fn rules_of(role: &str) -> Vec<Rule> {
    let output = Command::new(ampoule())
        .args(["sandbox", "--json"])
        .output()
        .expect("a run can be traced, and its trace read");
    let report: Report =
        serde_json::from_slice(&output.stdout).expect("a run can be traced, and its trace read");
    report
        .roles
        .into_iter()
        .find(|report| report.role == role)
        .expect("a run can be traced, and its trace read")
        .rules
}

/// Rules that no run of a test can be made to use, and why.
const UNSEEN: [(&str, &str, &str); 9] = [
    (
        "exit_group",
        "the end",
        "of a vCPU's or a disk's thread: only when that thread dies of a fault",
    ),
    ("futex", "every role", "a lock is contended by chance"),
    (
        "mmap",
        "the allocator",
        "the arena suffices, unless much is said at once",
    ),
    ("munmap", "the allocator", "the arena suffices"),
    ("mprotect", "glibc", "the arena suffices"),
    ("madvise", "glibc", "the arena suffices"),
    ("fcntl", "the standard library", "debug builds only"),
    ("write", "a panic", "nothing makes this program panic"),
    (
        "ioctl TCSETS",
        "the terminal",
        "of a vCPU's or a disk's thread: only when that thread dies of a fault",
    ),
];

/// A system call of a confined thread: name, and arguments as numbers where strace printed numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    name: String,
    arguments: Vec<Option<u64>>,
    /// Whether the end of its process cut it short: arguments behind one that the kernel was to fill are not known.
    cut: bool,
}

/// What devices' threads are called, or begin with.
const DEVICES: [&str; 2] = ["disk", "balloon"];

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
    let mut command = Command::new("strace");
    command.args(["-ff", "-qq", "-X", "raw", "-o"]);
    command.arg(directory.join("trace"));
    command.arg(ampoule());
    command
        .args(["run", "--kernel", kernel.argument()])
        .args(arguments);
    Launch::command(command)
}

/// Reads the traces in `directory`: what each thread did once its filter stood.
fn read(directory: &Path) -> Trace {
    let mut trace = Trace::default();
    for entry in fs::read_dir(directory).expect("a run can be traced, and its trace read") {
        let path = entry
            .expect("a run can be traced, and its trace read")
            .path();
        let text = fs::read_to_string(&path).expect("a run can be traced, and its trace read");
        let Some((before, confined)) = text
            .split_once("\nseccomp(")
            .and_then(|(before, rest)| Some((before, rest.split_once('\n')?.1)))
        else {
            continue;
        };
        let named = |name: &str| before.contains(&format!("\"{name}"));
        let calls = confined.lines().filter_map(parse);
        if named("vcpu") {
            trace.vcpu.extend(calls);
        } else if named("api") {
            trace.api.extend(calls);
        } else if DEVICES.into_iter().any(named) {
            trace.device.extend(calls);
        } else {
            trace.process = path
                .extension()
                .expect("a run can be traced, and its trace read")
                .to_str()
                .expect("a run can be traced, and its trace read")
                .parse()
                .expect("a run can be traced, and its trace read");
            trace.machine.extend(calls);
        }
    }
    trace
}

/// A line of strace's; none for signals and exits.
fn parse(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return None;
    }
    let arguments = rest
        .rsplit_once(" = ")
        .map_or(rest, |(arguments, _)| arguments);
    let cut = arguments.contains("<unfinished ...>");
    let arguments = split_arguments(arguments)
        .iter()
        .filter(|argument| !cut || !argument.trim().starts_with('<'))
        .map(|argument| number(argument))
        .collect();
    Some(Call {
        name: name.to_owned(),
        arguments,
        cut,
    })
}

/// Splits at commas that stand in no string, structure or list.
fn split_arguments(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut quoted) = (vec![String::new()], 0i32, false);
    let mut before = ' ';
    for character in text.chars() {
        match character {
            '"' if before != '\\' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                before = character;
                continue;
            }
            _ => {}
        }
        parts
            .last_mut()
            .expect("a run can be traced, and its trace read")
            .push(character);
        before = character;
    }
    parts
}

fn number(text: &str) -> Option<u64> {
    // A call that the end of its process cut short has no closing bracket, and a remark instead.
    let text = text.split(" <").next()?.trim().trim_end_matches(')');
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text == "NULL" => Some(0),
        None => text.parse().ok(),
    }
}

fn fits(rule: &Rule, call: &Call, process: u64) -> bool {
    let argument = |index: u8| call.arguments.get(usize::from(index)).copied().flatten();
    let known = |condition: &Argument| match *condition {
        Argument::Is(index, _) | Argument::Masked(index, ..) | Argument::OwnProcess(index) => {
            !call.cut || usize::from(index) < call.arguments.len()
        }
    };
    let mut conditions = rule.arguments.iter().filter(|condition| known(condition));
    rule.name == call.name
        && conditions.all(|condition| match *condition {
            Argument::Is(index, value) => {
                argument(index).is_some_and(|seen| seen & 0xffff_ffff == value)
            }
            Argument::Masked(index, mask, value) => {
                argument(index).is_some_and(|seen| seen & mask == value)
            }
            Argument::OwnProcess(index) => argument(index) == Some(process),
        })
}

fn may_be_unseen(rule: &Rule) -> bool {
    const TCSETS: Argument = Argument::Is(1, 0x5402);
    let name = match rule.arguments.contains(&TCSETS) {
        true => "ioctl TCSETS",
        false => rule.name.as_str(),
    };
    UNSEEN.iter().any(|(unseen, about, _)| {
        name == *unseen && (*about == "every role" || rule.why.contains(about))
    })
}

/// Every call of these traces fits a rule of `role`, and every rule some call.
fn compare(role: &str, runs: &[(u64, &BTreeSet<Call>)]) {
    let rules = rules_of(role);
    for (process, calls) in runs {
        for call in *calls {
            assert!(
                rules.iter().any(|rule| fits(rule, call, *process)),
                "{role}: no rule allows {call:?}"
            );
        }
    }
    for rule in &rules {
        let used = runs
            .iter()
            .any(|(process, calls)| calls.iter().any(|call| fits(rule, call, *process)));
        assert!(
            used || may_be_unseen(rule),
            "{role}: nothing uses {} for {}",
            rule.name,
            rule.why
        );
    }
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
    let arguments = ["--api-sock", socket.argument(), "--disk", disk];
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
