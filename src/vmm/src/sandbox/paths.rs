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
    restrict(files()?.handle_access(AccessNet::from_all(NEWEST))?)
}

/// The same without ports: the host's network stays in reach.
pub(super) fn give_up_but_network() -> Result<PathsGone, SandboxError> {
    restrict(files()?)
}

const NEWEST: ABI = ABI::V6;

fn files() -> Result<Ruleset, SandboxError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    Ok(ruleset.handle_access(AccessFs::from_all(NEWEST))?)
}

fn restrict(ruleset: Ruleset) -> Result<PathsGone, SandboxError> {
    let newest = NEWEST;
    let status = ruleset
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => PathsGone::Fully,
        RulesetStatus::PartiallyEnforced => PathsGone::Partially,
        RulesetStatus::NotEnforced => PathsGone::NotAtAll,
    })
}
