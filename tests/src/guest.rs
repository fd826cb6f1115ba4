use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    process::{Child, ExitStatus},
    sync::Arc,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};
use tempfile::NamedTempFile;

use crate::{
    Launch,
    deadline::Deadline,
    terminal::Terminal,
    transcript::{Missing, Transcript},
};

/// A running `ampoule` and the guest in it. Killed when it goes out of scope.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    streams: Streams,
    deadline: Deadline,
    reaped: bool,
    /// Whether what it said has been told, with why a test failed.
    told: bool,
    _files: Vec<Arc<NamedTempFile>>,
}

/// The test's ends of its streams.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) input: Option<File>,
    pub(crate) console: Transcript,
    pub(crate) errors: Transcript,
    /// Output that nobody reads yet.
    pub(crate) unread: Option<File>,
}

/// How it ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code, as a shell tells it: 128+n when signal n killed it.
    pub code: i32,
    /// The guest's output.
    pub stdout: Vec<u8>,
    /// What the program itself said.
    pub stderr: String,
}

impl Finished {
    /// The guest's output, as text.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Guest {
    /// Starts `ampoule run` with these arguments, and a pipe to each of its streams.
    pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Launch::run(arguments).start()
    }

    /// Starts `ampoule run` with these arguments on a terminal of its own.
    pub fn on_terminal<A: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = A>,
    ) -> (Self, Terminal) {
        Launch::run(arguments).on_terminal()
    }

    pub(crate) fn of(
        child: Child,
        streams: Streams,
        deadline: Deadline,
        files: Vec<Arc<NamedTempFile>>,
    ) -> Self {
        Self {
            child,
            streams,
            deadline,
            reaped: false,
            told: false,
            _files: files,
        }
    }

    /// Waits until the guest has printed `text`, behind the text that was waited for before.
    ///
    /// # Panics
    /// When the guest ends without having printed it, or takes too long.
    pub fn wait_for(&mut self, text: &str) {
        let found = self
            .streams
            .console
            .wait_for(text.as_bytes(), self.deadline);
        self.expect(found, || format!("{text:?} on the console"));
    }

    /// Waits until the program has said `text` on stderr, behind the text that was waited for before.
    ///
    /// # Panics
    /// When it ends without having said it, or takes too long.
    pub fn wait_for_message(&mut self, text: &str) {
        let found = self.streams.errors.wait_for(text.as_bytes(), self.deadline);
        self.expect(found, || format!("{text:?} on stderr"));
    }

    /// Waits until the guest has printed `count` bytes in all.
    ///
    /// # Panics
    /// When the guest ends without having printed so many, or takes too long.
    pub fn wait_for_bytes(&mut self, count: usize) {
        let found = self.streams.console.wait_for_bytes(count, self.deadline);
        self.expect(found, || format!("{count} bytes on the console"));
    }

    /// Types `text` and Enter.
    ///
    /// # Panics
    /// When nobody can read it any more.
    pub fn type_line(&mut self, text: &str) {
        self.type_bytes(format!("{text}\n").as_bytes());
    }

    /// Types bytes as they are.
    ///
    /// # Panics
    /// When nobody can read them any more, or they are not taken in time.
    pub fn type_bytes(&mut self, bytes: &[u8]) {
        /// A pipe that can be written to takes as much without waiting.
        const AT_ONCE: usize = 4096;
        for chunk in bytes.chunks(AT_ONCE) {
            if let Err(error) = self.type_chunk(chunk) {
                self.fail(&format!("{chunk:?} could not be typed: {error}"));
            }
        }
    }

    fn type_chunk(&self, chunk: &[u8]) -> io::Result<()> {
        let mut input: &File = self.streams.input.as_ref().expect("its input is open");
        let left = self.deadline.left().ok_or(io::ErrorKind::TimedOut)?;
        let left = Timespec::try_from(left).expect("a test's time");
        match poll(&mut [PollFd::new(input, PollFlags::OUT)], Some(&left))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => input.write_all(chunk),
        }
    }

    /// Feeds its input from a thread, as fast as it is taken, and then closes it.
    ///
    /// # Panics
    /// When the input has been closed.
    pub fn feed(&mut self, bytes: Vec<u8>) {
        let mut input = self.streams.input.take().expect("its input is open");
        // When the guest ends early, the rest is not wanted.
        thread::spawn(move || _ = input.write_all(&bytes));
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.streams.input = None;
    }

    /// Waits until the pipe of [`Launch::output_unread`] takes no more.
    ///
    /// # Panics
    /// When the program ends before, or takes too long.
    pub fn wait_until_output_stalls(&mut self) {
        const LOOK_AGAIN: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        let output = self.streams.unread.as_ref().expect("nobody reads it");
        let other_end = format!("/proc/self/fd/{}", output.as_raw_fd());
        let other_end = File::options().write(true).open(other_end);
        let other_end = other_end.expect("it is a pipe");
        let has_room = || {
            let mut events = [PollFd::new(&other_end, PollFlags::OUT)];
            poll(&mut events, Some(&Timespec::default())).expect("it is a pipe") > 0
        };
        while has_room() {
            if self.deadline.left().is_none() {
                self.fail("its output did not fill a pipe");
            }
            // Nothing announces that a pipe is full.
            if self.wait_for_exit(&LOOK_AGAIN) {
                self.fail("it ended before its output filled a pipe");
            }
        }
    }

    /// Begins to read the output of [`Launch::output_unread`].
    pub fn read_output(&mut self) {
        if let Some(output) = self.streams.unread.take() {
            self.streams.console.collect(output);
        }
    }

    /// Closes the unread output of [`Launch::output_unread`] for good.
    pub fn close_output(&mut self) {
        self.streams.unread = None;
        self.streams.console.close();
    }

    /// Sends the program a signal.
    ///
    /// # Panics
    /// When that fails, which it cannot: the program, even when it has ended, is there until it is waited for.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it is our child");
    }

    /// Its process id.
    ///
    /// # Panics
    /// Never.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn finish(mut self) -> Finished {
        let status = self.wait();
        self.read_output();
        let stdout = self.streams.console.wait_for_end(self.deadline);
        let stdout = self.expect(stdout, || "the end of its output".into());
        let stderr = self.streams.errors.wait_for_end(self.deadline);
        let stderr = self.expect(stderr, || "the end of stderr".into());
        Finished {
            code: exit_code(status),
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    fn wait(&mut self) -> ExitStatus {
        loop {
            let Some(left) = self.deadline.left() else {
                self.fail("it did not end");
            };
            if self.wait_for_exit(&Timespec::try_from(left).expect("a test's time")) {
                self.reaped = true;
                return self.child.wait().expect("it is our child");
            }
        }
    }

    /// Whether it has ended, within this time.
    fn wait_for_exit(&self, time: &Timespec) -> bool {
        let descriptor = pidfd_open(self.pid(), PidfdFlags::empty()).expect("it is our child");
        let mut events = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut events, Some(time)) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => false,
            Err(error) => panic!("a process cannot be waited for: {error}"),
        }
    }

    fn expect<T>(&mut self, found: Result<T, Missing>, what: impl FnOnce() -> String) -> T {
        match found {
            Ok(value) => value,
            Err(Missing::Ended) => self.fail(&format!("it ended without {}", what())),
            Err(Missing::TimedOut) => self.fail(&format!("there was no {} in time", what())),
        }
    }

    fn fail(&mut self, why: &str) -> ! {
        self.told = true;
        panic!("{why}\n{}", self.said());
    }

    fn said(&self) -> String {
        let (console, errors) = (self.streams.console.shown(), self.streams.errors.shown());
        format!("--- console\n{console}\n--- stderr\n{errors}\n---")
    }

    /// What there is to know of it where a test failed for another reason than its own.
    fn tell(&mut self) {
        let state = match self.child.try_wait() {
            Ok(None) => "runs".to_owned(),
            Ok(Some(status)) => format!("has ended ({status})"),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        eprintln!("the guest {state}\n{}", self.said());
    }
}

/// As a shell tells it.
fn exit_code(status: ExitStatus) -> i32 {
    let killed = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(killed).expect("it has ended")
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.reaped {
            if thread::panicking() && !self.told {
                self.tell();
            }
            // Neither fails while it is our child, and it is one until it is waited for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
