use seccompiler::{BpfProgram, sock_filter};

use super::{
    Role, SandboxError,
    program::{self, Condition},
    rules::{self, Argument, Rule},
};

/// A compiled seccomp filter: what is not allowed raises SIGSYS, whose handler ends the process.
#[derive(Clone, Debug)]
pub struct Filter(BpfProgram);

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

    /// Installs it on the calling thread, for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(&self) -> Result<(), SandboxError> {
        Ok(seccompiler::apply_filter(&self.0)?)
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
