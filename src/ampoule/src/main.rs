//! The `ampoule` program: picks a command and runs it.
#![cfg_attr(not(test), no_main)]
#[cfg(not(test))]
mod startup;

use std::{
    ffi::OsString,
    io::{self, Write},
    sync::Arc,
};

use ampoule::{
    allocator::ArenaFirst,
    definition,
    doctor::{self, DoctorArgs},
    last_words::FAILED,
    run::{self, RunArgs},
    sandbox::{self, SandboxArgs},
};
use clap::{CommandFactory, Parser, error::ErrorKind};
use clap_complete::Shell;
use vmm::timeline::Timeline;

// SAFETY: it is the only one.
#[global_allocator]
static ALLOCATOR: ArenaFirst = unsafe { ArenaFirst::new() };

/// Launch sandboxed Linux guests in micro-VMs: as light as containers, as isolated as machines
#[derive(Parser)]
#[command(
    name = "ampoule",
    version,
    after_help = "New here? `ampoule doctor` tells what this host can do."
)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Run(Box<RunArgs>),
    Doctor(DoctorArgs),
    Sandbox(SandboxArgs),
    /// Print the JSON schema of VM definitions, for editors and validators
    Schema,
    /// Print a completion script for a shell
    ///
    /// For bash: ampoule completion bash > ~/.local/share/bash-completion/completions/ampoule
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// The program's entry, called by the C library.
///
/// The standard library's own would make a dozen system calls that a launch can do without: alternate stacks and handlers
/// for stack overflows, of which `last_words` has its own.
///
/// # Safety
/// `argv` points to `argc` pointers to strings, as it does where a C program starts.
#[cfg(not(test))]
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: libc::c_int, argv: *const *const libc::c_char) -> libc::c_int {
    startup::prepare();
    // SAFETY: as this function's.
    let arguments = unsafe { startup::arguments(argc, argv) };
    let code = run_command(arguments);
    // What cannot be written now has been reported where it mattered.
    let _ = io::stdout().flush();
    i32::from(code)
}

/// Parses the command line, runs the command, and gives the exit code.
#[cfg_attr(test, expect(dead_code, reason = "the test harness has its own entry"))]
fn run_command(arguments: Vec<OsString>) -> u8 {
    let timeline = Arc::new(Timeline::since_exec());
    let program = match Program::try_parse_from(arguments) {
        Ok(program) => program,
        Err(error) => return usage(&error),
    };
    match program.command {
        Command::Run(args) => run::run(&args, &timeline),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sandbox(args) => match sandbox::report(&args) {
            Ok(report) => print(report.as_bytes()),
            Err(error) => {
                eprintln!("ampoule: the report cannot be made: {error}");
                FAILED
            }
        },
        Command::Schema => print(definition::SCHEMA.as_bytes()),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Program::command(), "ampoule", &mut script);
            print(&script)
        }
    }
}

/// Prints help, or what is wrong with the command line: then the exit code is our own failure's, as everywhere.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        // Help that nobody can read any more is no failure of ours.
        let _ = error.print();
        return 0;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
    } else {
        eprintln!("{}", one_line(&error.render().to_string()));
    }
    FAILED
}

/// clap's message as one of ours: what is wrong on one line, its tip as the hint.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let (mut what, mut hint) = (Vec::new(), None);
    for line in message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
    {
        match line.strip_prefix("tip: ") {
            Some(tip) => hint = hint.or(Some(tip)),
            None if line.is_empty() || line.starts_with("For more information") => {}
            None => what.push(line),
        }
    }
    let what = what.join(" ");
    if hint.is_none() && what.contains("(hint: ") {
        return format!("ampoule: {what}");
    }
    let hint = hint.unwrap_or("--help shows what there is");
    format!("ampoule: {what} (hint: {hint})")
}

fn print(bytes: &[u8]) -> u8 {
    match io::stdout().write_all(bytes) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            eprintln!("ampoule: stdout: {error}");
            FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arguments: &[&str]) -> String {
        let Err(error) = Program::try_parse_from(arguments) else {
            panic!("accepted")
        };
        one_line(&error.render().to_string())
    }

    #[test]
    fn usage_errors_are_one_line_with_a_hint() {
        assert_eq!(
            message(&["ampoule", "run", "--frob"]),
            "ampoule: unexpected argument '--frob' found (hint: --help shows what there is)"
        );
        let misspelt = message(&["ampoule", "run", "--initrb", "x"]);
        assert_eq!(
            misspelt,
            "ampoule: unexpected argument '--initrb' found (hint: a similar argument exists: '--initrd')"
        );
        let unfit = message(&["ampoule", "run", "--memory", "lots"]);
        assert!(
            unfit.starts_with("ampoule: invalid value 'lots' for '--memory <SIZE>': "),
            "{unfit}"
        );
        assert!(!unfit.contains('\n'));
        assert_eq!(unfit.matches("(hint: ").count(), 1, "{unfit}");
    }
}
