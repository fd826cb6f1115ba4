use super::{
    Argument::{Is, Masked},
    EVENTFD_BYTES, Rule, SHUT_WR, SOCK_PRIVATE, STDERR, request, rule,
};

const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
const F_GETFL: u64 = 3;
const F_OFD_SETLK: u64 = 37;

/// ioctl requests about interfaces (`linux/if_tun.h`, `linux/sockios.h`).
mod tun {
    pub(super) const TUNSETIFF: u64 = 0x4004_54ca;
    pub(super) const TUNSETOFFLOAD: u64 = 0x4004_54d0;
    pub(super) const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
    pub(super) const TUNSETVNETLE: u64 = 0x4004_54dc;
    pub(super) const SIOCGIFFLAGS: u64 = 0x8913;
    pub(super) const SIOCGIFMTU: u64 = 0x8921;
    pub(super) const SIOCETHTOOL: u64 = 0x8946;
}

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
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, tun::TUNSETIFF)],
        "a network card that comes gets its TAP, by an open /dev/net/tun",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, tun::TUNSETVNETHDRSZ)],
        "a new card's TAP is told of headers",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, tun::TUNSETVNETLE)],
        "a new card's TAP is told of their byte order",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, tun::TUNSETOFFLOAD)],
        "what a new card's TAP can do",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, tun::SIOCGIFFLAGS)],
        "whether the interface that a client names is there, and up",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, tun::SIOCETHTOOL)],
        "whether it is a TAP",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, tun::SIOCGIFMTU)],
        "the longest packet that it takes",
    ),
    rule(
        libc::SYS_epoll_ctl,
        "epoll_ctl",
        &[Is(1, 1)],
        "a new card's thread hears of its TAP",
    ),
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, 1)],
        "the standard library checks that what it closes is open",
    ),
];
