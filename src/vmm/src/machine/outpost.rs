//! A thread that keeps the host's network when the rest of this process gives it up.
use std::{
    io,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, Builder},
};

use super::{MachineError, Policy};
use crate::sandbox::{self, Filter, Role, SandboxError};

/// A guest's network, which reaches out by ordinary sockets.
pub struct Outpost {
    /// What its thread is called.
    pub name: String,
    /// What it does, as long as the machine lives.
    pub work: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Outpost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Outpost {
    /// What its thread needs besides its stack for libraries: frames lie in it.
    const STACK: usize = 512 << 10;

    /// Starts the thread, and comes back when it is confined. To be called before the process is: a thread inherits what its maker
    /// gave up, and can only give up more.
    pub(super) fn start(self, policy: Policy) -> Result<(), MachineError> {
        let failed = |error| MachineError::Host("a thread", error);
        let (confined, is_confined) = sync_channel(1);
        let thread = Builder::new().name(self.name).stack_size(Self::STACK);
        let work = self.work;
        thread
            .spawn(move || {
                if confine(policy, &confined) {
                    work();
                }
                // The end of a thread takes calls that it has no right to: it ends with its process.
                loop {
                    thread::park();
                }
            })
            .map_err(failed)?;
        match is_confined.recv() {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(failed(io::ErrorKind::Other.into())),
        }
    }
}

/// Confines the calling thread, and tells how that went.
fn confine(policy: Policy, told: &SyncSender<Result<(), SandboxError>>) -> bool {
    let outcome = match policy.sandbox {
        true => sandbox::confine_outpost().and_then(|()| Filter::new(Role::UserNetwork).install()),
        false => Ok(()),
    };
    let confined = outcome.is_ok();
    // There is room for it, and somebody waits.
    let _ = told.try_send(outcome);
    confined
}
