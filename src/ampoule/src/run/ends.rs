//! The console's ends: this process's stdin and stdout, such that waiting for either stops nobody else.
use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
};

use vmm::machine::console::{Ends, PlainKeys};

use super::keys::TerminalKeys;
use crate::terminal;

/// Takes stdin and stdout for the console, and a terminal in raw mode.
pub(super) fn take() -> Ends {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let interactive = terminal::is_interactive(stdin.as_fd(), stdout.as_fd());
    // A background job that reads its terminal is stopped, guest and all: it gets no input instead.
    let forbidden = rustix::termios::isatty(&stdin) && !in_foreground(stdin.as_fd());
    let input = if forbidden {
        None
    } else {
        own(stdin.as_fd(), OpenOptions::new().read(true))
    };
    let output = own(stdout.as_fd(), OpenOptions::new().write(true));
    if interactive && terminal::make_raw(stdin.as_fd()) {
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

fn in_foreground(terminal: BorrowedFd) -> bool {
    rustix::termios::tcgetpgrp(terminal)
        .is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

/// A description of our own for a pipe or a terminal, non-blocking: the flag would otherwise be everybody's who shares
/// it. A file's is shared, and with it the position; a socket cannot be opened again. None for a closed descriptor.
fn own(fd: BorrowedFd, options: &mut OpenOptions) -> Option<File> {
    let shared = File::from(fd.try_clone_to_owned().ok()?);
    let kind = shared.metadata().ok()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return Some(shared);
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Some(options.custom_flags(flags).open(path).unwrap_or(shared))
}
