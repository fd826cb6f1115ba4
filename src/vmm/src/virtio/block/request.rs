//! One request of a block driver (virtio 1.3 §5.2.6): a header, data, and a byte for the outcome.
use std::io;

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::disk::{Buffers, Disk, SECTOR};
use crate::virtio::queue::{Broken, Chain, Segment};

/// Bytes of the header: type, reserved, sector.
const HEADER: usize = 16;
/// Bytes of what is to be discarded or zeroed: sector, number of sectors, flags.
const RANGE: usize = 16;
/// Most ranges in one request, as the configuration says.
pub(super) const MAX_RANGES: u32 = 1;
/// Most sectors in a range to discard: it is one call to the host, however large.
pub(super) const MAX_DISCARD_SECTORS: u32 = u32::MAX;
/// Most sectors in a range to zero, 32 MiB: some hosts must write them, and a reset waits for that.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 16;

mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// How a request ended, as its last byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// Done.
    Ok = 0,
    /// Not done, or not wholly.
    IoError = 1,
    /// There is no such request here.
    Unsupported = 2,
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Served {
    /// Bytes that the driver finds written, the status included.
    pub(super) written: u32,
    /// What the host said, where it refused.
    pub(super) error: Option<io::Error>,
}

/// Does what `chain` asks of `disk`.
///
/// # Errors
/// When it has no whole header, or no byte for the status: then nobody can be told.
pub(super) fn serve(
    chain: &mut Chain,
    memory: &GuestMemoryMmap,
    disk: &Disk,
) -> Result<Served, Broken> {
    let status_at = take_status(&mut chain.writable)?;
    let header: [u8; HEADER] = take(&mut chain.readable, memory)?;
    let word = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
    let (status, written, error) = match perform(word, sector, chain, memory, disk) {
        Ok(written) => (Status::Ok, written, None),
        Err(Refusal::Guest) => (Status::IoError, 0, None),
        Err(Refusal::Unsupported) => (Status::Unsupported, 0, None),
        Err(Refusal::Host(error)) if error.kind() == io::ErrorKind::Unsupported => {
            (Status::Unsupported, 0, None)
        }
        Err(Refusal::Host(error)) => (Status::IoError, 0, Some(error)),
    };
    memory
        .write_obj(status as u8, status_at)
        .map_err(|_| Broken)?;
    Ok(Served {
        written: written.saturating_add(1),
        error,
    })
}

/// Why a request was not done.
enum Refusal {
    /// It asks for what is not there.
    Guest,
    /// It asks for what this device cannot do.
    Unsupported,
    /// The host refused.
    Host(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Its own addresses.
            io::ErrorKind::InvalidInput => Self::Guest,
            _ => Self::Host(error),
        }
    }
}

/// Does it, and says how many bytes of data were written to the guest.
fn perform(
    word: u32,
    sector: u64,
    chain: &mut Chain,
    memory: &GuestMemoryMmap,
    disk: &Disk,
) -> Result<u32, Refusal> {
    let mut buffers = Buffers::default();
    match word {
        kind::IN => {
            let length = total(&chain.writable);
            let extent = disk.extent(sector, length).ok_or(Refusal::Guest)?;
            buffers.gather(memory, &chain.writable)?;
            disk.read(extent.offset, &mut buffers)?;
            Ok(u32::try_from(length).unwrap_or(u32::MAX))
        }
        kind::OUT => {
            writable(disk)?;
            let extent = disk.extent(sector, total(&chain.readable));
            let extent = extent.ok_or(Refusal::Guest)?;
            buffers.gather(memory, &chain.readable)?;
            disk.write(extent.offset, &mut buffers)?;
            Ok(0)
        }
        kind::FLUSH => disk.flush().map(|()| 0).map_err(Refusal::Host),
        kind::GET_ID => put(&chain.writable, memory, disk.serial()),
        kind::DISCARD | kind::WRITE_ZEROES => {
            writable(disk)?;
            if total(&chain.readable) != RANGE as u64 {
                return Err(Refusal::Unsupported);
            }
            let range = take(&mut chain.readable, memory).map_err(|_| Refusal::Guest)?;
            free(word, range, disk)
        }
        _ => Err(Refusal::Unsupported),
    }
}

/// Discards or zeroes what `range` names.
fn free(word: u32, range: [u8; RANGE], disk: &Disk) -> Result<u32, Refusal> {
    const UNMAP: u32 = 1;
    let sector = u64::from_le_bytes(range[..8].try_into().expect("eight bytes"));
    let count = u32::from_le_bytes(range[8..12].try_into().expect("four bytes"));
    let flags = u32::from_le_bytes(range[12..].try_into().expect("four bytes"));
    // A discard has no flags (§5.2.6.2): unknown ones are refused in either.
    if flags & !UNMAP != 0 || (word == kind::DISCARD && flags != 0) {
        return Err(Refusal::Unsupported);
    }
    if word == kind::WRITE_ZEROES && count > MAX_ZERO_SECTORS {
        return Err(Refusal::Guest);
    }
    let extent = disk.extent(sector, u64::from(count) * SECTOR);
    let extent = extent.ok_or(Refusal::Guest)?;
    if extent.length > 0 {
        match word {
            kind::DISCARD => disk.discard(extent)?,
            _ => disk.write_zeroes(extent, flags & UNMAP != 0)?,
        }
    }
    Ok(0)
}

fn writable(disk: &Disk) -> Result<(), Refusal> {
    if disk.is_read_only() {
        Err(Refusal::Guest)
    } else {
        Ok(())
    }
}

fn total(segments: &[Segment]) -> u64 {
    segments
        .iter()
        .map(|segment| u64::from(segment.length))
        .sum()
}

/// Takes the last byte that may be written: where the status goes.
fn take_status(writable: &mut Vec<Segment>) -> Result<GuestAddress, Broken> {
    let last = writable.last_mut().ok_or(Broken)?;
    last.length = last.length.checked_sub(1).ok_or(Broken)?;
    let at = last.address.checked_add(last.length.into()).ok_or(Broken)?;
    if last.length == 0 {
        writable.pop();
    }
    Ok(at)
}

/// Copies the first `N` bytes in, once, and takes them off: however the driver cut them into pieces (§2.7.4).
fn take<const N: usize>(
    readable: &mut Vec<Segment>,
    memory: &GuestMemoryMmap,
) -> Result<[u8; N], Broken> {
    let mut bytes = [0; N];
    let (mut filled, mut used) = (0, 0);
    while filled < N {
        let segment = readable.get_mut(used).ok_or(Broken)?;
        let length = usize::try_from(segment.length).map_err(|_| Broken)?;
        let piece = length.min(N - filled);
        memory
            .read_slice(&mut bytes[filled..filled + piece], segment.address)
            .map_err(|_| Broken)?;
        filled += piece;
        if piece == length {
            used += 1;
        } else {
            let taken = u32::try_from(piece).map_err(|_| Broken)?;
            segment.address = segment.address.unchecked_add(taken.into());
            segment.length -= taken;
        }
    }
    readable.drain(..used);
    Ok(bytes)
}

/// Writes `bytes`, or as many of them as there is room for.
fn put(writable: &[Segment], memory: &GuestMemoryMmap, bytes: &[u8]) -> Result<u32, Refusal> {
    let mut rest = bytes;
    for segment in writable {
        let length = usize::try_from(segment.length).unwrap_or(usize::MAX);
        let (now, later) = rest.split_at(rest.len().min(length));
        memory
            .write_slice(now, segment.address)
            .map_err(|_| Refusal::Guest)?;
        rest = later;
    }
    Ok(u32::try_from(bytes.len() - rest.len()).unwrap_or(u32::MAX))
}
