//! Split virtqueues (virtio 1.3 §2.7): configured by a driver, then frozen and used by a device.
use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Most descriptors of one chain: what Linux's drivers send at most, and what a vectored system call takes.
pub const MAX_SEGMENTS: usize = 1024;

/// A queue that a driver sets up: nothing is checked until it is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Entries, a power of two of at most `max_size`.
    pub size: u16,
    /// Most entries that the device has.
    pub max_size: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
    /// Whether the driver has enabled it.
    pub ready: bool,
}

impl Setup {
    /// A queue of at most `max_size` entries, as after a reset.
    pub fn new(max_size: u16) -> Self {
        Self {
            size: max_size,
            max_size,
            descriptors: 0,
            available: 0,
            used: 0,
            ready: false,
        }
    }

    /// The queue for the device: every ring lies in guest memory, whole and aligned, and stays where it is.
    ///
    /// # Errors
    /// When it is not so.
    pub fn freeze(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Result<Queue, Broken> {
        self.freeze_at(memory, event_idx, Progress::default())
    }

    /// The same, of a queue that a device has used already, and got as far as `progress` with.
    ///
    /// # Errors
    /// As those of [`freeze`](Self::freeze), and when no device gets so far: it took more requests than there are entries.
    pub fn freeze_at(
        &self,
        memory: &GuestMemoryMmap,
        event_idx: bool,
        progress: Progress,
    ) -> Result<Queue, Broken> {
        let mut inner = virtio_queue::Queue::new(self.max_size).map_err(|_| Broken)?;
        inner.try_set_size(self.size).map_err(|_| Broken)?;
        let place = GuestAddress;
        let set = [
            inner.try_set_desc_table_address(place(self.descriptors)),
            inner.try_set_avail_ring_address(place(self.available)),
            inner.try_set_used_ring_address(place(self.used)),
        ];
        if set.iter().any(Result::is_err) {
            return Err(Broken);
        }
        inner.set_event_idx(event_idx);
        inner.set_ready(self.ready);
        if !inner.is_valid(memory) || progress.taken() > self.size {
            return Err(Broken);
        }
        inner.set_next_avail(progress.next_available);
        inner.set_next_used(progress.next_used);
        Ok(Queue {
            inner,
            memory: memory.clone(),
        })
    }
}

/// How far a device has got with a queue: indices that count up to 65535 and start over (§2.7.6, §2.7.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Of the available ring: the next request that it takes.
    pub next_available: u16,
    /// Of the used ring: the next that it gives back.
    pub next_used: u16,
}

impl Progress {
    /// Requests that were taken and not given back.
    fn taken(self) -> u16 {
        self.next_available.wrapping_sub(self.next_used)
    }
}

/// A driver broke the rules, so that its queue cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the driver broke the rules of virtqueues")]
pub struct Broken;

/// A piece of guest memory that a descriptor names. Nothing says yet that there is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddress,
    /// Its bytes.
    pub length: u32,
}

/// A request: what the device may read, then what it may write. Kept from one request to the next, so that none allocates.
#[derive(Debug, Default)]
pub struct Chain {
    /// The index by which it is given back.
    pub head: u16,
    /// What the driver wrote for us.
    pub readable: Vec<Segment>,
    /// Where we may answer.
    pub writable: Vec<Segment>,
}

/// A queue in use. Its rings stay where they were when it was frozen.
#[derive(Debug)]
pub struct Queue {
    inner: virtio_queue::Queue,
    memory: GuestMemoryMmap,
}

impl Queue {
    /// The memory that its descriptors speak of.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// How far it has got.
    pub fn progress(&self) -> Progress {
        Progress {
            next_available: self.inner.next_avail(),
            next_used: self.inner.next_used(),
        }
    }

    /// Takes the next request into `chain`, or finds none.
    ///
    /// # Errors
    /// When the ring or the chain is not what §2.7 says: more requests than entries, a loop, a table in a table, a descriptor
    /// for the device to read behind one to write, more than [`MAX_SEGMENTS`].
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Broken> {
        let mut requests = self.inner.iter(&self.memory).map_err(|_| Broken)?;
        let Some(descriptors) = requests.next() else {
            return Ok(false);
        };
        chain.head = descriptors.head_index();
        chain.readable.clear();
        chain.writable.clear();
        // A chain that stops where another descriptor should follow is cut short: by its own length, or memory that is not there.
        let mut more = true;
        for descriptor in descriptors {
            let segment = Segment {
                address: descriptor.addr(),
                length: descriptor.len(),
            };
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(Broken);
            }
            if chain.readable.len() + chain.writable.len() > MAX_SEGMENTS {
                return Err(Broken);
            }
            more = descriptor.has_next();
        }
        if more { Err(Broken) } else { Ok(true) }
    }

    /// Undoes the last [`pop`](Self::pop): the request is the next again.
    pub fn put_back(&mut self) {
        self.inner.go_to_previous_position();
    }

    /// Gives a request back: `written` bytes of what may be written are new.
    ///
    /// # Errors
    /// When `head` is no entry of this queue.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        self.inner
            .add_used(&self.memory, head, written)
            .map_err(|_| Broken)
    }

    /// Whether the driver wants to hear of what was given back since this was asked last.
    ///
    /// # Errors
    /// When its ring cannot be read.
    pub fn wants_interrupt(&mut self) -> Result<bool, Broken> {
        self.inner
            .needs_notification(&self.memory)
            .map_err(|_| Broken)
    }

    /// Asks the driver to ring when there is more; true if there is already.
    ///
    /// # Errors
    /// When its ring cannot be read.
    pub fn enable_doorbell(&mut self) -> Result<bool, Broken> {
        self.inner
            .enable_notification(&self.memory)
            .map_err(|_| Broken)
    }

    /// Tells the driver that it need not ring: we look by ourselves.
    ///
    /// # Errors
    /// When its ring cannot be written.
    pub fn disable_doorbell(&mut self) -> Result<(), Broken> {
        self.inner
            .disable_notification(&self.memory)
            .map_err(|_| Broken)
    }
}

#[cfg(test)]
mod tests;
