//! From the guest to the host: a chain of buffers is a frame, and one system call.
use std::time::Instant;

use super::{
    Counters,
    header::{self, PREFIX, Refused, Terms},
    tap::{Tap, Trouble},
};
use crate::{
    rate_limit::Limiter,
    virtio::{
        buffers,
        queue::{Broken, Chain, Queue},
    },
};

/// The sending side of a pair.
#[derive(Default)]
pub(super) struct Sender {
    chain: Chain,
    vectors: Vec<libc::iovec>,
}

// SAFETY: vectors are made and used within one call of `send_next`, by one thread.
unsafe impl Send for Sender {}

/// How sending came to a halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// There is nothing more.
    Empty,
    /// There may be more: others have their turn.
    Turn,
    /// The rate limiter lets nothing through until then.
    Throttled(Instant),
    /// The host takes nothing for now.
    Full,
    /// The interface is gone.
    Gone,
}

/// What sending is done by.
pub(super) struct Way<'a> {
    pub(super) tap: &'a Tap,
    pub(super) terms: &'a Terms,
    pub(super) limiter: &'a Limiter,
    pub(super) counters: &'a Counters,
    /// Nobody is there to send to: frames are thrown away.
    pub(super) gone: bool,
}

impl Sender {
    /// Sends up to `most` frames, and gives their buffers back.
    pub(super) fn send(
        &mut self,
        queue: &mut Queue,
        way: &Way<'_>,
        most: usize,
    ) -> Result<Halt, Broken> {
        let mut halt = Halt::Turn;
        for _ in 0..most {
            if let Some(reason) = self.send_next(queue, way)? {
                halt = reason;
                break;
            }
        }
        queue.publish()?;
        Ok(halt)
    }

    fn send_next(&mut self, queue: &mut Queue, way: &Way<'_>) -> Result<Option<Halt>, Broken> {
        if !queue.pop(&mut self.chain)? {
            return Ok(Some(Halt::Empty));
        }
        if !self.chain.writable.is_empty() {
            return Err(Broken);
        }
        let head = self.chain.head;
        let length = buffers::total(&self.chain.readable);
        let Some(length) = length.checked_sub(header::BYTES) else {
            return Err(Broken);
        };
        let mut prefix = [0; PREFIX];
        let outcome = self.frame(queue, length, way.terms, &mut prefix)?;
        if let Err(refused) = outcome {
            match refused {
                Refused::Source => way.counters.tx_spoofed.count(),
                Refused::Size | Refused::Header => way.counters.tx_malformed.count(),
            }
            queue.place(head, 0)?;
            return Ok(None);
        }
        if let Err(until) = way.limiter.admit(length as u64) {
            way.counters.tx_throttled.count();
            queue.put_back();
            return Ok(Some(Halt::Throttled(until)));
        }
        let sent = match way.gone {
            true => Err(Trouble::Refused),
            false => way.tap.send(&self.vectors),
        };
        let halt = match sent {
            Ok(()) => {
                way.counters.tx_frames.count();
                way.counters.tx_bytes.add(length as u64);
                None
            }
            Err(Trouble::Later) => {
                queue.put_back();
                return Ok(Some(Halt::Full));
            }
            Err(Trouble::Refused) => {
                way.counters.tx_dropped.count();
                None
            }
            Err(Trouble::Gone) => {
                way.counters.tx_dropped.count();
                Some(Halt::Gone)
            }
        };
        queue.place(head, 0)?;
        Ok(halt)
    }

    /// Makes the vectors of a frame of `length` bytes, whose first bytes are copied into `prefix` and judged there.
    fn frame(
        &mut self,
        queue: &Queue,
        length: usize,
        terms: &Terms,
        prefix: &mut [u8; PREFIX],
    ) -> Result<Result<(), Refused>, Broken> {
        if length < header::ETHERNET {
            return Ok(Err(Refused::Size));
        }
        let (memory, segments) = (queue.memory(), &self.chain.readable);
        buffers::copy_in(memory, segments, prefix)?;
        if let Err(refused) = header::judge(prefix, length, terms) {
            return Ok(Err(refused));
        }
        self.vectors.clear();
        self.vectors.push(libc::iovec {
            iov_base: prefix.as_mut_ptr().cast(),
            iov_len: PREFIX,
        });
        buffers::gather(memory, segments, PREFIX, usize::MAX, &mut self.vectors)?;
        Ok(match self.vectors.len() <= buffers::MAX_VECTORS {
            true => Ok(()),
            false => Err(Refused::Size),
        })
    }
}
