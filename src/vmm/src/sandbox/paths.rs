use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};

use super::SandboxError;

/// How much of Landlock the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathsGone {
    /// All that this program asks for.
    Fully,
    /// An older Landlock: files are out of reach; TCP ports, abstract sockets or signals may not be.
    Partially,
    /// The kernel has no Landlock. seccomp still denies every call that takes a path.
    NotAtAll,
}

/// Denies every access to the file system by path, TCP bind and connect, abstract UNIX sockets and signals to other
/// processes. There is not one exception: what is needed is open.
pub(super) fn give_up() -> Result<PathsGone, SandboxError> {
    let newest = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => PathsGone::Fully,
        RulesetStatus::PartiallyEnforced => PathsGone::Partially,
        RulesetStatus::NotEnforced => PathsGone::NotAtAll,
    })
}
