//! What a run tells its user, on stderr: what was found, how it ended, where the time went.
use std::{
    fs::File,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;
use vmm::{
    boot::kernel::KernelError,
    bus::Accesses,
    config::size,
    machine::{Ending, Killed, MachineError, Parts},
    sandbox::PathsGone,
    timeline::{Stamp, Timeline},
};

use super::RunArgs;
use crate::last_words::FAILED;

/// As a shell says "killed by SIGKILL".
const KILLED: u8 = 137;

/// What to try when a machine cannot be built.
pub(super) fn hint(error: &MachineError) -> Option<&'static str> {
    match error {
        MachineError::Kernel(error) => KernelError::hint(error),
        MachineError::Initrd(_) => Some("give the guest more with --memory"),
        MachineError::Kvm(error) => Some(error.hint()),
        MachineError::Sandbox(_) => Some("see: ampoule doctor"),
        _ => None,
    }
}

/// A heading and lines below it.
pub(super) fn indented(heading: &str, lines: &str) -> String {
    let mut text = format!("{heading}:\n");
    for line in lines.lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// What was opened.
pub(super) fn parts(parts: &Parts) {
    let kernel = &parts.kernel;
    let version = kernel.version().unwrap_or("of unknown version");
    eprintln!(
        "ampoule: kernel: {}, {version}; cache: {:?}",
        kernel.format(),
        kernel.cache_use()
    );
    eprintln!("ampoule: entry: {:x?}", parts.entry);
    eprintln!("ampoule: command line: {}", parts.command_line);
    eprintln!(
        "ampoule: {} vCPUs, {}",
        parts.topology.cpus,
        size::format(parts.ram)
    );
}

/// What the sandbox is made of. A terminal may be raw by now.
pub(super) fn sandbox(paths: Option<PathsGone>) {
    let text = match paths {
        None => "off",
        Some(PathsGone::Fully) => "seccomp, no capabilities, no paths (Landlock)",
        Some(PathsGone::Partially) => "seccomp, no capabilities, no paths (an older Landlock)",
        Some(PathsGone::NotAtAll) => "seccomp, no capabilities; this kernel has no Landlock",
    };
    eprint!("ampoule: sandbox: {text}\r\n");
}

/// Exits to user space, by the device that was accessed.
pub(super) fn exits(exits: &[Accesses]) {
    let used = exits.iter().filter(|exit| exit.reads + exit.writes > 0);
    let list: Vec<_> = used
        .map(|exit| {
            format!(
                "{} {} reads {} writes",
                exit.device, exit.reads, exit.writes
            )
        })
        .collect();
    eprint!("ampoule: exits: {}\r\n", list.join(", "));
}

/// Says how the guest ended, unless it ended well, and gives the exit code.
pub(super) fn ending(ending: Ending, stop_timeout: Duration) -> u8 {
    match ending {
        Ending::PowerOff | Ending::Reset => 0,
        Ending::Panic => {
            eprintln!("ampoule: the guest's kernel panicked: its last words are on the console");
            FAILED
        }
        Ending::Crash(crash) => {
            eprintln!("ampoule: the guest crashed: {crash}");
            FAILED
        }
        Ending::Killed(Killed::TimedOut) => {
            eprintln!(
                "ampoule: the guest was killed: it did not power off within {} s (hint: --stop-timeout; \
                 a stock kernel needs its module `button` for that)",
                stop_timeout.as_secs()
            );
            KILLED
        }
        Ending::Killed(Killed::ByUser) => {
            eprintln!("ampoule: the guest was killed");
            KILLED
        }
    }
}

/// The timeline as a file holds it.
#[derive(Serialize)]
struct TimelineReport {
    format: u32,
    unit: &'static str,
    since: &'static str,
    phases: Vec<Stamp>,
    /// Exits to user space by device, until the guest's init ran; empty when it did not say so.
    exits_to_user_space: Vec<Accesses>,
}

/// Prints or writes the timeline, if it was asked for.
pub(super) fn timeline(
    args: &RunArgs,
    file: Option<File>,
    timeline: &Timeline,
    exits: Vec<Accesses>,
) {
    let stamps = timeline.stamps();
    match (&args.timeline, file) {
        (Some(_), Some(mut file)) => {
            let report = TimelineReport {
                format: 1,
                unit: "microseconds",
                since: "exec",
                phases: stamps,
                exits_to_user_space: exits,
            };
            let written = serde_json::to_writer_pretty(&mut file, &report)
                .map_err(io::Error::from)
                .and_then(|()| file.write_all(b"\n"));
            if let Err(error) = written {
                eprintln!("ampoule: the timeline cannot be written: {error}");
            }
        }
        (Some(_), None) => {
            eprintln!("ampoule: timeline, microseconds since exec (and since the line above)");
            let mut before = 0;
            for stamp in stamps {
                let step = stamp.microseconds - before.min(stamp.microseconds);
                eprintln!("{:>12} {:>+12}  {}", stamp.microseconds, step, stamp.phase);
                before = stamp.microseconds;
            }
        }
        (None, _) => {}
    }
}
