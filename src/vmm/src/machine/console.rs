//! The serial port's far end: bytes between the guest and this process's input and output.
use std::{
    collections::VecDeque,
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::requests::{Request, Requests};
use crate::legacy::serial::{SerialPort, Wire};

/// Bytes of input that wait for the guest.
const BACKLOG: usize = 4096;
/// Bytes read or written at once; a pipe that polls writable takes that many without blocking.
const CHUNK: usize = 4096;

/// What the program makes of a chunk of input before the guest gets it.
pub trait Keys {
    /// Moves what is meant for the guest from `typed` to the end of `guest`. True when the user wants to quit.
    fn pass(&mut self, typed: &[u8], guest: &mut VecDeque<u8>) -> bool;

    /// Whether there may be words for us among the input, so that it must be read even when the guest takes none.
    fn listens(&self) -> bool;
}

/// All input is the guest's.
#[derive(Debug, Default)]
pub struct PlainKeys;

impl Keys for PlainKeys {
    fn pass(&mut self, typed: &[u8], guest: &mut VecDeque<u8>) -> bool {
        guest.extend(typed);
        false
    }

    fn listens(&self) -> bool {
        false
    }
}

/// Where a console's bytes come from and go to.
pub struct Ends {
    /// Input, best non-blocking.
    pub input: Option<File>,
    /// Output, best non-blocking.
    pub output: Option<File>,
    /// Words for us among the input.
    pub keys: Box<dyn Keys>,
}

/// The serial port that the console talks to now; a reset brings a new one.
#[derive(Clone)]
pub struct PortSlot(Arc<Mutex<Arc<SerialPort>>>);

impl PortSlot {
    pub(super) fn new(port: Arc<SerialPort>) -> Self {
        Self(Arc::new(Mutex::new(port)))
    }

    pub(super) fn set(&self, port: Arc<SerialPort>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = port;
    }

    fn get(&self) -> Arc<SerialPort> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// How input is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Not now: the guest has to take what it was sent first.
    No,
    /// By epoll.
    Polled,
    /// A regular file: it is read whenever there is room.
    Never,
}

const INPUT: u32 = 0;
const OUTPUT: u32 = 1;
const GUEST_READY: u32 = 2;
const GUEST_ROOM: u32 = 3;

/// The console. Its input is read only as the guest takes it, its output is taken from the guest only as it is read.
pub(super) struct Console {
    ends: Ends,
    wire: Arc<Wire>,
    port: PortSlot,
    requests: Arc<Requests>,
    backlog: VecDeque<u8>,
    waiting: Waiting,
    /// Output was refused and is waited for by epoll.
    output_blocked: bool,
}

impl Console {
    pub(super) fn new(
        ends: Ends,
        wire: Arc<Wire>,
        port: PortSlot,
        requests: Arc<Requests>,
    ) -> Self {
        Self {
            ends,
            wire,
            port,
            requests,
            backlog: VecDeque::new(),
            waiting: Waiting::No,
            output_blocked: false,
        }
    }

    /// Sends the guest what it takes, reads on where there is room, and waits for what is missing.
    fn pump_input(&mut self, ops: &mut EventOps) {
        loop {
            let sent = self.port.get().send(self.backlog.make_contiguous());
            self.backlog.drain(..sent);
            let read_on = self.waiting == Waiting::Never && self.backlog.is_empty();
            if !read_on || !self.read_input(ops) {
                break;
            }
        }
        self.wait_for_input(
            self.backlog.len() < BACKLOG || self.ends.keys.listens(),
            ops,
        );
    }

    /// Reads a chunk. False when there is none now, or never again.
    fn read_input(&mut self, ops: &mut EventOps) -> bool {
        let mut chunk = [0; CHUNK];
        let Some(input) = &mut self.ends.input else {
            return false;
        };
        match input.read(&mut chunk) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                false
            }
            // The end of input leaves the guest running.
            Ok(0) | Err(_) => {
                self.wait_for_input(false, ops);
                self.ends.input = None;
                false
            }
            Ok(count) => {
                if self.ends.keys.pass(&chunk[..count], &mut self.backlog) {
                    self.requests.put(Request::Kill);
                }
                // Only a terminal is read beyond the room there is, for words to us; like a terminal, we drop the rest.
                self.backlog.truncate(2 * BACKLOG);
                true
            }
        }
    }

    fn wait_for_input(&mut self, wanted: bool, ops: &mut EventOps) {
        let Some(input) = &self.ends.input else {
            return;
        };
        let events = Events::with_data(input, INPUT, EventSet::IN);
        match (self.waiting, wanted) {
            (Waiting::No, true) => {
                // A regular file cannot be waited for, and need not be.
                self.waiting = if ops.add(events).is_ok() {
                    Waiting::Polled
                } else {
                    Waiting::Never
                };
            }
            (Waiting::Polled, false) => {
                let _ = ops.remove(events);
                self.waiting = Waiting::No;
            }
            _ => {}
        }
    }

    /// Writes what the guest said, as far as the reader takes it.
    fn pump_output(&mut self, ops: &mut EventOps) {
        let mut chunk = [0; CHUNK];
        loop {
            let waiting = self.wire.peek(&mut chunk);
            if waiting == 0 {
                break self.wait_for_output(false, ops);
            }
            let written = match &mut self.ends.output {
                Some(output) => output.write(&chunk[..waiting]),
                None => Ok(waiting),
            };
            match written {
                Ok(count) => self.wire.consume(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    break self.wait_for_output(true, ops);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // Nobody reads any more: the guest goes on, unheard.
                    self.wait_for_output(false, ops);
                    self.ends.output = None;
                }
            }
        }
        self.port.get().output_drained();
    }

    fn wait_for_output(&mut self, blocked: bool, ops: &mut EventOps) {
        let Some(output) = &self.ends.output else {
            return;
        };
        let events = Events::with_data(output, OUTPUT, EventSet::OUT);
        if blocked && !self.output_blocked {
            self.output_blocked = ops.add(events).is_ok();
        } else if !blocked && self.output_blocked {
            let _ = ops.remove(events);
            self.output_blocked = false;
        }
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        for (event, data) in [
            (&self.wire.ready, GUEST_READY),
            (&self.wire.room, GUEST_ROOM),
        ] {
            ops.add(Events::with_data_raw(event.as_raw_fd(), data, EventSet::IN))
                .expect("an eventfd can be waited for");
        }
        self.pump_input(ops);
        if self.waiting == Waiting::Never {
            self.pump_input(ops);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            INPUT => {
                self.read_input(ops);
                self.pump_input(ops);
            }
            OUTPUT => self.pump_output(ops),
            GUEST_READY => {
                let _ = self.wire.ready.read();
                self.pump_output(ops);
            }
            GUEST_ROOM => {
                let _ = self.wire.room.read();
                self.pump_input(ops);
            }
            _ => {}
        }
    }
}
