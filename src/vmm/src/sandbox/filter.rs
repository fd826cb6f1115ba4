use std::io;

use libc::sock_filter;

use super::{
    Role, SandboxError,
    program::{self, Condition},
    rules::{self, Argument, Rule},
};

/// A compiled seccomp filter: what is not allowed raises SIGSYS, whose handler ends the process.
#[derive(Clone, Debug)]
pub struct Filter(Vec<sock_filter>);

impl Filter {
    /// The filter of `role`.
    pub fn new(role: Role) -> Self {
        let mut rules: Vec<&Rule> = rules::of(role).collect();
        // Stable: alternatives of one call stay in the table's order.
        rules.sort_by_key(|rule| rule.number);
        let calls: Vec<program::Call> = rules
            .chunk_by(|a, b| a.number == b.number)
            .map(|alternatives| program::Call {
                number: u32::try_from(alternatives[0].number)
                    .expect("system calls have small numbers"),
                alternatives: alternatives.iter().map(|rule| conditions(rule)).collect(),
            })
            .collect();
        Self(program::compile(&calls))
    }

    /// Its instructions.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.0
    }

    /// Installs it on the calling thread, for good. The thread has given up the right to gain privileges.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(&self) -> Result<(), SandboxError> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).expect("a filter has a few hundred instructions"),
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: the program is valid while the call lasts, in which the kernel copies it and changes nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(SandboxError::Install(io::Error::last_os_error()))
        }
    }
}

fn conditions(rule: &Rule) -> Vec<Condition> {
    let low_half = u64::from(u32::MAX);
    rule.arguments
        .iter()
        .map(|argument| match *argument {
            Argument::Is(index, value) => Condition {
                index,
                mask: low_half,
                value,
            },
            Argument::Masked(index, mask, value) => Condition { index, mask, value },
            Argument::OwnProcess(index) => Condition {
                index,
                mask: low_half,
                value: u64::from(std::process::id()),
            },
        })
        .collect()
}
