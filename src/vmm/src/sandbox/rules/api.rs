use super::{
    Argument::{Is, Masked},
    EVENTFD_BYTES, Rule, SOCK_PRIVATE, STDERR, request, rule,
};

const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
const SHUT_WR: u64 = 1;
const F_GETFL: u64 = 3;
const F_OFD_SETLK: u64 = 37;

/// The server of the control socket.
pub(super) const RULES: &[Rule] = &[
    rule(
        libc::SYS_ppoll,
        "ppoll",
        &[Masked(3, u64::MAX, 0)],
        "clients come, ask, and take their answers",
    ),
    rule(
        libc::SYS_accept4,
        "accept4",
        &[Masked(3, SOCK_PRIVATE, SOCK_PRIVATE)],
        "a client comes",
    ),
    rule(
        libc::SYS_recvmsg,
        "recvmsg",
        &[Masked(2, MSG_CMSG_CLOEXEC, MSG_CMSG_CLOEXEC)],
        "a client asks, and may send an image along",
    ),
    rule(
        libc::SYS_sendto,
        "sendto",
        &[Masked(4, u64::MAX, 0), Is(5, 0)],
        "a client is answered",
    ),
    rule(
        libc::SYS_shutdown,
        "shutdown",
        &[Is(1, SHUT_WR)],
        "a client has its last answer",
    ),
    rule(
        libc::SYS_write,
        "write",
        &[Is(2, EVENTFD_BYTES)],
        "the machine's thread and disks' are woken by eventfd",
    ),
    rule(
        libc::SYS_write,
        "write",
        &[Is(0, STDERR)],
        "a panic is reported",
    ),
    rule(
        libc::SYS_close,
        "close",
        &[],
        "a client has gone, or a disk has another image",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SIGNAL_MSI)],
        "a disk's driver is told of its size",
    ),
    rule(
        libc::SYS_fstat,
        "fstat",
        &[],
        "whether what a client sent is an image",
    ),
    rule(libc::SYS_lseek, "lseek", &[], "how large an image is"),
    rule(
        libc::SYS_fdatasync,
        "fdatasync",
        &[],
        "what was written to an image is kept when it goes",
    ),
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, F_GETFL)],
        "whether what a client sent can be written to",
    ),
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, F_OFD_SETLK)],
        "an image is locked",
    ),
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, 1)],
        "the standard library checks that what it closes is open",
    ),
];
