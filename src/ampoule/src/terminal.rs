//! The user's terminal: raw while a guest has it, restored on every way out.
use std::{
    mem,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
    sync::OnceLock,
};

struct Saved {
    fd: RawFd,
    modes: libc::termios,
}

static SAVED: OnceLock<Saved> = OnceLock::new();

/// Passes every byte of `terminal` through in both directions, until [`restore`]. False when it is no terminal.
pub fn make_raw(terminal: BorrowedFd) -> bool {
    let fd = terminal.as_raw_fd();
    // SAFETY: termios is integers and arrays of integers, of which zero is a value.
    let mut modes: libc::termios = unsafe { mem::zeroed() };
    // SAFETY: `modes` is live; the kernel fills in the first part of it, which is all that it knows of.
    if unsafe { libc::ioctl(fd, libc::TCGETS, &raw mut modes) } != 0 {
        return false;
    }
    let mut raw = modes;
    // SAFETY: `raw` holds a terminal's modes.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    if SAVED.set(Saved { fd, modes }).is_err() {
        return false;
    }
    set(fd, &raw)
}

/// Gives the terminal back as it was found. Does nothing when it was never made raw; safe in a signal handler.
pub fn restore() {
    if let Some(saved) = SAVED.get() {
        set(saved.fd, &saved.modes);
    }
}

/// Sets the modes at once, by the one system call that this takes: glibc's `tcsetattr` makes a second one to check the
/// first, and by then the sandbox stands.
fn set(fd: RawFd, modes: &libc::termios) -> bool {
    // SAFETY: `modes` were filled in by the same kernel, which reads as much of them as it wrote.
    unsafe { libc::ioctl(fd, libc::TCSETS, ptr::from_ref(modes)) == 0 }
}
