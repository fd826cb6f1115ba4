//! `ampoule doctor`: what this host can do, what is missing, and the command that mends it.
//!
//! The doctor only looks: it loads, creates and changes nothing (a VM and a namespace are made and dropped at once, to see whether they
//! can be). Probes read files below a root directory and make system calls through a trait, so tests run on fixture hosts.
use std::io::{self, IsTerminal, Write};

mod cgroup;
mod host;
mod kernels;
mod kvm;
mod memory;
mod networking;
mod report;
mod sandbox;
mod storage;
mod system;
mod table;
mod virtualisation;

#[cfg(test)]
mod testing;

use host::Host;
pub use report::{Check, Group, Report, State, Status, Verdict};

/// The exit code of any refusal or failure that is Ampoule's own.
const FAILURE: u8 = 125;

const AFTER_HELP: &str = "\
Each line is one check: ✓ fine, ! works with less, ✗ guests cannot run, · for your information. Below what is not fine \
stand the reason it matters and the command that mends it. Nothing is changed: run the commands yourself.

The last line is the verdict, and decides the exit code: 0 when guests run here, warnings or not; 125 when they do not, be \
it that KVM is missing, or that it is paravirtual, so that stock kernels will not run.

JSON: { \"format\": 1, \"version\", \"verdict\": { \"state\", \"text\" }, \"checks\": [ { \"id\", \"group\", \"title\", \
\"status\", \"found\", \"why\", \"mend\", \"advice\" } ] }. \"state\" is ready, stock-kernels-will-not-run or not-ready; \
\"status\" is ok, warning, missing or info; \"mend\" is a shell command or null; \"advice\" says in words what no command \
can do, or is null. The checks and their ids are the same on every host; later versions may add some.";

/// Check what this host can do for guests, and how to mend what is missing
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {
    /// Print the report as one JSON object, for scripts; its form is described below
    #[arg(long)]
    pub json: bool,
}

/// Examines this host and prints the report to stdout.
#[must_use]
pub fn run(args: &DoctorArgs) -> u8 {
    let report = examine(&Host::current());
    let mut stdout = io::stdout();
    let text = if args.json {
        report.to_json()
    } else {
        table::render(&report, stdout.is_terminal() && colours_are_wanted())
    };
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => {}
        // Whoever reads us has seen enough: `ampoule doctor | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            eprintln!("ampoule: cannot print the report: {}", host::reason(&error));
            return FAILURE;
        }
    }
    match report.verdict.state {
        State::Ready => 0,
        State::StockKernelsWillNotRun | State::NotReady => FAILURE,
    }
}

/// `no-color.org`: any value but an empty one turns colours off.
fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

fn examine(host: &Host) -> Report {
    let (mut checks, virtualisation) = virtualisation::examine(host);
    checks.extend(sandbox::examine(host));
    checks.extend(networking::examine(host));
    checks.extend(storage::examine(host));
    checks.extend(memory::examine(host));
    checks.extend(kernels::examine(host));
    Report::new(checks, &virtualisation)
}

#[cfg(test)]
mod tests;
