//! A client: one request after the other, each answered before the next is looked at.
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, Shutdown,
        recvmsg, send, shutdown,
    },
};

use super::{
    http::{Decoder, Method, Progress},
    resources::{Resources, Vm},
    response::{CONTINUE, Response, Status},
};

/// How long a request may take from its first byte to its last, and an answer until it is taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that was answered for the last time may take to read that, and to go.
const FAREWELL: Duration = Duration::from_secs(2);
/// Descriptors that one request can bring along: one more than any has a use for, to be able to tell.
const MAX_DESCRIPTORS: usize = 2;
/// Bytes that are taken from a client at a time, so that others have their turn.
const AT_ONCE: usize = 16 << 10;

/// A client's connection.
pub(super) struct Client {
    socket: OwnedFd,
    decoder: Decoder,
    /// What came along with the request that is coming in.
    descriptors: Vec<OwnedFd>,
    output: Vec<u8>,
    sent: usize,
    stage: Stage,
    /// Whether there may be another request among the bytes that it has sent.
    more: bool,
    /// Since when it is waited for.
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Served,
    /// What is in `output` is the last that it gets.
    LastAnswer,
    /// It has been told that no more comes. What it sends is not for us any more; but were the connection closed at once,
    /// it might see that its request was not taken before it sees why.
    Leaving,
}

/// The connection is to be closed.
struct Gone;

impl From<Errno> for Gone {
    fn from(_: Errno) -> Self {
        Self
    }
}

impl Client {
    pub(super) fn new(socket: OwnedFd, now: Instant) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            descriptors: Vec::new(),
            output: Vec::new(),
            sent: 0,
            stage: Stage::Served,
            more: false,
            since: now,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it is waited for to do. Nothing is read while it does not take what it has asked for.
    pub(super) fn interest(&self) -> PollFlags {
        match self.output.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::OUT,
        }
    }

    /// Whether there is something to do for it without waiting for it.
    pub(super) fn has_more(&self) -> bool {
        self.more && self.output.is_empty()
    }

    /// Until when it is waited for; for ever between two requests.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Leaving => Some(self.since + FAREWELL),
            _ if self.is_idle() => None,
            _ => Some(self.since + PATIENCE),
        }
    }

    /// How little is lost when it is closed: those that are in the middle of nothing first, and of those the one that has been
    /// waited for the longest.
    pub(super) fn worth(&self) -> (bool, Instant) {
        let in_the_middle = !self.is_idle() && self.stage != Stage::Leaving;
        (in_the_middle, self.since)
    }

    /// Since when it is waited for.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    fn is_idle(&self) -> bool {
        self.stage == Stage::Served && self.output.is_empty() && self.decoder.is_empty()
    }

    /// Goes on with it as far as one request and without waiting; whether it stays.
    pub(super) fn turn<V: Vm>(&mut self, now: Instant, resources: &mut Resources<V>) -> bool {
        self.advance(now, resources).is_ok()
    }

    fn advance<V: Vm>(&mut self, now: Instant, resources: &mut Resources<V>) -> Result<(), Gone> {
        self.flush(now)?;
        if !self.output.is_empty() {
            return Ok(());
        }
        if self.stage == Stage::Leaving {
            return self.discard();
        }
        if !self.more && !self.receive(now)? {
            return Ok(());
        }
        self.serve(now, resources);
        self.flush(now)
    }

    /// Takes what has come; whether anything has.
    fn receive(&mut self, now: Instant) -> Result<bool, Gone> {
        let mut chunk = [0; AT_ONCE];
        let room = self.decoder.room().min(AT_ONCE);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut chunk[..room])];
        let received = recvmsg(
            &self.socket,
            &mut pieces,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let message = match received {
            Ok(message) if message.bytes == 0 => return Err(Gone),
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = item {
                self.descriptors.extend(descriptors);
            }
        }
        if self.decoder.is_empty() {
            self.since = now;
        }
        self.decoder.push(&chunk[..message.bytes]);
        // Those for which there is no room are closed by the kernel.
        if message.flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > MAX_DESCRIPTORS {
            let why = "more descriptors came along than any request has a use for, or than this process may have";
            self.refuse(&Response::fault(why), now);
            return Ok(false);
        }
        Ok(true)
    }

    /// Answers a request, if one is whole.
    fn serve<V: Vm>(&mut self, now: Instant, resources: &mut Resources<V>) {
        self.more = false;
        match self.decoder.advance() {
            Ok(Progress::Incomplete) => {}
            Ok(Progress::Continue) => self.output.extend_from_slice(CONTINUE),
            Ok(Progress::Request(request)) => {
                let descriptors = std::mem::take(&mut self.descriptors);
                let response = resources.answer(&request, descriptors);
                self.output = response.bytes(request.keep_alive, request.method != Method::Head);
                self.more = request.keep_alive && !self.decoder.is_empty();
                if !request.keep_alive {
                    self.stage = Stage::LastAnswer;
                }
                self.since = now;
            }
            Err(refusal) => {
                let response = Response::refused(refusal.status, refusal.message);
                self.refuse(&response, now);
            }
        }
    }

    fn refuse(&mut self, response: &Response, now: Instant) {
        debug_assert!(response.status != Status::Ok);
        self.output = response.bytes(false, true);
        self.stage = Stage::LastAnswer;
        self.more = false;
        self.since = now;
        self.descriptors.clear();
    }

    /// Sends what it takes of its answer.
    fn flush(&mut self, now: Instant) -> Result<(), Gone> {
        while self.sent < self.output.len() {
            match send(&self.socket, &self.output[self.sent..], SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output = Vec::new();
        self.sent = 0;
        if self.stage == Stage::LastAnswer {
            shutdown(&self.socket, Shutdown::Write)?;
            self.decoder = Decoder::default();
            self.stage = Stage::Leaving;
            self.since = now;
        }
        Ok(())
    }

    fn discard(&self) -> Result<(), Gone> {
        let mut chunk = [0; AT_ONCE];
        // Without room for them, descriptors that come along are closed by the kernel.
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut RecvAncillaryBuffer::default(),
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(message) if message.bytes == 0 => Err(Gone),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
