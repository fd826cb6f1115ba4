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
    // SAFETY: the kernel fills in its own termios, with which the C library's begins.
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

/// Sets a terminal's modes: one system call, which every filter of the sandbox allows. The C library's `tcsetattr` may
/// make others to see what came of it.
fn set(fd: RawFd, modes: &libc::termios) -> bool {
    // SAFETY: the kernel reads its own termios, with which the C library's begins.
    unsafe { libc::ioctl(fd, libc::TCSETS, ptr::from_ref(modes)) == 0 }
}

/// Gives the terminal back as it was found. Does nothing when it was never made raw; safe in a signal handler.
pub fn restore() {
    if let Some(saved) = SAVED.get() {
        set(saved.fd, &saved.modes);
    }
}
