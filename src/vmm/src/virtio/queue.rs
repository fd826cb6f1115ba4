//! Split virtqueues (virtio 1.3 §2.7): configured by a driver, then frozen and used by a device.
mod chain;
mod rings;

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;

pub use self::chain::{Chain, MAX_SEGMENTS, Segment};
use self::rings::Rings;

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
        if progress.taken() > self.size {
            return Err(Broken);
        }
        Ok(Queue {
            rings: Rings::new(self, memory).ok_or(Broken)?,
            event_idx,
            next_available: progress.next_available,
            offered: progress.next_available,
            next_used: progress.next_used,
            placed: 0,
            told: progress.next_used,
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

/// In the flags of the ring of either side: it need not be told (§2.7.7, §2.7.10).
const QUIET: u16 = 1;

/// A queue in use. Its rings stay where they were when it was frozen.
#[derive(Debug)]
pub struct Queue {
    rings: Rings,
    event_idx: bool,
    /// The next request to take. Indices count up to 65535 and start over.
    next_available: u16,
    /// How many there were when we last looked.
    offered: u16,
    /// The next to give back.
    next_used: u16,
    /// How many from there on are in the used ring, and not shown to the driver yet.
    placed: u16,
    /// Which was the next when the driver's wish was asked last.
    told: u16,
    memory: GuestMemoryMmap,
}

impl Queue {
    /// The memory that its descriptors speak of.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// How many entries it has.
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// How far it has got.
    pub fn progress(&self) -> Progress {
        Progress {
            next_available: self.next_available,
            next_used: self.next_used,
        }
    }

    /// Takes the next request into `chain`, or finds none.
    ///
    /// # Errors
    /// When the ring or the chain is not what §2.7 says: more requests than entries, a loop, a table in a table, a descriptor
    /// for the device to read behind one to write, more than [`MAX_SEGMENTS`], a table that is not in one piece of memory.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Broken> {
        if self.offered == self.next_available {
            self.offered = self.rings.available_index(Ordering::Acquire)?;
            if self.offered == self.next_available {
                return Ok(false);
            }
        }
        let size = self.rings.size();
        if self.offered.wrapping_sub(self.next_available) > size {
            return Err(Broken);
        }
        let head = self.rings.available(self.next_available)?;
        self.next_available = self.next_available.wrapping_add(1);
        chain.follow(head, size, self.rings.descriptors()?, &self.memory)?;
        Ok(true)
    }

    /// Undoes the last [`pop`](Self::pop): the request is the next again.
    pub fn put_back(&mut self) {
        self.next_available = self.next_available.wrapping_sub(1);
    }

    /// Gives a request back: `written` bytes of what may be written are new.
    ///
    /// # Errors
    /// When `head` is no entry of this queue.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        self.place(head, written)?;
        self.publish()
    }

    /// Gives a request back that the driver does not see before [`publish`](Self::publish): several are seen at once, or none.
    ///
    /// # Errors
    /// When `head` is no entry of this queue.
    pub fn place(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        if head >= self.rings.size() {
            return Err(Broken);
        }
        let at = self.next_used.wrapping_add(self.placed);
        self.rings.set_used(at, head, written)?;
        self.placed += 1;
        Ok(())
    }

    /// Shows the driver what was [placed](Self::place).
    ///
    /// # Errors
    /// When its ring cannot be written.
    pub fn publish(&mut self) -> Result<(), Broken> {
        match std::mem::take(&mut self.placed) {
            0 => Ok(()),
            placed => {
                self.next_used = self.next_used.wrapping_add(placed);
                self.rings.set_used_index(self.next_used)
            }
        }
    }

    /// Whether anything was given back since [`wants_interrupt`](Self::wants_interrupt) was asked last.
    pub fn has_news(&self) -> bool {
        self.told != self.next_used
    }

    /// Whether the driver wants to hear of what was given back since this was asked last.
    ///
    /// # Errors
    /// When its ring cannot be read.
    pub fn wants_interrupt(&mut self) -> Result<bool, Broken> {
        // What was given back must be seen before the wish is looked at: else each side could miss the other.
        fence(Ordering::SeqCst);
        let told = std::mem::replace(&mut self.told, self.next_used);
        if !self.event_idx {
            return Ok(self.rings.available_flags()? & QUIET == 0);
        }
        // The event is one of those since then.
        let event = self.rings.used_event()?;
        let behind = self.next_used.wrapping_sub(event).wrapping_sub(1);
        Ok(behind < self.next_used.wrapping_sub(told))
    }

    /// Asks the driver to ring when there is more; true if there is already.
    ///
    /// # Errors
    /// When its ring cannot be read.
    pub fn enable_doorbell(&mut self) -> Result<bool, Broken> {
        if self.event_idx {
            self.rings.set_available_event(self.next_available)?;
        } else {
            self.rings.set_used_flags(0)?;
        }
        // The wish must be seen before the ring is looked at, as above.
        fence(Ordering::SeqCst);
        self.has_more()
    }

    /// Whether there is a request to take.
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub fn has_more(&self) -> Result<bool, Broken> {
        let offered = self.rings.available_index(Ordering::Relaxed)?;
        Ok(offered != self.next_available)
    }

    /// Tells the driver that it need not ring: we look by ourselves. With events it rings once each time that it is asked.
    ///
    /// # Errors
    /// When its ring cannot be written.
    pub fn disable_doorbell(&mut self) -> Result<(), Broken> {
        if self.event_idx {
            return Ok(());
        }
        self.rings.set_used_flags(QUIET)
    }
}

#[cfg(test)]
mod tests;
