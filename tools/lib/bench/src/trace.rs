//! What `strace` tells of a launch: how many system calls before the guest runs, and when the landmarks pass.
use std::{fs, io, path::Path, process::Command};

/// System calls of all threads, `execve` included, before the first `KVM_RUN`; none if there was no such call.
pub fn calls_before_run(trace: &str) -> Option<u32> {
    let mut count = 0;
    for line in trace.lines() {
        let call = without_pid(line);
        if is_run(call) {
            return Some(count);
        }
        // `+++ exited`, `--- SIGCHLD`, and the second half of a call that another one came between.
        if !call.starts_with(['+', '-', '<']) && call.contains('(') {
            count += 1;
        }
    }
    None
}

/// A moment of a traced launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Seconds since 1970.
    pub at: f64,
    /// Traced calls before it, each of which cost the launch time.
    pub calls: u32,
}

/// The landmarks of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Landmarks {
    /// `execve` was called.
    pub exec: Moment,
    /// `/dev/kvm` was opened: the program had started, and read what it was told.
    pub open: Moment,
    /// The VM was asked for.
    pub create: Moment,
    /// The guest was entered for the first time.
    pub run: Moment,
}

/// From a trace with `-ttt`.
pub fn landmarks(trace: &str) -> Option<Landmarks> {
    let calls = || {
        trace.lines().filter_map(|line| {
            let (time, call) = without_pid(line).split_once(' ')?;
            let call = call.trim_start();
            (!call.starts_with(['+', '-', '<'])).then_some((time, call))
        })
    };
    let first = |wanted: fn(&str) -> bool| {
        let (calls, (time, _)) = (0..).zip(calls()).find(|(_, (_, call))| wanted(call))?;
        Some(Moment {
            at: time.parse().ok()?,
            calls,
        })
    };
    Some(Landmarks {
        exec: first(|call| call.starts_with("execve("))?,
        open: first(|call| call.starts_with("open") && call.contains("\"/dev/kvm\""))?,
        create: first(|call| call.contains("KVM_CREATE_VM"))?,
        run: first(is_run)?,
    })
}

/// Where a landmark lies in an untraced launch that takes `total` seconds, if the traced one took `traced`: what tracing added
/// is shared out among the calls that were traced.
pub fn untraced(marks: &Landmarks, mark: Moment, traced: f64, total: f64) -> f64 {
    let share = (traced - total).max(0.0) / f64::from(marks.run.calls.max(1));
    (mark.at - marks.exec.at - share * f64::from(mark.calls)).clamp(0.0, total)
}

fn without_pid(line: &str) -> &str {
    line.trim_start()
        .split_once(' ')
        .map_or("", |(_, rest)| rest.trim_start())
}

fn is_run(call: &str) -> bool {
    call.starts_with("ioctl(") && call.contains("KVM_RUN")
}

/// `command` under strace, which writes to `file`: every call, or with their times those that are landmarks, which costs the others nothing.
pub fn traced(command: &Command, file: &Path, landmarks_only: bool) -> Command {
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-qq"]);
    if landmarks_only {
        tracer.args([
            "--seccomp-bpf",
            "-ttt",
            "-e",
            "trace=execve,open,openat,ioctl",
        ]);
    }
    tracer
        .arg("-o")
        .arg(file)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    tracer
}

/// The trace that was written.
///
/// # Errors
/// When there is none.
pub fn read(file: &Path) -> io::Result<String> {
    // Strings of programs may be cut within a character.
    Ok(String::from_utf8_lossy(&fs::read(file)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_once_and_until_the_guest_runs() {
        let trace = "\
12  execve(\"/bin/monitor\", [\"monitor\"], 0x7ffd /* 9 vars */) = 0
12  openat(AT_FDCWD, \"/dev/kvm\", O_RDWR) = 3
12  clone3({flags=CLONE_VM} <unfinished ...>
13  rseq(0x7f, 32, 0, 0) = 0
12  <... clone3 resumed>) = 13
13  --- SIGUSR1 {si_signo=SIGUSR1} ---
13  ioctl(5, KVM_RUN <unfinished ...>
12  read(0,  <unfinished ...>
";
        assert_eq!(calls_before_run(trace), Some(4));
        assert_eq!(
            calls_before_run("1 exit_group(0) = ?\n1 +++ exited with 0 +++"),
            None
        );
    }

    #[test]
    fn landmarks_are_the_first_of_their_kind() {
        let trace = "\
7  100.000001 execve(\"/bin/monitor\", [\"/dev/kvm\"], 0x7ffd) = 0
7  100.001000 openat(AT_FDCWD, \"/etc/ld.so.cache\", O_RDONLY) = 3
7  100.002000 openat(AT_FDCWD, \"/dev/kvm\", O_RDWR|O_CLOEXEC) = 3
7  100.003000 ioctl(3, KVM_CREATE_VM, 0) = 4
8  100.004000 ioctl(5, KVM_RUN, 0) = 0
8  100.005000 ioctl(5, KVM_RUN, 0 <unfinished ...>
";
        let marks = landmarks(trace).unwrap();
        let of = |moment: Moment| (moment.at, moment.calls);
        assert_eq!(of(marks.exec), (100.000_001, 0));
        assert_eq!(of(marks.open), (100.002, 2));
        assert_eq!(of(marks.create), (100.003, 3));
        assert_eq!(of(marks.run), (100.004, 4));
        assert_eq!(landmarks("7 100.0 execve(\"x\") = 0"), None);
    }

    #[test]
    fn what_tracing_costs_is_taken_off_by_the_calls_before() {
        let moment = |at, calls| Moment { at, calls };
        let marks = Landmarks {
            exec: moment(10.0, 0),
            open: moment(12.0, 2),
            create: moment(13.0, 3),
            run: moment(18.0, 8),
        };
        // Eight calls made it eight seconds longer.
        let at = |mark| untraced(&marks, mark, 9.0, 1.0);
        assert_eq!(at(marks.open), 0.0);
        assert_eq!(at(marks.run), 0.0);
        assert_eq!(untraced(&marks, marks.create, 9.0, 9.0), 3.0);
    }
}
