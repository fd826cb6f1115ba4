//! What a confined thread did, by strace, against the rules of its role.
#![allow(
    clippy::missing_panics_doc,
    reason = "a trace that cannot be read fails its test"
)]
use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde::Deserialize;

use crate::ampoule;

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
const UNSEEN: [(&str, &str, &str); 15] = [
    (
        "exit_group",
        "the end",
        "of a vCPU's or a disk's thread: only when that thread dies of a fault",
    ),
    ("futex", "every role", "a lock is contended by chance"),
    (
        "clock_gettime",
        "every role",
        "only where the host has no clock that programs can read",
    ),
    (
        "mmap",
        "the allocator",
        "the arena suffices, unless much is said at once",
    ),
    ("munmap", "the allocator", "the arena suffices"),
    ("mprotect", "glibc", "the arena suffices"),
    ("mprotect", "musl", "the arena suffices"),
    ("brk", "musl", "the arena suffices"),
    ("mremap", "a large block", "the arena suffices"),
    ("madvise", "glibc", "the arena suffices"),
    ("fcntl", "the standard library", "debug builds only"),
    (
        "setsockopt",
        "looked past",
        "only where a socket remembers how far it was looked into (Linux 6.9)",
    ),
    ("write", "a panic", "nothing makes this program panic"),
    (
        "write",
        "it may flush now",
        "two queues of a disk flush at once by chance",
    ),
    (
        "ioctl TCSETS",
        "the terminal",
        "of a vCPU's or a disk's thread: only when that thread dies of a fault",
    ),
];

/// A system call of a confined thread: name, and arguments as numbers where strace printed numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    name: String,
    arguments: Vec<Option<u64>>,
    /// Whether the end of its process cut it short: arguments behind one that the kernel was to fill are not known.
    cut: bool,
}

/// `ampoule run` under strace, which leaves a file per thread in `directory`.
pub fn traced(directory: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-ff", "-qq", "-X", "raw", "-o"]);
    command.arg(directory.join("trace"));
    command.arg(ampoule()).arg("run");
    command
}

/// What each thread in `directory` did before its filter stood, as text, and after; with its number.
pub fn threads(directory: &Path) -> Vec<(String, BTreeSet<Call>, u64)> {
    let mut threads = Vec::new();
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
        let number = path.extension().and_then(|number| number.to_str());
        let number = number.and_then(|number| number.parse().ok());
        threads.push((
            before.to_owned(),
            confined.lines().filter_map(parse).collect(),
            number.expect("a run can be traced, and its trace read"),
        ));
    }
    threads
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
    let (mut parts, mut depth) = (vec![String::new()], 0i32);
    let (mut quoted, mut escaped) = (false, false);
    for character in text.chars() {
        match character {
            _ if escaped => {}
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = quoted && !escaped && character == '\\';
        let last = parts.last_mut();
        last.expect("there is one part at least").push(character);
    }
    parts
}

fn number(text: &str) -> Option<u64> {
    // A call that the end of its process cut short has no closing bracket, and a remark instead.
    let text = text.split(" <").next()?.trim().trim_end_matches(')');
    // A socket's type and its flags are two numbers to strace.
    text.split('|')
        .try_fold(0, |bits, part| Some(bits | one_number(part)?))
}

fn one_number(text: &str) -> Option<u64> {
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
pub fn compare(role: &str, runs: &[(u64, &BTreeSet<Call>)]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_where_they_end() {
        let parts = split_arguments(r#"3, {iov="a,\\", b=[1, 2]}, "\",", 0x40"#);
        assert_eq!(
            parts,
            ["3", r#" {iov="a,\\", b=[1, 2]}"#, r#" "\",""#, " 0x40"]
        );
    }
}
