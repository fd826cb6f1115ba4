use super::{Argument::Is, EVENTFD_BYTES, MADV_DONTNEED, MADV_REMOVE, Rule, rule};

/// A memory balloon.
pub(super) const RULES: &[Rule] = &[
    rule(
        libc::SYS_read,
        "read",
        &[Is(2, EVENTFD_BYTES)],
        "the doorbell",
    ),
    rule(
        libc::SYS_ppoll,
        "ppoll",
        &[Is(1, 1)],
        "the doorbell, or the time for statistics",
    ),
    rule(
        libc::SYS_madvise,
        "madvise",
        &[Is(2, MADV_DONTNEED)],
        "pages of private memory go back to the host",
    ),
    rule(
        libc::SYS_madvise,
        "madvise",
        &[Is(2, MADV_REMOVE)],
        "pages of shared memory go back to the host",
    ),
];
