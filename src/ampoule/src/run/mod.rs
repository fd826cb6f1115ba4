//! `ampoule run`: read, open, confine, run.
mod args;
mod balloon;
pub(crate) mod claim;
mod descriptors;
pub(crate) mod disk;
mod ends;
mod initrd;
mod keys;
pub(crate) mod net;
mod parts;
mod report;
mod tap;
mod user_network;
mod vsock;

use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::{OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use vmm::{
    bus::Accesses,
    config::{Definition, OnReboot},
    machine::{Attendant, Ending, Machine, MachineError, Policy},
    sandbox,
    timeline::{Phase, Timeline},
};

pub use args::{RunArgs, Switch};

use crate::{
    api::{self, About},
    failure::Failure,
    image, kernel_search, last_words,
    paths::Paths,
    terminal,
};

/// Runs a guest to its end, and ends this process with the guest's exit code.
pub fn run(args: &RunArgs, timeline: &Arc<Timeline>) -> ! {
    last_words::install();
    let code = read_open_confine(args, timeline).unwrap_or_else(|failure| {
        terminal::restore();
        eprintln!("{failure}");
        last_words::FAILED
    });
    last_words::exit(code)
}

/// The three phases; the exit code of a guest that ran.
fn read_open_confine(args: &RunArgs, timeline: &Arc<Timeline>) -> Result<u8, Failure> {
    // Read.
    let paths = Paths::current();
    let definition = args.definition(|| find_kernel(args, &paths))?;
    timeline.mark(Phase::Parsed);
    // Open.
    sandbox::close_inherited(&named_descriptors(args, &definition));
    let timeline_file = open_timeline(args)?;
    let wishes = (args.api_sock.is_some(), args.verbose);
    let (parts, devices) = parts::open(&definition, &paths, timeline, wishes)?;
    let api_socket = open_api_socket(args)?;
    if args.verbose {
        report::parts(&parts);
    }
    // Confine.
    let policy = Policy {
        restart: definition.lifecycle.on_reboot == OnReboot::Restart,
        stop_timeout: Duration::from_secs(definition.lifecycle.stop_timeout_s.into()),
        sandbox: args.sandbox == Switch::On,
    };
    let attendants = api_socket.map(|socket| {
        let id = "anonymous-instance".into();
        api::attendant(
            socket,
            About {
                id,
                definition,
                devices,
            },
        )
    });
    let attendants = attendants.into_iter().collect();
    let (ending, exits) = confine_and_run(parts, policy, attendants, timeline, args.verbose)?;
    terminal::restore();
    report::timeline(args, timeline_file, timeline, exits);
    Ok(report::ending(ending, policy.stop_timeout))
}

fn confine_and_run(
    parts: vmm::machine::Parts,
    policy: Policy,
    attendants: Vec<Attendant>,
    timeline: &Arc<Timeline>,
    verbose: bool,
) -> Result<(Ending, Vec<Accesses>), Failure> {
    let failed = |error: MachineError| {
        let hint = report::hint(&error);
        Failure::new("the machine", error).hint_if(hint)
    };
    image::let_go();
    let mut machine = Machine::build(parts, policy, ends::take(), attendants, timeline.clone())
        .map_err(failed)?;
    if verbose {
        report::sandbox(machine.paths_gone());
    }
    let ending = machine.run().map_err(failed);
    if verbose {
        report::exits(&machine.surroundings().exits());
    }
    let exits = machine.surroundings().exits_to_user_space.get().cloned();
    // Everything ends with this process. To take it apart first would only take time.
    std::mem::forget(machine);
    Ok((ending?, exits.unwrap_or_default()))
}

/// The kernel to boot when no definition names one.
fn find_kernel(args: &RunArgs, paths: &Paths) -> Result<PathBuf, Failure> {
    if let Some(kernel) = &args.kernel {
        return Ok(kernel.clone());
    }
    let roots = kernel_search::Roots::current(paths);
    let variable = std::env::var_os(kernel_search::VARIABLE);
    let found = kernel_search::find(None, variable.as_deref(), &roots);
    if args.verbose {
        let trail = match &found {
            Ok(found) => &found.trail,
            Err(missing) => &missing.trail,
        };
        eprint!(
            "{}",
            report::indented("ampoule: kernel search", &trail.to_string())
        );
    }
    found.map(|found| found.path).map_err(|missing| {
        let hint = missing.hint();
        Failure::at_place(format_args!("ampoule: {missing}")).hint(hint)
    })
}

/// Made last: what is refused leaves no socket behind.
fn open_api_socket(args: &RunArgs) -> Result<Option<OwnedFd>, Failure> {
    let socket = args.api_sock.as_ref().map(|path| {
        api::listen(path).map_err(|error| {
            let what = format_args!("--api-sock {}", path.display()).to_string();
            Failure::new(what, &error).hint(error.hint())
        })
    });
    socket.transpose()
}

fn open_timeline(args: &RunArgs) -> Result<Option<File>, Failure> {
    match &args.timeline {
        Some(Some(path)) => File::create(path)
            .map(Some)
            .map_err(|error| Failure::new(format_args!("--timeline {}", path.display()), error)),
        _ => Ok(None),
    }
}

/// Descriptors that paths of the user's go through, as a shell's `<(command)` does: they must outlive the reading.
fn named_descriptors(args: &RunArgs, definition: &Definition) -> Vec<RawFd> {
    let boot = &definition.boot_source;
    let timeline = args.timeline.as_ref().and_then(Option::as_ref);
    [
        Some(&boot.kernel_image_path),
        boot.initrd_path.as_ref(),
        timeline,
    ]
    .into_iter()
    .flatten()
    .chain(definition.drives.iter().map(|disk| &disk.path_on_host))
    .filter_map(|path| descriptor_of(path))
    .collect()
}

fn descriptor_of(path: &Path) -> Option<RawFd> {
    let directories: [&[u8]; 2] = [b"/dev/fd/", b"/proc/self/fd/"];
    let bytes = path.as_os_str().as_bytes();
    let number = directories
        .iter()
        .find_map(|directory| bytes.strip_prefix(*directory))?;
    OsStr::from_bytes(number).to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_through_descriptors_are_recognised() {
        assert_eq!(descriptor_of(Path::new("/dev/fd/63")), Some(63));
        assert_eq!(descriptor_of(Path::new("/proc/self/fd/5")), Some(5));
        assert_eq!(descriptor_of(Path::new("/dev/fd/x")), None);
        assert_eq!(descriptor_of(Path::new("vmlinuz")), None);
    }
}
