//! Message-signalled interrupts with a table (MSI-X, PCI Local Bus 3.0 §6.8.2).
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU16, Ordering},
};

use serde::{Deserialize, Serialize};

use super::Misfit;
use crate::irq::MessageSender;

/// The capability's id.
pub const CAPABILITY: u8 = 0x11;
/// Where its message control register is in the capability.
pub const CONTROL: usize = 2;
/// Message control: the function sends messages.
pub const ENABLE: u16 = 1 << 15;
/// Message control: every vector is masked.
pub const MASK_ALL: u16 = 1 << 14;
/// Bytes of an entry of the table: address, data, vector control.
pub const ENTRY_BYTES: usize = 16;

const VECTOR_CONTROL: usize = 12;
const MASKED: u8 = 1;

/// One vector, and whether its message waits for the mask to go.
struct Entry {
    bytes: [u8; ENTRY_BYTES],
    pending: bool,
}

impl Entry {
    fn new() -> Self {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[VECTOR_CONTROL] = MASKED;
        Self {
            bytes,
            pending: false,
        }
    }

    fn word(&self, at: usize) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| self.bytes[at + byte]);
        u32::from_le_bytes([a, b, c, d])
    }
}

/// One vector, saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// Where its message goes.
    pub address: u64,
    /// What its message says.
    pub data: u32,
    /// Whether it sends none.
    pub masked: bool,
    /// Whether one waits for the mask to go.
    pub pending: bool,
}

impl From<&Entry> for Vector {
    fn from(entry: &Entry) -> Self {
        Self {
            address: u64::from(entry.word(0)) | u64::from(entry.word(4)) << 32,
            data: entry.word(8),
            masked: entry.bytes[VECTOR_CONTROL] & MASKED != 0,
            pending: entry.pending,
        }
    }
}

impl From<&Vector> for Entry {
    fn from(vector: &Vector) -> Self {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&vector.address.to_le_bytes());
        bytes[8..VECTOR_CONTROL].copy_from_slice(&vector.data.to_le_bytes());
        bytes[VECTOR_CONTROL] = if vector.masked { MASKED } else { 0 };
        Self {
            bytes,
            pending: vector.pending,
        }
    }
}

/// The table of a function's vectors, its pending bits, and its message control register.
///
/// Each vector has a lock of its own, which is held for a register's write or a message: who signals waits for nothing longer.
pub struct Msix {
    sender: Arc<dyn MessageSender>,
    entries: Box<[Mutex<Entry>]>,
    control: AtomicU16,
}

impl Msix {
    /// A table of `vectors`, all masked, as after a reset.
    pub fn new(vectors: u16, sender: Arc<dyn MessageSender>) -> Self {
        Self {
            sender,
            entries: (0..vectors).map(|_| Mutex::new(Entry::new())).collect(),
            control: AtomicU16::new(0),
        }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len()).expect("made of as many")
    }

    /// Signals `vector`: now, or as soon as it is unmasked. Of a function that sends no messages, it is lost; so is a vector that is not
    /// there.
    pub fn signal(&self, vector: u16) {
        if let Some(entry) = self.entries.get(usize::from(vector)) {
            let mut entry = lock(entry);
            // Looked at under the lock: who unmasks takes it later, and finds what is pending.
            let control = self.control.load(Ordering::Acquire);
            if control & ENABLE != 0 {
                entry.pending = true;
                self.deliver(&mut entry, control);
            }
        }
    }

    fn deliver(&self, entry: &mut Entry, control: u16) {
        let open = control & (ENABLE | MASK_ALL) == ENABLE;
        if entry.pending && open && entry.bytes[VECTOR_CONTROL] & MASKED == 0 {
            entry.pending = false;
            // Local APICs hear what is written to their page (Intel SDM 3A §11.11.1). Elsewhere is nobody.
            let address = entry.word(0);
            if entry.word(4) == 0 && address >> 20 == 0xfee {
                self.sender.send(address, entry.word(8));
            }
        }
    }

    /// The guest writes the message control register.
    pub fn set_control(&self, control: u16) {
        self.control.store(control, Ordering::Release);
        for entry in &self.entries {
            let mut entry = lock(entry);
            if control & ENABLE == 0 {
                entry.pending = false;
            }
            self.deliver(&mut entry, control);
        }
    }

    /// The table, with what is pending; not the message control register.
    pub fn save(&self) -> Vec<Vector> {
        self.entries
            .iter()
            .map(|entry| Vector::from(&*lock(entry)))
            .collect()
    }

    /// Whether `saved` is a table of as many vectors.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, saved: &[Vector]) -> Result<(), Misfit> {
        let (saved, own) = (saved.len(), self.entries.len());
        if saved == own {
            Ok(())
        } else {
            Err(Misfit::Vectors { saved, own })
        }
    }

    /// Becomes what [`check`](Self::check) found to fit, with the message control register as it was. What is pending and may be sent is sent.
    pub fn restore(&self, saved: &[Vector], control: u16) {
        // Nothing is sent between two tables.
        self.control.store(0, Ordering::Release);
        for (entry, saved) in self.entries.iter().zip(saved) {
            *lock(entry) = saved.into();
        }
        self.set_control(control);
    }

    /// Fills `data` from `offset` of the table on; beyond its end is zero.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..).zip(data) {
            if let Some(entry) = self.entries.get(at / ENTRY_BYTES) {
                *byte = lock(entry).bytes[at % ENTRY_BYTES];
            }
        }
    }

    /// Writes the table from `offset` on.
    pub fn write_table(&self, mut offset: usize, mut data: &[u8]) {
        while let Some(entry) = self.entries.get(offset / ENTRY_BYTES) {
            let within = offset % ENTRY_BYTES;
            let (now, later) = data.split_at(data.len().min(ENTRY_BYTES - within));
            if now.is_empty() {
                break;
            }
            let mut entry = lock(entry);
            entry.bytes[within..within + now.len()].copy_from_slice(now);
            // Of the vector control register, only the mask is there.
            entry.bytes[VECTOR_CONTROL] &= MASKED;
            entry.bytes[VECTOR_CONTROL + 1..].fill(0);
            self.deliver(&mut entry, self.control.load(Ordering::Acquire));
            drop(entry);
            (offset, data) = (offset + now.len(), later);
        }
    }

    /// Fills `data` from `offset` of the pending bits on, of which each vector has one; beyond their end is zero.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let entries = self.entries.iter().skip(at.saturating_mul(8)).take(8);
            let bits = entries.enumerate();
            *byte = bits.fold(0, |bits, (bit, entry)| {
                bits | u8::from(lock(entry).pending) << bit
            });
        }
    }
}

fn lock(entry: &Mutex<Entry>) -> MutexGuard<'_, Entry> {
    entry.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sent(Mutex<Vec<(u32, u32)>>);

    impl MessageSender for Sent {
        fn send(&self, address: u32, data: u32) {
            self.0.lock().unwrap().push((address, data));
        }
    }

    fn vector(data: u32, masked: bool, pending: bool) -> Vector {
        Vector {
            address: 0xfee0_1000,
            data,
            masked,
            pending,
        }
    }

    #[test]
    fn a_message_that_waits_moves_with_the_table() {
        let sent = Arc::new(Sent::default());
        let sent = || sent.clone();
        let msix = Msix::new(2, sent());
        msix.restore(&[vector(1, true, false), vector(2, false, false)], ENABLE);
        msix.signal(0);
        msix.signal(1);
        assert_eq!(*sent().0.lock().unwrap(), [(0xfee0_1000, 2)]);
        let saved = msix.save();
        assert_eq!(saved, [vector(1, true, true), vector(2, false, false)]);
        let other = Msix::new(2, sent());
        assert_eq!(other.check(&saved), Ok(()));
        other.restore(&saved, ENABLE);
        assert_eq!(other.save(), saved);
        assert_eq!(sent().0.lock().unwrap().len(), 1);
        other.write_table(VECTOR_CONTROL, &[0]);
        assert_eq!(sent().0.lock().unwrap()[1], (0xfee0_1000, 1));
        // What could have been sent is; what cannot be is not kept.
        other.restore(&[vector(3, false, true), vector(4, true, true)], ENABLE);
        assert_eq!(sent().0.lock().unwrap()[2], (0xfee0_1000, 3));
        other.restore(&[vector(3, false, true), vector(4, true, true)], 0);
        assert_eq!(sent().0.lock().unwrap().len(), 3);
        assert!(other.save().iter().all(|vector| !vector.pending));
        let wrong = Misfit::Vectors { saved: 1, own: 2 };
        assert_eq!(other.check(&saved[..1]), Err(wrong));
    }
}
