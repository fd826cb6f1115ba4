//! One request of a block driver (virtio 1.3 §5.2.6): a header, data, and a byte for the outcome.
use std::io;

use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory,
};

use super::{
    disk::{Cache, Disk, Extent, SECTOR},
    io::{Call, Io, Progress},
};
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
/// Most bytes of data in one segment, as the configuration says.
pub(super) const MAX_SEGMENT: u32 = 1 << 20;
/// Most bytes of data in a request, 256 MiB: a pause and a reset wait for that.
const MAX_DATA: u64 = 256 << 20;

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

/// A request whose driver waits for its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// By what its chain is given back.
    pub(super) head: u16,
    status_at: GuestAddress,
    /// Bytes of data that the driver finds written when all goes well.
    written: u32,
    /// What it counts for where bytes are limited.
    pub(super) bytes: u64,
    word: u32,
}

/// What is to be done for a request.
#[derive(Debug)]
pub(super) enum Task {
    /// A call on the image, which the request's `Io` now is.
    Call,
    /// Nothing any more: it ended so.
    Ended(Status),
}

/// What comes after an answer of the host's.
#[derive(Debug)]
pub(super) enum Next {
    /// The `Io` is to be performed again: the rest of it, or another way.
    Perform,
    /// It ended so; with what the host said, where it refused.
    Ended(Status, Option<io::Error>),
}

/// Reads what `chain` asks of `disk`, and makes `io` the call for it.
///
/// # Errors
/// When it has no whole header, or no byte for the status: then nobody can be told.
pub(super) fn read(
    chain: &mut Chain,
    memory: &GuestMemoryMmap,
    disk: &Disk,
    io: &mut Io,
) -> Result<(Request, Task), Broken> {
    let status_at = take_status(&mut chain.writable)?;
    let header: [u8; HEADER] = take(&mut chain.readable, memory)?;
    let mut request = Request {
        head: chain.head,
        status_at,
        written: 0,
        bytes: 0,
        word: u32::from_le_bytes(header[..4].try_into().expect("four bytes")),
    };
    let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
    let task = request.prepare(sector, chain, memory, disk, io);
    Ok((request, task.unwrap_or_else(Task::Ended)))
}

impl Request {
    fn prepare(
        &mut self,
        sector: u64,
        chain: &mut Chain,
        memory: &GuestMemoryMmap,
        disk: &Disk,
        io: &mut Io,
    ) -> Result<Task, Status> {
        match self.word {
            kind::IN => {
                self.transfer(Call::Read, sector, &chain.writable, memory, disk, io)?;
                // At most `MAX_DATA`.
                self.written = u32::try_from(self.bytes).map_err(|_| Status::IoError)?;
            }
            kind::OUT => {
                writable(disk)?;
                self.transfer(Call::Write, sector, &chain.readable, memory, disk, io)?;
            }
            // A driver that was not offered this has nothing that would have to wait.
            kind::FLUSH => io.set(Call::Flush, NOTHING),
            kind::GET_ID => {
                self.written = put(&chain.writable, memory, disk.serial())?;
                return Ok(Task::Ended(Status::Ok));
            }
            kind::DISCARD | kind::WRITE_ZEROES => {
                writable(disk)?;
                if total(&chain.readable) != RANGE as u64 {
                    return Err(Status::Unsupported);
                }
                let range = take(&mut chain.readable, memory).map_err(|_| Status::IoError)?;
                let (call, extent) = free(self.word, range, disk)?;
                io.set(call, extent);
                if extent.length == 0 {
                    return Ok(Task::Ended(Status::Ok));
                }
            }
            _ => return Err(Status::Unsupported),
        }
        match io.call {
            Call::Read | Call::Write if self.bytes == 0 => Ok(Task::Ended(Status::Ok)),
            _ => Ok(Task::Call),
        }
    }

    fn transfer(
        &mut self,
        call: Call,
        sector: u64,
        data: &[Segment],
        memory: &GuestMemoryMmap,
        disk: &Disk,
        io: &mut Io,
    ) -> Result<(), Status> {
        self.bytes = total(data);
        if self.bytes > MAX_DATA {
            return Err(Status::IoError);
        }
        let extent = disk.extent(sector, self.bytes).ok_or(Status::IoError)?;
        io.set(call, extent);
        io.gather(memory, data).map_err(|_| Status::IoError)
    }

    /// What the host's answer to the request's call means.
    pub(super) fn answered(&self, io: &mut Io, answer: i32, cache: Cache) -> Next {
        let durable = cache == Cache::WriteThrough;
        match io.progress(answer) {
            Progress::More => Next::Perform,
            // With a flush, which takes its turn: of writes that are durable by themselves, one might hear of what another has lost.
            Progress::Done if durable && changes(io.call) => {
                io.set(Call::Flush, NOTHING);
                Next::Perform
            }
            Progress::Done => Next::Ended(Status::Ok, None),
            Progress::Failed(error) if is_unsupported(&error) => match (self.word, io.call) {
                (kind::WRITE_ZEROES, Call::Punch | Call::Zero) => {
                    io.fill();
                    Next::Perform
                }
                _ => Next::Ended(Status::Unsupported, None),
            },
            Progress::Failed(error) => Next::Ended(Status::IoError, Some(error)),
        }
    }

    /// Tells the driver how it ended; how many bytes it finds written, the status included.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn conclude(&self, status: Status, memory: &GuestMemoryMmap) -> Result<u32, Broken> {
        let place = memory.get_slice(self.status_at, 1).map_err(|_| Broken)?;
        let place = place.get_ref::<u8>(0).map_err(|_| Broken)?;
        place.store(status as u8);
        let data = if status == Status::Ok {
            self.written
        } else {
            0
        };
        Ok(data.saturating_add(1))
    }
}

const NOTHING: Extent = Extent {
    offset: 0,
    length: 0,
};

fn changes(call: Call) -> bool {
    matches!(call, Call::Write | Call::Punch | Call::Zero)
}

fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

/// What discards or zeroes the range.
fn free(word: u32, range: [u8; RANGE], disk: &Disk) -> Result<(Call, Extent), Status> {
    const UNMAP: u32 = 1;
    let sector = u64::from_le_bytes(range[..8].try_into().expect("eight bytes"));
    let count = u32::from_le_bytes(range[8..12].try_into().expect("four bytes"));
    let flags = u32::from_le_bytes(range[12..].try_into().expect("four bytes"));
    // A discard has no flags (§5.2.6.2): unknown ones are refused in either.
    if flags & !UNMAP != 0 || (word == kind::DISCARD && flags != 0) {
        return Err(Status::Unsupported);
    }
    if word == kind::WRITE_ZEROES && count > MAX_ZERO_SECTORS {
        return Err(Status::IoError);
    }
    let extent = disk.extent(sector, u64::from(count) * SECTOR);
    let extent = extent.ok_or(Status::IoError)?;
    let keeps_room = word == kind::WRITE_ZEROES && flags & UNMAP == 0;
    Ok((if keeps_room { Call::Zero } else { Call::Punch }, extent))
}

fn writable(disk: &Disk) -> Result<(), Status> {
    if disk.is_read_only() {
        Err(Status::IoError)
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
    readable: &mut [Segment],
    memory: &GuestMemoryMmap,
) -> Result<[u8; N], Broken> {
    let mut bytes = [0; N];
    let mut filled = 0;
    for segment in readable.iter_mut().filter(|segment| segment.length > 0) {
        let length = usize::try_from(segment.length).map_err(|_| Broken)?;
        let piece = length.min(N - filled);
        let part = &mut bytes[filled..filled + piece];
        match memory.get_slice(segment.address, piece) {
            Ok(slice) => _ = slice.copy_to(part),
            // It crosses from one region to the next, or there is nothing.
            Err(_) => memory
                .read_slice(part, segment.address)
                .map_err(|_| Broken)?,
        }
        filled += piece;
        let taken = u32::try_from(piece).map_err(|_| Broken)?;
        segment.length -= taken;
        segment.address = segment.address.unchecked_add(taken.into());
        if filled == N {
            return Ok(bytes);
        }
    }
    Err(Broken)
}

/// Writes `bytes`, or as many of them as there is room for.
fn put(writable: &[Segment], memory: &GuestMemoryMmap, bytes: &[u8]) -> Result<u32, Status> {
    let mut rest = bytes;
    for segment in writable {
        let length = usize::try_from(segment.length).unwrap_or(usize::MAX);
        let (now, later) = rest.split_at(rest.len().min(length));
        memory
            .write_slice(now, segment.address)
            .map_err(|_| Status::IoError)?;
        rest = later;
    }
    Ok(u32::try_from(bytes.len() - rest.len()).unwrap_or(u32::MAX))
}
