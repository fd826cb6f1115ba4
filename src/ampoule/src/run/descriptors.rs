//! How many descriptors this process may have.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for `wanted` of them, if it may not have as many yet, as far as its hard limit goes; how many it may have now.
pub(super) fn raise(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // None is without end.
    let most = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    let now = limit.current.unwrap_or(u64::MAX);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    match now < most && setrlimit(Resource::Nofile, raised).is_ok() {
        true => most,
        false => now,
    }
}
