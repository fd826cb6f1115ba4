use super::{
    AF_UNIX,
    Argument::{Is, Masked},
    MSG_PEEK, PRIVATE_STREAM, Rule, SHUT_WR, SOCK_PRIVATE, STDERR, rule,
};

const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
/// `SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK`.
const PRIVATE_DATAGRAMS: u64 = 0x8_0802;
const SOL_SOCKET: u64 = 1;
const SOL_TCP: u64 = 6;
const TCP_NODELAY: u64 = 1;
const SO_ERROR: u64 = 4;
const SO_OOBINLINE: u64 = 10;
const SO_LINGER: u64 = 13;
const SO_PEEK_OFF: u64 = 42;
const SO_MEMINFO: u64 = 55;
const TIOCOUTQ: u64 = 0x5411;

/// A network without a TAP. Where it connects to is behind a pointer, which no filter sees: that is for the network's own policy.
pub(super) const RULES: &[Rule] = &[
    rule(
        libc::SYS_epoll_pwait,
        "epoll_pwait",
        &[Masked(4, u64::MAX, 0)],
        "the guest sends, or something has come over a socket, or time is up",
    ),
    rule(
        libc::SYS_epoll_ctl,
        "epoll_ctl",
        &[],
        "a new socket is watched, or asked again whether it has room",
    ),
    rule(
        libc::SYS_recvfrom,
        "recvfrom",
        &[],
        "the guest's frames, and datagrams for it; bytes that it has got are taken",
    ),
    rule(
        libc::SYS_recvmsg,
        "recvmsg",
        &[Is(2, MSG_PEEK)],
        "a stream's bytes for the guest, which stay until it has them",
    ),
    rule(libc::SYS_sendmsg, "sendmsg", &[], "frames for the guest"),
    rule(
        libc::SYS_sendto,
        "sendto",
        &[],
        "a stream's bytes and datagrams of the guest's",
    ),
    rule(
        libc::SYS_socket,
        "socket",
        &[Is(0, AF_INET), Is(1, PRIVATE_STREAM), Is(2, 0)],
        "the guest connects, by IPv4",
    ),
    rule(
        libc::SYS_socket,
        "socket",
        &[Is(0, AF_INET6), Is(1, PRIVATE_STREAM), Is(2, 0)],
        "the guest connects, by IPv6",
    ),
    rule(
        libc::SYS_socket,
        "socket",
        &[Is(0, AF_INET), Is(1, PRIVATE_DATAGRAMS)],
        "the guest sends a datagram or an echo request, by IPv4",
    ),
    rule(
        libc::SYS_socket,
        "socket",
        &[Is(0, AF_INET6), Is(1, PRIVATE_DATAGRAMS)],
        "the guest sends a datagram or an echo request, by IPv6",
    ),
    rule(
        libc::SYS_socketpair,
        "socketpair",
        &[Is(0, AF_UNIX), Is(1, PRIVATE_STREAM), Is(2, 0)],
        "the guest asks for names over TCP",
    ),
    rule(libc::SYS_connect, "connect", &[], "the guest connects"),
    rule(
        libc::SYS_accept4,
        "accept4",
        &[Masked(3, SOCK_PRIVATE, SOCK_PRIVATE)],
        "a client comes to a port that is published",
    ),
    rule(
        libc::SYS_shutdown,
        "shutdown",
        &[Is(1, SHUT_WR)],
        "the guest ends one direction",
    ),
    rule(
        libc::SYS_setsockopt,
        "setsockopt",
        &[Is(1, SOL_TCP), Is(2, TCP_NODELAY)],
        "the guest has gathered what it sends",
    ),
    rule(
        libc::SYS_setsockopt,
        "setsockopt",
        &[Is(1, SOL_SOCKET), Is(2, SO_OOBINLINE)],
        "a stream has no byte beside it",
    ),
    rule(
        libc::SYS_setsockopt,
        "setsockopt",
        &[Is(1, SOL_SOCKET), Is(2, SO_LINGER)],
        "the guest breaks a connection",
    ),
    rule(
        libc::SYS_setsockopt,
        "setsockopt",
        &[Is(1, SOL_SOCKET), Is(2, SO_PEEK_OFF)],
        "what was looked at is looked past",
    ),
    rule(
        libc::SYS_getsockopt,
        "getsockopt",
        &[Is(1, SOL_SOCKET), Is(2, SO_ERROR)],
        "what a connection came to",
    ),
    rule(
        libc::SYS_getsockopt,
        "getsockopt",
        &[Is(1, SOL_SOCKET), Is(2, SO_MEMINFO)],
        "how much a socket takes",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, TIOCOUTQ)],
        "how many frames the guest has not taken",
    ),
    rule(libc::SYS_close, "close", &[], "a connection has gone"),
    rule(
        libc::SYS_write,
        "write",
        &[Is(0, STDERR)],
        "a panic is reported, and what was denied",
    ),
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, 1)],
        "the standard library checks that what it closes is open",
    ),
];
