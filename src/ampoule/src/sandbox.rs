//! `ampoule sandbox`: what a confined guest's process can still ask of the kernel, as this program has it built in.
use std::fmt::Write as _;

use serde::Serialize;
use vmm::sandbox::{
    Role,
    rules::{self, Argument, Rule},
};

/// List the system calls that a guest's process can make
///
/// Once a guest runs, each thread of its process can make the calls of its role and no other: any other ends the process.
/// Besides, the process has no capabilities and, by Landlock, no path that it could open.
#[derive(clap::Args, Debug)]
pub struct SandboxArgs {
    /// Print one JSON object: {"format": 1, "roles": [{"role", "rules": [{"number", "name", "arguments", "why"}]}]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    format: u32,
    roles: Vec<RoleReport>,
}

#[derive(Serialize)]
struct RoleReport {
    role: Role,
    rules: Vec<&'static Rule>,
}

/// What the command prints.
///
/// # Errors
/// Never in practice: the rules are constants.
pub fn report(args: &SandboxArgs) -> serde_json::Result<String> {
    let roles = Role::ALL.map(|role| RoleReport {
        role,
        rules: rules::of(role).collect(),
    });
    if args.json {
        let report = Report {
            format: 1,
            roles: roles.into(),
        };
        return Ok(serde_json::to_string_pretty(&report)? + "\n");
    }
    Ok(roles.iter().map(table).collect::<Vec<_>>().join("\n"))
}

fn table(report: &RoleReport) -> String {
    let what = match report.role {
        Role::Machine => "The event loop: console, signals",
        Role::AttendedMachine => "The event loop with --api-sock",
        Role::RestartingMachine => "The event loop with --on-reboot restart",
        Role::Vcpu => "A vCPU",
        Role::VcpuWithDevices => "A vCPU of a machine with virtio devices",
        Role::BlockRing => "A disk's queue, by io_uring",
        Role::Balloon => "A memory balloon",
        Role::BlockCalls => "A disk's queue, where io_uring is missing or forbidden",
        Role::Net => "A pair of a network card's queues",
        Role::Vsock => "The socket device (--vsock)",
        Role::UserNetwork => "A network card's own network (--net user)",
        Role::Api => "The server of the control socket (--api-sock)",
    };
    let mut text = format!("{what}\n");
    for rule in &report.rules {
        let conditions: Vec<_> = rule.arguments.iter().map(condition).collect();
        let _ = writeln!(
            text,
            "  {:<14} {:<46} {}",
            rule.name,
            conditions.join(", "),
            rule.why
        );
    }
    text
}

fn condition(argument: &Argument) -> String {
    match *argument {
        Argument::Is(index, value) => format!("argument {index} is {value:#x}"),
        Argument::Masked(index, mask, value) => {
            format!("argument {index} & {mask:#x} is {value:#x}")
        }
        Argument::OwnProcess(index) => format!("argument {index} is its own process"),
    }
}
