use std::{
    fs::File,
    io::{self, Read},
    mem,
    os::fd::FromRawFd,
    ptr,
    sync::Arc,
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::requests::{Request, Requests};

/// Signals that ask for an orderly end, and the one that does not ask.
const ASK: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
const INSIST: libc::c_int = libc::SIGQUIT;

/// Turns signals into requests, by a signalfd.
pub(super) struct Signals {
    file: File,
    requests: Arc<Requests>,
}

impl Signals {
    /// Blocks the signals for this thread and those it creates from now on, and receives them instead.
    pub(super) fn block(requests: Arc<Requests>) -> io::Result<Self> {
        // SAFETY: an all-zero set is a valid argument of sigemptyset.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is a live set.
        unsafe { libc::sigemptyset(&raw mut set) };
        for signal in ASK.into_iter().chain([INSIST]) {
            // SAFETY: as above, and the signal exists.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the set is initialised; the old mask is not asked for.
        let masked =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if masked != 0 {
            return Err(io::Error::from_raw_os_error(masked));
        }
        // SAFETY: the set is initialised, and -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, so nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file, requests })
    }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(&self.file, EventSet::IN))
            .expect("a signalfd can be waited for");
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        const RECORD: usize = mem::size_of::<libc::signalfd_siginfo>();
        let mut record = [0u8; RECORD];
        while matches!(self.file.read(&mut record), Ok(RECORD)) {
            // The signal's number is the record's first member.
            let [a, b, c, d, ..] = record;
            let insists = i32::from_ne_bytes([a, b, c, d]) == INSIST;
            self.requests.put(if insists {
                Request::Kill
            } else {
                Request::PowerButton
            });
        }
    }
}
