use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{
    Role, SandboxError,
    rules::{self, Argument, Rule},
};

/// A compiled seccomp filter: what is not allowed raises SIGSYS, whose handler ends the process.
#[derive(Clone, Debug)]
pub struct Filter(BpfProgram);

impl Filter {
    /// The filter of `role`.
    ///
    /// # Errors
    /// Never in practice: the rules are constants.
    pub fn new(role: Role) -> Result<Self, SandboxError> {
        let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for rule in rules::of(role) {
            let alternatives = allowed.entry(rule.number).or_default();
            if !rule.arguments.is_empty() {
                alternatives.push(SeccompRule::new(conditions(rule)?)?);
            }
        }
        let filter = SeccompFilter::new(
            allowed,
            SeccompAction::Trap,
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        Ok(Self(filter.try_into()?))
    }

    /// Installs it on the calling thread, for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(&self) -> Result<(), SandboxError> {
        Ok(seccompiler::apply_filter(&self.0)?)
    }
}

fn conditions(rule: &Rule) -> Result<Vec<SeccompCondition>, SandboxError> {
    let condition = |argument: &Argument| {
        let (index, length, operator, value) = match *argument {
            Argument::Is(index, value) => (index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value),
            Argument::Masked(index, mask, value) => (
                index,
                SeccompCmpArgLen::Qword,
                SeccompCmpOp::MaskedEq(mask),
                value,
            ),
            Argument::OwnProcess(index) => (
                index,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                u64::from(std::process::id()),
            ),
        };
        Ok(SeccompCondition::new(index, length, operator, value)?)
    };
    rule.arguments.iter().map(condition).collect()
}
