use super::{
    AF_UNIX,
    Argument::{Is, Masked},
    MSG_PEEK, PRIVATE_STREAM, Rule, SOCK_PRIVATE, rule,
};

/// `O_PATH | O_CLOEXEC | O_NOFOLLOW | O_LARGEFILE`: nothing can be read or written by such a descriptor.
const PLACE_ONLY: u64 = 0x2a_8000;
const MSG_NOSIGNAL: u64 = 0x4000;

/// A socket device. To connect is to give a path, which no filter sees: of all paths, it opens none but to look where it leads.
pub(super) const RULES: &[Rule] = &[
    rule(
        libc::SYS_epoll_pwait,
        "epoll_pwait",
        &[Masked(4, u64::MAX, 0)],
        "the guest rings, or something has come over a socket, or room there",
    ),
    rule(
        libc::SYS_epoll_ctl,
        "epoll_ctl",
        &[Is(1, 1)],
        "a new connection is watched",
    ),
    rule(
        libc::SYS_accept4,
        "accept4",
        &[Masked(3, SOCK_PRIVATE, SOCK_PRIVATE)],
        "a client on the host comes",
    ),
    rule(
        libc::SYS_recvmsg,
        "recvmsg",
        &[Is(2, 0)],
        "data for the guest",
    ),
    rule(
        libc::SYS_recvmsg,
        "recvmsg",
        &[Is(2, MSG_PEEK)],
        "a client says where it wants to go",
    ),
    rule(
        libc::SYS_sendmsg,
        "sendmsg",
        &[Is(2, MSG_NOSIGNAL)],
        "data of the guest's, and the answer to a client",
    ),
    rule(
        libc::SYS_shutdown,
        "shutdown",
        &[],
        "the guest ends one direction",
    ),
    rule(
        libc::SYS_openat,
        "openat",
        &[Is(2, PLACE_ONLY)],
        "the guest connects: whether a socket is there",
    ),
    rule(
        libc::SYS_fstat,
        "fstat",
        &[],
        "the guest connects: whether it is a socket",
    ),
    rule(
        libc::SYS_socket,
        "socket",
        &[Is(0, AF_UNIX), Is(1, PRIVATE_STREAM), Is(2, 0)],
        "the guest connects",
    ),
    rule(libc::SYS_connect, "connect", &[], "the guest connects"),
    rule(libc::SYS_close, "close", &[], "a connection has gone"),
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, 1)],
        "the standard library checks that what it closes is open",
    ),
];
