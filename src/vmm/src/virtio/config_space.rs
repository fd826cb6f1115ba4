use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device's configuration space (virtio 1.3 §2.5): little-endian bytes, read by drivers in pieces and changed as a whole.
///
/// The lock is held for a copy of some bytes and never longer: a vCPU that reads waits for nothing else.
#[derive(Debug)]
pub struct ConfigSpace {
    contents: Mutex<Contents>,
}

#[derive(Debug)]
struct Contents {
    bytes: Box<[u8]>,
    generation: u32,
}

impl ConfigSpace {
    /// A space that holds `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let contents = Contents {
            bytes: bytes.into(),
            generation: 0,
        };
        Self {
            contents: Mutex::new(contents),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from `offset` on. What is behind the end is zeroes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let contents = self.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = contents.bytes.get(from..).unwrap_or_default();
        let bytes = bytes.iter().chain(std::iter::repeat(&0));
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    /// By which a driver sees that two reads were of the same contents (§2.5.3).
    pub fn generation(&self) -> u32 {
        self.lock().generation
    }

    /// How many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Its contents, and their generation.
    pub(super) fn save(&self) -> (Vec<u8>, u32) {
        let contents = self.lock();
        (contents.bytes.to_vec(), contents.generation)
    }

    /// Goes on from a space that held `bytes` in `generation`; whether this one holds the same. What it holds stays: where that is
    /// something else, it is of a later generation.
    pub(super) fn restore(&self, bytes: &[u8], generation: u32) -> bool {
        let mut contents = self.lock();
        let same = *contents.bytes == *bytes;
        contents.generation = generation.wrapping_add(u32::from(!same));
        same
    }

    /// Puts `bytes` at `offset`, where there is room for them. The driver is to be told by who calls.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        let mut contents = self.lock();
        if let Some(place) = contents.bytes.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
            contents.generation = contents.generation.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_in_zeroes_and_changes_are_seen_by_the_generation() {
        let space = ConfigSpace::new(&[1, 2, 3, 4]);
        let mut data = [0xff; 4];
        space.read(2, &mut data);
        assert_eq!(data, [3, 4, 0, 0]);
        let before = space.generation();
        space.put(1, &[9, 9]);
        assert_ne!(space.generation(), before);
        space.read(0, &mut data);
        assert_eq!(data, [1, 9, 9, 4]);
        space.read(u64::MAX, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
