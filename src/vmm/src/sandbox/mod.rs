//! The sandbox: what this process can still do once a guest runs in it.
//!
//! It is built outside in. The process gives up its capabilities and every path (Landlock), and the right to gain
//! privileges; its threads inherit that. Then each thread installs the seccomp filter of its role. All of it stands
//! before the first guest instruction, in every build.
mod descriptors;
mod filter;
mod paths;
mod program;
pub mod rules;
#[cfg(test)]
mod tests;

use std::io;

use serde::Serialize;
use thiserror::Error;

pub use descriptors::close_inherited;
pub use filter::Filter;
pub use paths::PathsGone;

/// Why the sandbox does not stand. A guest must not run then.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Capabilities stay.
    #[error("capabilities cannot be dropped: {0}")]
    Capabilities(io::Error),
    /// `PR_SET_NO_NEW_PRIVS` failed.
    #[error("the right to gain privileges cannot be given up: {0}")]
    NoNewPrivileges(io::Error),
    /// Landlock is there, but refused.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// A filter could not be installed.
    #[error("a seccomp filter cannot be installed: {0}")]
    Install(io::Error),
}

/// What a thread is for, and so what it may ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The event loop: console, signals, control.
    Machine,
    /// The event loop of a machine that another thread directs: it can be paused.
    AttendedMachine,
    /// The event loop of a machine that powers itself on again when its guest resets.
    RestartingMachine,
    /// A vCPU.
    Vcpu,
    /// A vCPU of a machine with virtio devices.
    VcpuWithDevices,
    /// The queue of a block device, by io_uring.
    BlockRing,
    /// The queue of a block device, by one system call after the other.
    BlockCalls,
    /// A memory balloon.
    Balloon,
    /// A pair of a network card's queues.
    Net,
    /// A socket device.
    Vsock,
    /// The server of the control socket.
    Api,
    /// A network without a TAP.
    UserNetwork,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 12] = [
        Self::Machine,
        Self::AttendedMachine,
        Self::RestartingMachine,
        Self::Vcpu,
        Self::VcpuWithDevices,
        Self::BlockRing,
        Self::BlockCalls,
        Self::Balloon,
        Self::Net,
        Self::Vsock,
        Self::Api,
        Self::UserNetwork,
    ];
}

/// Confines the calling thread and all threads that it creates from now on: no capabilities, no new privileges, no
/// paths, no ports. To be called when everything that the machine needs is open, before its threads exist.
///
/// # Errors
/// When any part fails, except that a kernel without Landlock is reported and not an error.
pub fn confine_process() -> Result<PathsGone, SandboxError> {
    give_up_privileges()?;
    paths::give_up()
}

/// Confines the calling thread as [`confine_process`] does, except that it may reach the network.
///
/// # Errors
/// When any part fails, except that a kernel without Landlock is no error.
pub fn confine_outpost() -> Result<(), SandboxError> {
    give_up_privileges()?;
    paths::give_up_but_network().map(drop)
}

fn give_up_privileges() -> Result<(), SandboxError> {
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets)
        .map_err(|error| SandboxError::Capabilities(error.into()))?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| SandboxError::NoNewPrivileges(error.into()))
}
