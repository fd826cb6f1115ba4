//! The `ampoule` program: picks a command and runs it.
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use ampoule::{
    definition,
    doctor::{self, DoctorArgs},
    last_words::FAILED,
    run::{self, RunArgs},
};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use vmm::timeline::Timeline;

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

fn main() -> ExitCode {
    let timeline = Arc::new(Timeline::since_exec());
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => return usage(&error),
    };
    match program.command {
        Command::Run(args) => run::run(&args, &timeline),
        Command::Doctor(args) => doctor::run(&args),
        Command::Schema => print(definition::SCHEMA.as_bytes()),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Program::command(), "ampoule", &mut script);
            print(&script)
        }
    }
}

/// Prints help, or what is wrong with the command line: then the exit code is our own failure's, as everywhere.
fn usage(error: &clap::Error) -> ExitCode {
    let is_failure = error.use_stderr();
    // Help that nobody can read any more is no failure of ours.
    let _ = error.print();
    if is_failure {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    }
}

fn print(bytes: &[u8]) -> ExitCode {
    match io::stdout().write_all(bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ampoule: stdout: {error}");
            ExitCode::from(FAILED)
        }
    }
}
