//! The `ampoule` program.

use std::process::ExitCode;

use ampoule::doctor::{self, DoctorArgs};
use clap::Parser;

/// Launch sandboxed Linux guests in micro-VMs
#[derive(Parser)]
#[command(name = "ampoule", version)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Doctor(DoctorArgs),
}

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => {
            let is_failure = error.use_stderr();
            // Help that nobody can read any more is no failure of ours.
            let _ = error.print();
            return if is_failure {
                ExitCode::from(125)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match program.command {
        Command::Doctor(args) => doctor::run(&args),
    }
}
