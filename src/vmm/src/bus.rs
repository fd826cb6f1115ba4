//! Address maps: which device answers at which port or guest physical address.
use std::{ops::Range, sync::Arc};

use serde::Serialize;
use thiserror::Error;

use crate::metrics::Counter;

/// What the machine should do after a guest's write. Devices hold no reference to the machine: they say so here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Go on.
    Nothing,
    /// The guest asked for a reset.
    Reset,
    /// The guest switched itself off.
    PowerOff,
    /// The guest's init says that user space runs.
    UserSpace,
}

/// A device's registers as the vCPUs see them. Calls come from every vCPU thread at once, with any offset
/// inside the device's range and any length: an implementation answers at once and never panics.
pub trait Registers: Send + Sync {
    /// Fills `data` from the register at `offset`. `data` holds all ones; leaving it so is the answer of an absent register.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` to the register at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Outcome;
}

/// Why a device cannot be placed on a bus.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// {0:#x?} overlaps a device that is there already
    #[error("the address range {0:#x?} is taken or empty")]
    Overlap(Range<u64>),
}

/// Accesses to one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Accesses {
    /// The device.
    pub device: &'static str,
    /// Reads by the guest.
    pub reads: u64,
    /// Writes by the guest.
    pub writes: u64,
}

#[derive(Default)]
struct Counts {
    reads: Counter,
    writes: Counter,
}

struct Entry {
    name: &'static str,
    range: Range<u64>,
    device: Arc<dyn Registers>,
    counts: Counts,
}

/// One address space: ports, or guest physical memory that is not RAM. Counts the accesses to each device.
#[derive(Default)]
pub struct Bus {
    // Sorted by start, ranges disjoint. A machine has a handful: a sorted vector beats a tree.
    entries: Vec<Entry>,
    nobody: Counts,
}

impl Bus {
    /// Places `device`, to be called `name` in reports, at `range`.
    ///
    /// # Errors
    /// When the range is empty or taken.
    pub fn insert(
        &mut self,
        name: &'static str,
        range: Range<u64>,
        device: Arc<dyn Registers>,
    ) -> Result<(), BusError> {
        let at = self
            .entries
            .partition_point(|entry| entry.range.start < range.start);
        let before_clear = at == 0 || self.entries[at - 1].range.end <= range.start;
        let after_clear = self
            .entries
            .get(at)
            .is_none_or(|entry| range.end <= entry.range.start);
        if range.is_empty() || !before_clear || !after_clear {
            return Err(BusError::Overlap(range));
        }
        self.entries.insert(
            at,
            Entry {
                name,
                range,
                device,
                counts: Counts::default(),
            },
        );
        Ok(())
    }

    /// The entry whose range holds all of `length` bytes at `address`, and the offset in it.
    fn find(&self, address: u64, length: usize) -> Option<(u64, &Entry)> {
        let after = self
            .entries
            .partition_point(|entry| entry.range.start <= address);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        let end = address.checked_add(u64::try_from(length).ok()?)?;
        (end <= entry.range.end).then(|| (address - entry.range.start, entry))
    }

    /// A read by the guest. Where no device answers, all bits read as ones. Says whether a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        let found = self.find(address, data.len());
        found
            .map_or(&self.nobody, |(_, entry)| &entry.counts)
            .reads
            .count();
        found
            .map(|(offset, entry)| entry.device.read(offset, data))
            .is_some()
    }

    /// A write by the guest. Where no device answers, it is lost (`None`).
    pub fn write(&self, address: u64, data: &[u8]) -> Option<Outcome> {
        let found = self.find(address, data.len());
        found
            .map_or(&self.nobody, |(_, entry)| &entry.counts)
            .writes
            .count();
        found.map(|(offset, entry)| entry.device.write(offset, data))
    }

    /// A write by the guest that made no exit, and is not counted.
    pub fn apply(&self, address: u64, data: &[u8]) {
        if let Some((offset, entry)) = self.find(address, data.len()) {
            let _ = entry.device.write(offset, data);
        }
    }

    /// How often each device was accessed, each time an exit, so far; `nobody` counts accesses that no device answered.
    pub fn accesses(&self) -> Vec<Accesses> {
        let devices = self.entries.iter().map(|entry| (entry.name, &entry.counts));
        devices
            .chain([("nobody", &self.nobody)])
            .map(|(device, counts)| Accesses {
                device,
                reads: counts.reads.get(),
                writes: counts.writes.get(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Echo(u8);
    impl Registers for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0.wrapping_add(u8::try_from(offset).unwrap()));
        }
        fn write(&self, _: u64, _: &[u8]) -> Outcome {
            Outcome::Reset
        }
    }

    fn bus() -> Bus {
        let mut bus = Bus::default();
        bus.insert("echo", 0x20..0x28, Arc::new(Echo(0x20)))
            .unwrap();
        bus.insert("echo", 0x10..0x18, Arc::new(Echo(0x10)))
            .unwrap();
        bus
    }

    #[test]
    fn the_device_at_an_address_answers_with_its_offset() {
        let mut data = [0; 2];
        assert!(bus().read(0x12, &mut data));
        assert_eq!(data, [0x12, 0x12]);
        assert_eq!(bus().write(0x27, &[0]), Some(Outcome::Reset));
    }

    #[test]
    fn absent_devices_read_as_ones_and_lose_writes() {
        let mut data = [0; 4];
        assert!(!bus().read(0x18, &mut data));
        assert_eq!(data, [0xff; 4]);
        assert_eq!(bus().write(0x30, &[0]), None);
    }

    #[test]
    fn an_access_across_a_devices_end_reaches_no_device() {
        assert!(!bus().read(0x17, &mut [0; 2]));
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        for range in [
            0x17..0x19,
            0x0f..0x11,
            0x10..0x18,
            0x00..0x40,
            0x22..0x23,
            0x40..0x40,
        ] {
            assert!(bus().insert("echo", range, Arc::new(Echo(0))).is_err());
        }
        assert!(bus().insert("echo", 0x18..0x20, Arc::new(Echo(0))).is_ok());
    }

    #[test]
    fn accesses_are_counted_by_device() {
        let bus = bus();
        bus.read(0x12, &mut [0]);
        bus.read(0x40, &mut [0]);
        let _ = bus.write(0x22, &[0]);
        let counts: Vec<_> = bus
            .accesses()
            .iter()
            .map(|a| (a.device, a.reads, a.writes))
            .collect();
        assert_eq!(counts, [("echo", 1, 0), ("echo", 0, 1), ("nobody", 1, 0)]);
    }

    proptest! {
        #[test]
        fn any_access_is_answered_without_a_panic(address: u64, length in 0usize..64) {
            let mut data = vec![0; length];
            bus().read(address, &mut data);
            let _ = bus().write(address, &data);
        }
    }
}
