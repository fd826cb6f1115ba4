//! Starting a program, and knowing when: the clock is read between `fork` and `exec`, in the child.
use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{MapFlags, ProtFlags, mmap_anonymous},
    process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal},
    time::{ClockId, clock_gettime},
};

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds since 1970.
pub fn real_time() -> u64 {
    nanoseconds(ClockId::Realtime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// A word that a child shares with us until it calls `exec`.
#[derive(Debug)]
pub struct Stamp(&'static AtomicU64);

impl Stamp {
    /// One page; a bench makes one and keeps it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping, nobody else's.
        let page = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                4096,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )?
        };
        // SAFETY: mapped for good, aligned to a page, zeroed; used as an atomic only, by us and the child.
        Ok(Self(unsafe { AtomicU64::from_ptr(page.cast()) }))
    }
}

/// What came of waiting.
#[derive(Debug)]
pub enum Wait {
    /// It came, at this time.
    At(u64),
    /// The program closed its output or ended first.
    Ended,
    /// It did not come in time.
    TimedOut,
}

/// A program that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Launch {
    child: Child,
    handle: OwnedFd,
    output: File,
    said: Vec<u8>,
    /// When `exec` was called.
    pub started: u64,
}

impl Launch {
    /// Starts `command` without input, its errors to `errors`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, stamp: &Stamp, errors: &File) -> io::Result<Self> {
        let word = stamp.0;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?);
        // SAFETY: two system calls and a store, nothing that a fork of one thread could find locked.
        unsafe {
            command.pre_exec(move || {
                // Whatever ends us ends what we started.
                set_parent_process_death_signal(Some(Signal::KILL))?;
                word.store(now(), Ordering::Relaxed);
                Ok(())
            })
        };
        let mut child = command.spawn()?;
        let started = word.load(Ordering::Relaxed);
        let output = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no standard output"))?;
        let pid = Pid::from_child(&child);
        Ok(Self {
            handle: pidfd_open(pid, PidfdFlags::empty())?,
            child,
            output: File::from(OwnedFd::from(output)),
            said: Vec::new(),
            started,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote, as far as it was read.
    pub fn said(&self) -> &[u8] {
        &self.said
    }

    /// Reads its output until `wanted` is there.
    ///
    /// # Errors
    /// When reading fails.
    pub fn wait_for(&mut self, wanted: &[u8], timeout: Duration) -> io::Result<Wait> {
        let deadline = now() + nanos(timeout);
        let mut chunk = [0; 4096];
        loop {
            if !ready(&self.output, deadline)? {
                return Ok(Wait::TimedOut);
            }
            let count = self.output.read(&mut chunk)?;
            let at = now();
            if count == 0 {
                return Ok(Wait::Ended);
            }
            // What was wanted may lie across two reads.
            let from = self.said.len().saturating_sub(wanted.len());
            self.said.extend(&chunk[..count]);
            if self.said[from..]
                .windows(wanted.len())
                .any(|window| window == wanted)
            {
                return Ok(Wait::At(at));
            }
        }
    }

    /// Waits until the process has gone, and says when; reads what it said before.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn wait_gone(&mut self, timeout: Duration) -> io::Result<Option<(u64, ExitStatus)>> {
        if !ready(&self.handle, now() + nanos(timeout))? {
            return Ok(None);
        }
        let status = self.child.wait()?;
        let at = now();
        self.output.read_to_end(&mut self.said)?;
        Ok(Some((at, status)))
    }

    /// Ends it, and waits until it has gone.
    ///
    /// # Errors
    /// When there is nothing left to wait for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.kill();
        }
    }
}

/// How a process ended, for people.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

fn ready(file: &impl std::os::fd::AsFd, deadline: u64) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_sub(now());
        let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let timeout = Timespec {
            tv_sec: part(left / 1_000_000_000),
            tv_nsec: part(left % 1_000_000_000),
        };
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn launch(script: &str) -> Launch {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let errors = tempfile::tempfile().unwrap();
        Launch::start(command, &Stamp::new().unwrap(), &errors).unwrap()
    }

    #[test]
    fn what_is_said_is_found_across_writes() {
        let before = now();
        let mut launch = launch("printf ab; sleep 0.05; printf cd; sleep 60");
        let Wait::At(at) = launch.wait_for(b"bc", SOON).unwrap() else {
            panic!("it was said")
        };
        assert!(before < launch.started && launch.started < at);
        launch.kill().unwrap();
    }

    #[test]
    fn an_end_is_no_answer_but_an_end() {
        let mut launch = launch("printf x; exit 3");
        assert!(matches!(launch.wait_for(b"y", SOON).unwrap(), Wait::Ended));
        let (at, status) = launch.wait_gone(SOON).unwrap().unwrap();
        assert!(at > launch.started);
        assert_eq!(ending(status), "exit code 3");
        assert_eq!(launch.said(), b"x");
    }

    #[test]
    fn patience_ends() {
        let mut launch = launch("sleep 60");
        let short = Duration::from_millis(20);
        assert!(matches!(
            launch.wait_for(b"x", short).unwrap(),
            Wait::TimedOut
        ));
        assert!(launch.wait_gone(short).unwrap().is_none());
        assert_eq!(ending(launch.kill().unwrap()), "signal 9");
    }
}
