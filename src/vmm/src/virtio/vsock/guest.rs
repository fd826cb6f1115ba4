//! The guest's side: its three queues, from a driver's start to its reset.
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
};

use vm_memory::{Bytes, GuestMemoryMmap};

use super::packet::{HEADER, Header};
use crate::virtio::{
    Interrupt, buffers,
    queue::{Broken, Chain, Progress, Queue, Segment},
};

/// Which queue is which (virtio 1.3 §5.10.2).
pub(super) mod queue {
    pub(in super::super) const RX: u16 = 0;
    pub(in super::super) const TX: u16 = 1;
    pub(in super::super) const EVENT: u16 = 2;
}

/// Most buffers that one read fills.
const MOST_BUFFERS: usize = 64;
/// The event by which a driver learns that its connections are gone (§5.10.6.7): `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// A buffer of the driver's for a packet.
#[derive(Debug)]
struct Buffer {
    head: u16,
    segments: Vec<Segment>,
    /// Bytes that it has behind a header.
    room: usize,
}

/// What a driver has set up of its queues.
pub(super) type Queues = [Option<Queue>; 3];

/// The queues in use, and how their driver is told.
pub(super) struct Job {
    /// By which a job is told from the one before.
    pub(super) epoch: u64,
    memory: GuestMemoryMmap,
    rx: Option<Queue>,
    tx: Option<Queue>,
    events: Option<Queue>,
    /// Those that the driver stops, and that are to go.
    stopped: [AtomicBool; 3],
    interrupt: Interrupt,
    /// Whether the driver has yet to learn that its connections are gone.
    owes_reset: bool,
    /// Buffers that were taken and hold nothing yet.
    pool: VecDeque<Buffer>,
    /// Lists of segments to be used again.
    spare: Vec<Vec<Segment>>,
    chain: Chain,
    /// Whether something was given back since the driver was told last, by queue.
    used: [bool; 3],
}

impl Job {
    /// A job with these queues, of which there is one at least. Where `moved`, the driver's connections were another machine's.
    pub(super) fn new(
        epoch: u64,
        queues: Queues,
        interrupt: Interrupt,
        moved: bool,
    ) -> Option<Self> {
        let memory = queues.iter().flatten().next()?.memory().clone();
        let [rx, tx, events] = queues;
        Some(Self {
            epoch,
            memory,
            rx,
            tx,
            events,
            stopped: Default::default(),
            interrupt,
            owes_reset: moved,
            pool: VecDeque::new(),
            spare: Vec::new(),
            chain: Chain::default(),
            used: [false; 3],
        })
    }

    pub(super) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The driver uses this queue no more. Nobody works on it now.
    pub(super) fn stop(&self, index: usize) {
        if let Some(stopped) = self.stopped.get(index) {
            stopped.store(true, Ordering::Release);
        }
    }

    /// How far each queue is used.
    pub(super) fn progress(&self) -> Vec<Option<Progress>> {
        let queues = [&self.rx, &self.tx, &self.events]
            .into_iter()
            .zip(&self.stopped);
        let in_use = |(queue, stopped): (&Option<Queue>, &AtomicBool)| {
            let queue = queue.as_ref().filter(|_| !stopped.load(Ordering::Acquire));
            queue.map(Queue::progress)
        };
        queues.map(in_use).collect()
    }

    /// Lets the queues go that the driver has stopped.
    pub(super) fn drop_stopped(&mut self) {
        let queues = [&mut self.rx, &mut self.tx, &mut self.events];
        for (queue, stopped) in queues.into_iter().zip(&self.stopped) {
            if stopped.load(Ordering::Acquire) {
                *queue = None;
            }
        }
    }

    /// The driver broke the rules of this queue.
    pub(super) fn give_up(&mut self, index: u16) {
        match index {
            queue::RX => {
                self.pool.clear();
                self.rx = None;
            }
            queue::TX => self.tx = None,
            _ => self.events = None,
        }
        self.interrupt.needs_reset();
    }

    /// Takes the driver's next packet; its header.
    pub(super) fn next_packet(&mut self) -> Result<Option<Header>, Broken> {
        let Some(tx) = &mut self.tx else {
            return Ok(None);
        };
        if !tx.pop(&mut self.chain)? {
            return Ok(None);
        }
        let mut bytes = [0; HEADER];
        buffers::copy_in(&self.memory, &self.chain.readable, &mut bytes)?;
        Ok(Some(Header::parse(&bytes)))
    }

    /// What lies in the packet that was taken last, its header first.
    pub(super) fn packet(&self) -> &[Segment] {
        &self.chain.readable
    }

    /// Gives the packet that was taken last back.
    pub(super) fn packet_done(&mut self) -> Result<(), Broken> {
        self.used[usize::from(queue::TX)] = true;
        let tx = self.tx.as_mut().ok_or(Broken)?;
        tx.push(self.chain.head, 0)
    }

    /// Has buffers for `bytes` of data at hand, or for as much as there are buffers, or as fit one read; whether there is any.
    pub(super) fn has_buffers(&mut self, bytes: usize) -> Result<bool, Broken> {
        let Some(rx) = &mut self.rx else {
            return Ok(false);
        };
        let mut room: usize = self.pool.iter().map(|buffer| buffer.room).sum();
        while (room < bytes || self.pool.is_empty()) && self.pool.len() < MOST_BUFFERS {
            if !rx.pop(&mut self.chain)? {
                break;
            }
            let behind = buffers::total(&self.chain.writable).checked_sub(HEADER);
            let own = behind.filter(|room| *room > 0).ok_or(Broken)?;
            if !self.chain.readable.is_empty() {
                return Err(Broken);
            }
            let empty = self.spare.pop().unwrap_or_default();
            self.pool.push_back(Buffer {
                head: self.chain.head,
                segments: std::mem::replace(&mut self.chain.writable, empty),
                room: own,
            });
            room = room.saturating_add(own);
        }
        Ok(!self.pool.is_empty())
    }

    /// The places for data in the buffers at hand, for `limit` bytes at most; how many bytes that is.
    pub(super) fn places(
        &self,
        limit: usize,
        vectors: &mut Vec<libc::iovec>,
    ) -> Result<usize, Broken> {
        vectors.clear();
        let mut left = limit;
        for buffer in &self.pool {
            if left == 0 || vectors.len() >= buffers::MAX_VECTORS {
                break;
            }
            left -= buffers::gather(&self.memory, &buffer.segments, HEADER, left, vectors)?;
        }
        vectors.truncate(buffers::MAX_VECTORS);
        Ok(vectors.iter().map(|vector| vector.iov_len).sum())
    }

    /// Gives the first buffer at hand back with this packet, whose data lies there already.
    pub(super) fn deliver(&mut self, header: &Header) -> Result<(), Broken> {
        let buffer = self.pool.pop_front().ok_or(Broken)?;
        let bytes = header.bytes();
        let mut rest = &bytes[..];
        for segment in &buffer.segments {
            let length = usize::try_from(segment.length).map_err(|_| Broken)?;
            let (now, later) = rest.split_at(rest.len().min(length));
            self.memory
                .write_slice(now, segment.address)
                .map_err(|_| Broken)?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let written = u32::try_from(HEADER)
            .map_err(|_| Broken)?
            .saturating_add(header.len);
        let rx = self.rx.as_mut().ok_or(Broken)?;
        rx.push(buffer.head, written)?;
        self.used[usize::from(queue::RX)] = true;
        let mut segments = buffer.segments;
        segments.clear();
        self.spare.push(segments);
        Ok(())
    }

    /// Room for data in the first buffer at hand.
    pub(super) fn first_room(&self) -> usize {
        self.pool.front().map_or(0, |buffer| buffer.room)
    }

    /// Tells the driver that its connections are gone, if that is due and it left a buffer for it.
    pub(super) fn tell_events(&mut self) -> Result<(), Broken> {
        let Some(events) = self.events.as_mut().filter(|_| self.owes_reset) else {
            return Ok(());
        };
        if !events.pop(&mut self.chain)? {
            return Ok(());
        }
        let place = self.chain.writable.first();
        let place = place.filter(|place| place.length >= 4).ok_or(Broken)?;
        self.memory
            .write_slice(&TRANSPORT_RESET, place.address)
            .map_err(|_| Broken)?;
        events.push(self.chain.head, 4)?;
        self.owes_reset = false;
        self.used[usize::from(queue::EVENT)] = true;
        Ok(())
    }

    /// An interrupt for what was given back in this queue, if the driver wants one; whether it did.
    pub(super) fn interrupt(&mut self, index: u16) -> Result<bool, Broken> {
        let queue = match index {
            queue::RX => &mut self.rx,
            queue::TX => &mut self.tx,
            _ => &mut self.events,
        };
        let Some(queue) = queue else {
            return Ok(false);
        };
        let used = std::mem::take(&mut self.used[usize::from(index)]);
        let wanted = used && queue.wants_interrupt()?;
        if wanted {
            self.interrupt.used_buffers(index);
        }
        Ok(wanted)
    }

    /// The driver need not ring for its packets: we look by ourselves. It never need for buffers, unless there are too few.
    pub(super) fn look_for_packets(&mut self) -> Result<(), Broken> {
        self.tx.as_mut().map_or(Ok(()), Queue::disable_doorbell)
    }

    /// As [`look_for_packets`](Self::look_for_packets), of buffers.
    pub(super) fn look_for_buffers(&mut self) -> Result<(), Broken> {
        self.rx.as_mut().map_or(Ok(()), Queue::disable_doorbell)
    }

    /// Asks the driver to ring for packets; whether there are some already.
    pub(super) fn wait_for_packets(&mut self) -> Result<bool, Broken> {
        self.tx.as_mut().map_or(Ok(false), Queue::enable_doorbell)
    }

    /// Asks the driver to ring for buffers; whether there are some already.
    pub(super) fn wait_for_buffers(&mut self) -> Result<bool, Broken> {
        self.rx.as_mut().map_or(Ok(false), Queue::enable_doorbell)
    }

    /// Asks the driver to ring for a buffer for an event, if one is due; whether there is one already.
    pub(super) fn wait_for_events(&mut self) -> Result<bool, Broken> {
        match &mut self.events {
            Some(events) if self.owes_reset => events.enable_doorbell(),
            Some(events) => events.disable_doorbell().map(|()| false),
            None => Ok(false),
        }
    }

    /// Puts what was taken and not used back into the queues: another device can go on from there.
    pub(super) fn settle(&mut self) {
        while self.pool.pop_back().is_some() {
            if let Some(rx) = &mut self.rx {
                rx.put_back();
            }
        }
    }
}
