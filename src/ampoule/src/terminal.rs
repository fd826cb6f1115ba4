//! The user's terminal: raw while a guest has it, restored on every way out.
use std::{
    mem,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
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
    // SAFETY: `modes` is live and of the type that the call fills in.
    if unsafe { libc::tcgetattr(fd, &raw mut modes) } != 0 {
        return false;
    }
    let mut raw = modes;
    // SAFETY: `raw` holds a terminal's modes.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    if SAVED.set(Saved { fd, modes }).is_err() {
        return false;
    }
    // SAFETY: as above.
    unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) == 0 }
}

/// Gives the terminal back as it was found. Does nothing when it was never made raw; safe in a signal handler.
pub fn restore() {
    if let Some(saved) = SAVED.get() {
        // SAFETY: the modes are those that the terminal had; the call is one ioctl, which is allowed in signal handlers.
        unsafe { libc::tcsetattr(saved.fd, libc::TCSANOW, &raw const saved.modes) };
    }
}
