//! The console's ends: this process's stdin and stdout, such that waiting for either stops nobody else.
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstat},
    process::getpgrp,
    termios::{isatty, tcgetpgrp},
};
use vmm::machine::console::{Ends, PlainKeys};

use super::keys::TerminalKeys;
use crate::terminal;

/// Takes stdin and stdout for the console, and a terminal in raw mode.
pub(super) fn take() -> Ends {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let typed = isatty(&stdin);
    // A background job that reads its terminal is stopped, guest and all: it gets no input instead.
    let forbidden = typed && !tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == getpgrp());
    let input = if forbidden {
        None
    } else {
        own(stdin.as_fd(), OFlags::RDONLY)
    };
    let output = own(stdout.as_fd(), OFlags::WRONLY);
    if typed && !forbidden && isatty(&stdout) && terminal::make_raw(stdin.as_fd()) {
        eprint!("ampoule: Ctrl-A h for help, Ctrl-A x to quit\r\n");
        return Ends {
            input,
            output,
            keys: Box::new(TerminalKeys::default()),
        };
    }
    Ends {
        input,
        output,
        keys: Box::new(PlainKeys),
    }
}

/// A description of our own for a pipe or a terminal, non-blocking: the flag would otherwise be everybody's who shares
/// it. A file's is shared, and with it the position; a socket cannot be opened again. None for a closed descriptor.
fn own(fd: BorrowedFd, access: OFlags) -> Option<File> {
    let kind = FileType::from_raw_mode(fstat(fd).ok()?.st_mode);
    if matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(own) = rustix::fs::open(path, flags, Mode::empty()) {
            return Some(own.into());
        }
    }
    rustix::io::fcntl_dupfd_cloexec(fd, 3).ok().map(File::from)
}
