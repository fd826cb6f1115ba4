//! A pair of a network card's queues.
use super::{Is, Rule, rule};

/// `TUNSETOFFLOAD` and `TUNSETQUEUE` (`linux/if_tun.h`).
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETQUEUE: u64 = 0x4004_54d9;

pub(super) const RULES: &[Rule] = &[
    rule(libc::SYS_readv, "readv", &[], "the guest receives"),
    rule(libc::SYS_writev, "writev", &[], "the guest sends"),
    #[cfg(target_env = "musl")]
    rule(
        libc::SYS_epoll_pwait,
        "epoll_pwait",
        &[],
        "the TAP, the doorbell, or the rate limiter's time",
    ),
    #[cfg(not(target_env = "musl"))]
    rule(
        libc::SYS_epoll_wait,
        "epoll_wait",
        &[],
        "the TAP, the doorbell, or the rate limiter's time",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, TUNSETOFFLOAD)],
        "the driver says what it takes",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, TUNSETQUEUE)],
        "the driver says how many pairs it uses",
    ),
];
