//! Guest pages that go back to the host.
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::{Counters, config::PAGE};
use crate::{
    memory,
    virtio::queue::{Broken, Chain, Segment},
};

/// Most page numbers of one request. Linux sends 256.
const MAX_NUMBERS: u64 = 1 << 16;
/// Page numbers that are taken in at once.
const BATCH: usize = 1024;
const NUMBER_BYTES: usize = size_of::<u32>();

/// Gives the pages back whose numbers the driver wrote. Where there is no memory, or the host refuses, is counted and skipped.
///
/// # Errors
/// When there are too many of them for one request, or the numbers cannot be read.
pub(super) fn give_back(
    chain: &Chain,
    memory: &GuestMemoryMmap,
    counters: &Counters,
) -> Result<(), Broken> {
    let bytes: u64 = chain
        .readable
        .iter()
        .map(|piece| u64::from(piece.length))
        .sum();
    if bytes > MAX_NUMBERS * NUMBER_BYTES as u64 {
        return Err(Broken);
    }
    let mut numbers = Vec::with_capacity(BATCH);
    for segment in &chain.readable {
        let mut left = *segment;
        while let Some(batch) = take_batch(&mut left, memory, &mut numbers)? {
            batch.sort_unstable();
            runs(batch).for_each(|(first, count)| {
                let start = GuestAddress(u64::from(first) * PAGE);
                release(memory, start, count * PAGE, counters);
            });
        }
    }
    Ok(())
}

/// Copies the next numbers in, once; none when no whole one is left.
fn take_batch<'a>(
    segment: &mut Segment,
    memory: &GuestMemoryMmap,
    numbers: &'a mut Vec<u32>,
) -> Result<Option<&'a mut [u32]>, Broken> {
    let mut bytes = [0; BATCH * NUMBER_BYTES];
    let length = usize::try_from(segment.length).map_err(|_| Broken)?;
    let length = length.min(bytes.len()) / NUMBER_BYTES * NUMBER_BYTES;
    if length == 0 {
        return Ok(None);
    }
    memory
        .read_slice(&mut bytes[..length], segment.address)
        .map_err(|_| Broken)?;
    let taken = u32::try_from(length).map_err(|_| Broken)?;
    segment.length -= taken;
    segment.address = segment.address.checked_add(taken.into()).ok_or(Broken)?;
    let (words, _) = bytes[..length].as_chunks::<NUMBER_BYTES>();
    numbers.clear();
    numbers.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
    Ok(Some(numbers))
}

/// Runs of numbers that follow each other, as (first, count), of sorted ones.
fn runs(sorted: &[u32]) -> impl Iterator<Item = (u32, u64)> {
    sorted
        .chunk_by(|a, b| b - a <= 1)
        .map(|run| (run[0], u64::from(run[run.len() - 1] - run[0]) + 1))
}

/// Gives back what `segments` name: pages that the guest does not use.
pub(super) fn give_back_ranges(
    segments: &[Segment],
    memory: &GuestMemoryMmap,
    counters: &Counters,
) {
    for segment in segments {
        release(memory, segment.address, segment.length.into(), counters);
    }
}

fn release(memory: &GuestMemoryMmap, start: GuestAddress, length: u64, counters: &Counters) {
    match memory::release(memory, start, length) {
        Ok(bytes) => counters.released_bytes.add(bytes),
        Err(_) => counters.refused.count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_one_run() {
        let of = |numbers: &[u32]| runs(numbers).collect::<Vec<_>>();
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[7]), [(7, 1)]);
        assert_eq!(
            of(&[1, 2, 2, 3, 9, u32::MAX]),
            [(1, 3), (9, 1), (u32::MAX, 1)]
        );
        assert_eq!(
            of(&[0, u32::MAX - 1, u32::MAX]),
            [(0, 1), (u32::MAX - 1, 2)]
        );
    }
}
