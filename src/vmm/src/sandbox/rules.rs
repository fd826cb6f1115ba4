//! Every system call that a thread may make once a guest runs, and why. All others are fatal.
mod api;
mod balloon;
mod net;
mod user_network;
mod vsock;

use serde::Serialize;

use super::Role;

/// A condition on one argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// Argument `.0`, as 32 bits, is `.1`.
    Is(u8, u64),
    /// Argument `.0`, as 64 bits and masked with `.1`, is `.2`.
    Masked(u8, u64, u64),
    /// Argument `.0` is this process's id.
    OwnProcess(u8),
}

use Argument::{Is, Masked, OwnProcess};

/// One allowed use of a system call. A call may have several rules; any of them allows it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rule {
    /// The call's number.
    pub number: i64,
    /// The call's name.
    pub name: &'static str,
    /// Conditions, all of which must hold.
    pub arguments: &'static [Argument],
    /// What it is for.
    pub why: &'static str,
}

const fn rule(
    number: i64,
    name: &'static str,
    arguments: &'static [Argument],
    why: &'static str,
) -> Rule {
    Rule {
        number,
        name,
        arguments,
        why,
    }
}

/// ioctl requests, as `<linux/kvm.h>` and `<asm/ioctls.h>` define them.
mod request {
    pub(super) const KVM_RUN: u64 = 0xae80;
    pub(super) const KVM_GET_REGS: u64 = 0x8090_ae81;
    pub(super) const KVM_GET_SREGS: u64 = 0x8138_ae83;
    pub(super) const KVM_TRANSLATE: u64 = 0xc018_ae85;
    pub(super) const KVM_SIGNAL_MSI: u64 = 0x4020_aea5;
    pub(super) const KVM_IOEVENTFD: u64 = 0x4040_ae79;
    pub(super) const KVM_REGISTER_COALESCED_MMIO: u64 = 0x4010_ae67;
    pub(super) const TCSETS: u64 = 0x5402;
    // Power-on.
    pub(super) const KVM_CREATE_VM: u64 = 0xae01;
    pub(super) const KVM_CHECK_EXTENSION: u64 = 0xae03;
    pub(super) const KVM_GET_VCPU_MMAP_SIZE: u64 = 0xae04;
    pub(super) const KVM_GET_SUPPORTED_CPUID: u64 = 0xc008_ae05;
    pub(super) const KVM_CREATE_VCPU: u64 = 0xae41;
    pub(super) const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
    pub(super) const KVM_SET_TSS_ADDR: u64 = 0xae47;
    pub(super) const KVM_SET_IDENTITY_MAP_ADDR: u64 = 0x4008_ae48;
    pub(super) const KVM_ENABLE_CAP: u64 = 0x4068_aea3;
    pub(super) const KVM_SET_REGS: u64 = 0x4090_ae82;
    pub(super) const KVM_SET_SREGS: u64 = 0x4138_ae84;
    pub(super) const KVM_SET_MSRS: u64 = 0x4008_ae89;
    pub(super) const KVM_SET_CPUID2: u64 = 0x4008_ae90;
}

const PROT_EXEC: u64 = 4;
const MAP_ANONYMOUS_PRIVATE: u64 = 0x22;
const MAP_SHARED: u64 = 1;
const MADV_DONTNEED: u64 = 4;
const MADV_REMOVE: u64 = 9;
const STDERR: u64 = 2;
const EVENTFD_BYTES: u64 = 8;
/// `SOCK_CLOEXEC | SOCK_NONBLOCK`.
const SOCK_PRIVATE: u64 = 0x8_0800;
const AF_UNIX: u64 = 1;
/// `SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK`.
const PRIVATE_STREAM: u64 = 0x8_0801;
const MSG_PEEK: u64 = 2;
const SHUT_WR: u64 = 1;
const IORING_REGISTER_FILES_UPDATE: u64 = 6;

/// The real-time signal that calls a vCPU out of the guest: the first that the C library leaves to programs.
#[cfg(target_env = "musl")]
pub const KICK_SIGNAL: u64 = 35;
/// The real-time signal that calls a vCPU out of the guest: the first that the C library leaves to programs.
#[cfg(not(target_env = "musl"))]
pub const KICK_SIGNAL: u64 = 34;

/// What every thread needs to live, and to say its last words: a panic and a fatal signal restore the terminal, print
/// one line and end the process.
const COMMON: &[Rule] = &[
    rule(
        libc::SYS_futex,
        "futex",
        &[],
        "locks and condition variables",
    ),
    rule(
        libc::SYS_mmap,
        "mmap",
        &[
            Masked(2, PROT_EXEC, 0),
            Masked(3, MAP_ANONYMOUS_PRIVATE, MAP_ANONYMOUS_PRIVATE),
        ],
        "the allocator",
    ),
    rule(libc::SYS_munmap, "munmap", &[], "the allocator"),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::TCSETS)],
        "the terminal is restored",
    ),
    rule(
        libc::SYS_clock_gettime,
        "clock_gettime",
        &[],
        "the time, where this host's clock cannot be read without a call",
    ),
    rule(libc::SYS_exit_group, "exit_group", &[], "the end"),
    // A guest can have more kept for it than the program's own arena holds: long chains, thousands of connections.
    #[cfg(target_env = "musl")]
    rule(libc::SYS_brk, "brk", &[], "musl's allocator grows"),
    #[cfg(target_env = "musl")]
    rule(
        libc::SYS_mprotect,
        "mprotect",
        &[Masked(2, PROT_EXEC, 0)],
        "musl's allocator grows",
    ),
    rule(
        libc::SYS_mremap,
        "mremap",
        &[],
        "the allocator grows a large block",
    ),
    #[cfg(not(target_env = "musl"))]
    rule(
        libc::SYS_mprotect,
        "mprotect",
        &[Masked(2, PROT_EXEC, 0)],
        "glibc grows an arena",
    ),
    #[cfg(not(target_env = "musl"))]
    rule(
        libc::SYS_madvise,
        "madvise",
        &[Is(2, MADV_DONTNEED)],
        "glibc shrinks an arena; private guest RAM is cleared",
    ),
];

const VCPU: &[Rule] = &[
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_RUN)],
        "the guest runs",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SIGNAL_MSI)],
        "a device interrupts",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_REGISTER_COALESCED_MMIO)],
        "from the first access to the I/O APIC on, half of them are no exits",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_GET_REGS)],
        "a crash is reported",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_GET_SREGS)],
        "a crash is reported",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_TRANSLATE)],
        "a crash is reported",
    ),
    rule(
        libc::SYS_write,
        "write",
        &[Is(2, EVENTFD_BYTES)],
        "the machine's thread is woken by eventfd",
    ),
    rule(
        libc::SYS_write,
        "write",
        &[Is(0, STDERR)],
        "a panic is reported",
    ),
    rule(
        libc::SYS_rt_sigreturn,
        "rt_sigreturn",
        &[],
        "the handler of the kick returns",
    ),
];

/// A vCPU of a machine with virtio devices.
const VCPU_WITH_DEVICES: &[Rule] = &[rule(
    libc::SYS_ioctl,
    "ioctl",
    &[Is(1, request::KVM_IOEVENTFD)],
    "a driver that is ready rings without an exit",
)];

/// What the thread of any device needs.
const DEVICE: &[Rule] = &[
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SIGNAL_MSI)],
        "the device interrupts",
    ),
    rule(
        libc::SYS_write,
        "write",
        &[Is(0, STDERR)],
        "an error of the host's or the guest's is reported, or a panic",
    ),
];

/// What every thread of a block device needs besides.
const BLOCK: &[Rule] = &[
    rule(
        libc::SYS_close,
        "close",
        &[],
        "the image goes in whose place another came",
    ),
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, 1)],
        "the standard library checks that what it closes is open",
    ),
];

/// Files and operations are the ring's own restrictions' matter.
const BLOCK_RING: &[Rule] = &[
    rule(
        libc::SYS_io_uring_enter,
        "io_uring_enter",
        &[],
        "the guest reads, writes, flushes, discards, zeroes, rings",
    ),
    rule(
        libc::SYS_io_uring_register,
        "io_uring_register",
        &[Is(1, IORING_REGISTER_FILES_UPDATE)],
        "another image in the place of the disk's",
    ),
    rule(
        libc::SYS_write,
        "write",
        &[Is(2, EVENTFD_BYTES)],
        "another queue's thread is rung: it may flush now",
    ),
];

const BLOCK_CALLS: &[Rule] = &[
    rule(
        libc::SYS_read,
        "read",
        &[Is(2, EVENTFD_BYTES)],
        "the doorbell",
    ),
    rule(
        libc::SYS_write,
        "write",
        &[Is(2, EVENTFD_BYTES)],
        "a call is done",
    ),
    rule(
        libc::SYS_ppoll,
        "ppoll",
        &[Is(1, 1)],
        "the doorbell, or the rate limiter's time",
    ),
    rule(libc::SYS_preadv, "preadv", &[], "the guest reads"),
    rule(libc::SYS_pwritev, "pwritev", &[], "the guest writes"),
    rule(libc::SYS_fdatasync, "fdatasync", &[], "the guest flushes"),
    rule(
        libc::SYS_fallocate,
        "fallocate",
        &[],
        "the guest discards or zeroes",
    ),
];

const MACHINE: &[Rule] = &[
    #[cfg(target_env = "musl")]
    rule(libc::SYS_epoll_pwait, "epoll_pwait", &[], "the event loop"),
    #[cfg(not(target_env = "musl"))]
    rule(libc::SYS_epoll_wait, "epoll_wait", &[], "the event loop"),
    rule(
        libc::SYS_epoll_ctl,
        "epoll_ctl",
        &[],
        "console descriptors come and go with flow control",
    ),
    rule(libc::SYS_read, "read", &[], "stdin, events, signals"),
    rule(
        libc::SYS_write,
        "write",
        &[],
        "stdout, stderr, events, the timeline",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SIGNAL_MSI)],
        "a device interrupts",
    ),
    rule(
        libc::SYS_close,
        "close",
        &[],
        "stdin ended, nobody reads stdout, the previous VM goes",
    ),
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        "fcntl",
        &[Is(1, 1)],
        "the standard library checks that what it closes is open",
    ),
];

/// A machine whose vCPUs stop before its guest ends: it is paused, or powers on again.
const KICK: &[Rule] = &[rule(
    libc::SYS_tgkill,
    "tgkill",
    &[OwnProcess(0), Is(2, KICK_SIGNAL)],
    "vCPUs are called out of the guest",
)];

/// A machine that powers on again makes a new VM out of what is open already.
const POWER_ON: &[Rule] = &[
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_CREATE_VM)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_CHECK_EXTENSION)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_GET_VCPU_MMAP_SIZE)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_GET_SUPPORTED_CPUID)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_CREATE_VCPU)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SET_USER_MEMORY_REGION)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SET_TSS_ADDR)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SET_IDENTITY_MAP_ADDR)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_ENABLE_CAP)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_GET_SREGS)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SET_SREGS)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SET_REGS)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SET_MSRS)],
        "power-on",
    ),
    rule(
        libc::SYS_ioctl,
        "ioctl",
        &[Is(1, request::KVM_SET_CPUID2)],
        "power-on",
    ),
    rule(
        libc::SYS_mmap,
        "mmap",
        &[Masked(2, PROT_EXEC, 0), Masked(3, MAP_SHARED, MAP_SHARED)],
        "the page shared with a vCPU",
    ),
    rule(
        libc::SYS_lseek,
        "lseek",
        &[],
        "kernel and initrd are read again",
    ),
    rule(
        libc::SYS_pread64,
        "pread64",
        &[],
        "kernel and initrd are read again",
    ),
    #[cfg(target_env = "musl")]
    rule(
        libc::SYS_madvise,
        "madvise",
        &[Is(2, MADV_DONTNEED)],
        "private guest RAM is cleared",
    ),
    rule(
        libc::SYS_madvise,
        "madvise",
        &[Is(2, MADV_REMOVE)],
        "shared guest RAM is cleared",
    ),
];

/// The rules of `role`.
pub fn of(role: Role) -> impl Iterator<Item = &'static Rule> {
    let own: [&[Rule]; 3] = match role {
        Role::Machine => [MACHINE, &[], &[]],
        Role::AttendedMachine => [MACHINE, KICK, &[]],
        Role::RestartingMachine => [MACHINE, KICK, POWER_ON],
        Role::Vcpu => [VCPU, &[], &[]],
        Role::VcpuWithDevices => [VCPU, VCPU_WITH_DEVICES, &[]],
        Role::BlockRing => [DEVICE, BLOCK, BLOCK_RING],
        Role::BlockCalls => [DEVICE, BLOCK, BLOCK_CALLS],
        Role::Balloon => [DEVICE, balloon::RULES, &[]],
        Role::Net => [DEVICE, net::RULES, &[]],
        Role::Vsock => [DEVICE, vsock::RULES, &[]],
        Role::Api => [api::RULES, &[], &[]],
        Role::UserNetwork => [user_network::RULES, &[], &[]],
    };
    COMMON.iter().chain(own.into_iter().flatten())
}
