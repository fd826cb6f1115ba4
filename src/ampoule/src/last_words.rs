//! The ways out that nobody planned: panics, fatal signals, calls that the sandbox stops. Each restores the terminal,
//! says one line and ends the process with 125.
//!
//! They run under the seccomp filter of whatever thread they strike, so they write, restore and exit, and no more.
use std::{io::Write, mem, panic, ptr};

use crate::terminal;

/// Our own failure, as an exit code.
pub const FAILED: u8 = 125;

const FATAL: [(libc::c_int, &str); 4] = [
    (libc::SIGSYS, ""),
    (
        libc::SIGSEGV,
        "this program accessed memory that is not there (SIGSEGV)",
    ),
    (
        libc::SIGBUS,
        "the host could not provide memory that it had promised (SIGBUS)",
    ),
    (
        libc::SIGILL,
        "this program met an illegal instruction (SIGILL)",
    ),
];

/// Installs them for the whole process.
pub fn install() {
    panic::set_hook(Box::new(|info| {
        terminal::restore();
        let mut line = LineBuffer::new();
        let _ = writeln!(
            line,
            "ampoule: a defect of this program: {info} (hint: please report it)"
        );
        let _ = line.flush();
        exit(FAILED);
    }));
    for (signal, _) in FATAL {
        // SAFETY: sigaction is integers and an optional function pointer, of which zero is a value.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fatal;
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: the action is initialised, and its handler makes only calls that are allowed in signal handlers.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

extern "C" fn on_fatal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    terminal::restore();
    let mut line = LineBuffer::new();
    if signal == libc::SIGSYS {
        let call = system_call_of(info);
        let _ = write!(
            line,
            "ampoule: the sandbox stopped system call {call}: the guest may have broken into this program, or it has a defect"
        );
    } else if let Some((_, text)) = FATAL.iter().find(|(number, _)| *number == signal) {
        let _ = write!(line, "ampoule: {text}");
    }
    let _ = writeln!(line);
    let _ = line.flush();
    exit(FAILED);
}

/// The number of the call that a seccomp filter refused.
fn system_call_of(info: *mut libc::siginfo_t) -> i32 {
    /// The layout of `siginfo_t` for SIGSYS, `sigaction(2)`.
    #[repr(C)]
    struct Sigsys {
        signal: i32,
        errno: i32,
        code: i32,
        padding: i32,
        address: usize,
        call: i32,
    }
    // SAFETY: the kernel passes a siginfo_t, which is larger than this part of it; for SIGSYS it has this layout.
    unsafe { (*info.cast::<Sigsys>()).call }
}

/// Ends this process at once. A confined process ends so in any case: taking it apart would need more system calls than
/// it has, and time.
pub fn exit(code: u8) -> ! {
    // SAFETY: ends the process without running anything else of it; what it wrote was not buffered.
    unsafe { libc::_exit(i32::from(code)) }
}

/// A line put together without the allocator, which a fatal signal may have interrupted.
struct LineBuffer {
    bytes: [u8; 512],
    length: usize,
}

impl LineBuffer {
    fn new() -> Self {
        Self {
            bytes: [0; 512],
            length: 0,
        }
    }
}

impl Write for LineBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = self.bytes.len() - self.length;
        let taken = bytes.len().min(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        // SAFETY: the buffer is live and that long.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.length) };
        self.length = 0;
        Ok(())
    }
}
