//! From the host to the guest: a frame goes straight into the buffers that the guest has left for it.
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Counters,
    header::{self, ETHERNET, NUM_BUFFERS},
    tap::{Tap, Trouble},
};
use crate::{
    rate_limit::Limiter,
    virtio::{
        buffers,
        queue::{Broken, Chain, Queue},
    },
};

/// How long the guest has to leave more buffers, when there is room for some frames and not for all. A frame without room is lost, so that
/// a busy guest is not hurried.
const PATIENCE: Duration = Duration::from_millis(200);

/// The receiving side of a pair: buffers that were taken from the queue and hold nothing yet, oldest first.
pub(super) struct Receiver {
    chain: Chain,
    buffers: VecDeque<Buffer>,
    /// Those of all buffers, behind `done` that belong to none any more.
    vectors: Vec<libc::iovec>,
    done: usize,
    /// Bytes of all buffers.
    bytes: usize,
    /// Bytes of the longest frame that can come, with its header.
    longest: usize,
    /// Whether a frame may lie in several buffers.
    mergeable: bool,
    /// Whether no system call takes more vectors than there are.
    crowded: bool,
    /// A frame that lies in the first buffers, but is to be held back.
    held: Option<usize>,
    /// Until when the guest may leave more buffers.
    patience: Option<Instant>,
    /// Where a byte goes that the buffers have no room for: a sign that a frame was cut short.
    spare: Box<u8>,
}

// SAFETY: the vectors point into guest memory, which the queue beside this keeps, and nobody holds a reference to it.
unsafe impl Send for Receiver {}

#[derive(Clone, Copy, Debug)]
struct Buffer {
    head: u16,
    vectors: usize,
    bytes: usize,
}

/// How receiving came to a halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// There is no more.
    Empty,
    /// There may be more: others have their turn.
    Turn,
    /// The rate limiter lets nothing through until then.
    Throttled(Instant),
    /// The guest has left too few buffers; if there are some, they are to do from then on.
    Starved(Option<Instant>),
    /// The interface is gone.
    Gone,
}

/// What receiving is done by.
pub(super) struct Way<'a> {
    pub(super) tap: &'a Tap,
    pub(super) limiter: &'a Limiter,
    pub(super) counters: &'a Counters,
}

impl Receiver {
    /// For frames of at most `longest` bytes without their header.
    pub(super) fn new(longest: usize, mergeable: bool) -> Self {
        Self {
            chain: Chain::default(),
            buffers: VecDeque::new(),
            vectors: Vec::new(),
            done: 0,
            bytes: 0,
            longest: header::BYTES + longest,
            mergeable,
            crowded: false,
            held: None,
            patience: None,
            spare: Box::default(),
        }
    }

    /// Receives up to `most` frames, and shows them to the driver.
    pub(super) fn receive(
        &mut self,
        queue: &mut Queue,
        way: &Way<'_>,
        most: usize,
    ) -> Result<Halt, Broken> {
        let mut halt = Halt::Turn;
        for _ in 0..most {
            if let Some(reason) = self.receive_next(queue, way)? {
                halt = reason;
                break;
            }
        }
        queue.publish()?;
        Ok(halt)
    }

    fn receive_next(&mut self, queue: &mut Queue, way: &Way<'_>) -> Result<Option<Halt>, Broken> {
        let bytes = match self.held {
            Some(bytes) => bytes,
            None => {
                if let Some(halt) = self.fill(queue)? {
                    return Ok(Some(halt));
                }
                match self.read(way.tap) {
                    Ok(bytes) => bytes,
                    Err(Trouble::Later) => return Ok(Some(Halt::Empty)),
                    Err(Trouble::Gone) => return Ok(Some(Halt::Gone)),
                    Err(Trouble::Refused) => {
                        way.counters.rx_dropped.count();
                        return Ok(None);
                    }
                }
            }
        };
        // A runt, or one that has lost its end. The buffers wait for the next one.
        if bytes > self.bytes || bytes < header::BYTES + ETHERNET {
            way.counters.rx_dropped.count();
            return Ok(None);
        }
        let length = bytes - header::BYTES;
        if let Err(until) = way.limiter.admit(length as u64) {
            if self.held.is_none() {
                way.counters.rx_throttled.count();
            }
            self.held = Some(bytes);
            return Ok(Some(Halt::Throttled(until)));
        }
        self.held = None;
        way.counters.rx_frames.count();
        way.counters.rx_bytes.add(length as u64);
        self.give(queue, bytes)?;
        Ok(None)
    }

    /// Takes buffers before a frame comes.
    pub(super) fn prepare(&mut self, queue: &mut Queue) -> Result<(), Broken> {
        self.fill(queue)?;
        // Nobody waits for more yet.
        self.patience = None;
        Ok(())
    }

    /// Takes buffers until the longest frame has room in them.
    fn fill(&mut self, queue: &mut Queue) -> Result<Option<Halt>, Broken> {
        while self.wants_more() && self.take(queue)? {}
        if !self.wants_more() {
            self.patience = None;
            return Ok(None);
        }
        if self.buffers.is_empty() {
            self.patience = None;
            return Ok(Some(Halt::Starved(None)));
        }
        // The guest has no more to leave, or has had the time to.
        let all = self.buffers.len() == usize::from(queue.size());
        let now = Instant::now();
        let until = *self.patience.get_or_insert(now + PATIENCE);
        Ok((!all && now < until).then_some(Halt::Starved(Some(until))))
    }

    /// Whether there is not room yet for the longest frame.
    pub(super) fn wants_more(&self) -> bool {
        match self.mergeable {
            true => self.bytes < self.longest && !self.crowded,
            false => self.buffers.is_empty(),
        }
    }

    /// Takes one buffer from the queue; false when there is none, or no room for it.
    fn take(&mut self, queue: &mut Queue) -> Result<bool, Broken> {
        if !queue.pop(&mut self.chain)? {
            return Ok(false);
        }
        let bytes = buffers::total(&self.chain.writable);
        // Not even a header: no frame can ever start there (§5.1.6.3.1).
        if !self.chain.readable.is_empty() || bytes < header::BYTES {
            return Err(Broken);
        }
        if self.done >= buffers::MAX_VECTORS {
            self.vectors.drain(..self.done);
            self.done = 0;
        }
        let before = self.vectors.len();
        let segments = &self.chain.writable;
        buffers::gather(queue.memory(), segments, 0, usize::MAX, &mut self.vectors)?;
        let vectors = self.vectors.len() - before;
        // One is the spare byte's.
        if self.vectors.len() - self.done >= buffers::MAX_VECTORS {
            if self.buffers.is_empty() {
                return Err(Broken);
            }
            self.vectors.truncate(before);
            queue.put_back();
            self.crowded = true;
            return Ok(false);
        }
        self.buffers.push_back(Buffer {
            head: self.chain.head,
            vectors,
            bytes,
        });
        self.bytes += bytes;
        Ok(true)
    }

    /// Reads a frame into the buffers.
    fn read(&mut self, tap: &Tap) -> Result<usize, Trouble> {
        let end = self.vectors.len();
        if self.bytes < header::BYTES + header::MAX_FRAME {
            self.vectors.push(libc::iovec {
                iov_base: (&raw mut *self.spare).cast(),
                iov_len: 1,
            });
        }
        let received = tap.receive(&self.vectors[self.done..]);
        self.vectors.truncate(end);
        received
    }

    /// Gives back the buffers that a frame of `bytes` bytes, with its header, lies in.
    fn give(&mut self, queue: &mut Queue, bytes: usize) -> Result<(), Broken> {
        let (mut left, mut count) = (bytes, 0u16);
        for buffer in &self.buffers {
            count += 1;
            left = left.saturating_sub(buffer.bytes);
            if left == 0 {
                break;
            }
        }
        self.write(NUM_BUFFERS, count.to_le_bytes());
        self.crowded = false;
        let mut left = bytes;
        for _ in 0..count {
            let Some(buffer) = self.buffers.pop_front() else {
                break;
            };
            self.done += buffer.vectors;
            self.bytes -= buffer.bytes;
            let written = left.min(buffer.bytes);
            left -= written;
            let written = u32::try_from(written).expect("a frame is some 64 KiB at most");
            queue.place(buffer.head, written)?;
        }
        Ok(())
    }

    /// Puts two bytes at `at` of the first buffer, which has room for a header.
    fn write(&self, mut at: usize, bytes: [u8; 2]) {
        let mut bytes = bytes.into_iter().peekable();
        for vector in &self.vectors[self.done..] {
            while at < vector.iov_len
                && let Some(byte) = bytes.next()
            {
                // SAFETY: `at` lies in a piece of guest memory, which is mapped while the queue is there and which nothing borrows.
                unsafe { vector.iov_base.cast::<u8>().add(at).write_volatile(byte) };
                at += 1;
            }
            if bytes.peek().is_none() {
                return;
            }
            at -= vector.iov_len;
        }
    }

    /// Gives a frame that was held back to the driver, and puts all other buffers back into the queue.
    pub(super) fn settle(&mut self, queue: &mut Queue) -> Result<(), Broken> {
        if let Some(bytes) = self.held.take() {
            self.give(queue, bytes)?;
            queue.publish()?;
        }
        for _ in 0..self.buffers.len() {
            queue.put_back();
        }
        self.forget();
        Ok(())
    }

    /// Has no buffers any more.
    pub(super) fn forget(&mut self) {
        self.buffers.clear();
        self.vectors.clear();
        (self.crowded, self.held, self.patience) = (false, None, None);
        (self.done, self.bytes) = (0, 0);
    }
}
