//! Guest RAM: host memory mapped for it, the way the definition asks for.
use std::{fs::File, io, sync::Arc};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    io::Errno,
    mm::Advice,
};
use thiserror::Error;
pub use vm_memory::GuestMemoryMmap;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion, mmap::MmapRegionBuilder,
};

/// What backs guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// In a memfd, which other processes can be handed, instead of private anonymous memory.
    pub shared: bool,
    /// Which pages.
    pub pages: Pages,
}

/// Which pages back guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Pages of 4 KiB, also on a host that makes huge ones unasked: a guest that boots touches a little everywhere, and would
    /// be given, zeroed, all that is around it.
    #[default]
    Small,
    /// Transparent huge pages, asked for with `madvise`.
    Transparent,
    /// 2 MiB pages out of the host's reserved pool.
    Huge2M,
}

/// Why guest RAM cannot be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The host has not that many bytes of address space or memory.
    #[error("{size} bytes of guest memory cannot be mapped: {source}")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// What the host says.
        source: io::Error,
    },
    /// The reserved pool has too few pages.
    #[error("the host has not enough free 2 MiB pages for {size} bytes of guest memory: {source}")]
    HugePages {
        /// Bytes asked for.
        size: u64,
        /// What the host says.
        source: io::Error,
    },
    /// More than this program can address.
    #[error("{0} bytes of guest memory are more than can be addressed")]
    TooLarge(u64),
}

impl MemoryError {
    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::HugePages { .. } => {
                "echo PAGES | sudo tee /proc/sys/vm/nr_hugepages, or huge_pages None"
            }
            Self::Map { .. } | Self::TooLarge(_) => "ask for less with --memory",
        }
    }
}

/// Maps the `ranges` of (start, bytes) with `backing`. Pages are taken from the host as the guest touches them.
///
/// # Errors
/// When the host refuses.
pub fn map(
    ranges: &[(GuestAddress, u64)],
    backing: Backing,
) -> Result<GuestMemoryMmap, MemoryError> {
    let total = ranges.iter().map(|&(_, size)| size).sum();
    let file = backing
        .shared
        .then(|| memfd(total, backing.pages))
        .transpose()?
        .map(Arc::new);
    let mut offset = 0;
    let mut regions = Vec::with_capacity(ranges.len());
    for &(start, size) in ranges {
        let file = file
            .as_ref()
            .map(|file| FileOffset::from_arc(file.clone(), offset));
        let region = map_region(size, backing.pages, file)?;
        offset += size;
        regions.push(GuestRegionMmap::new(region, start).ok_or(MemoryError::TooLarge(total))?);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|_| MemoryError::TooLarge(total))
}

fn failed(size: u64, pages: Pages, source: io::Error) -> MemoryError {
    match pages {
        Pages::Huge2M => MemoryError::HugePages { size, source },
        Pages::Small | Pages::Transparent => MemoryError::Map { size, source },
    }
}

/// A sealed memfd: nobody who is handed it can shrink it under the guest.
fn memfd(size: u64, pages: Pages) -> Result<File, MemoryError> {
    let huge = match pages {
        Pages::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        Pages::Small | Pages::Transparent => MemfdFlags::empty(),
    };
    let create = || {
        let fd = memfd_create(
            c"ampoule-guest-ram",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge,
        )?;
        ftruncate(&fd, size)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok::<_, rustix::io::Errno>(fd)
    };
    create()
        .map(File::from)
        .map_err(|error| failed(size, pages, error.into()))
}

fn map_region(
    size: u64,
    pages: Pages,
    file: Option<FileOffset>,
) -> Result<MmapRegion, MemoryError> {
    let bytes = usize::try_from(size).map_err(|_| MemoryError::TooLarge(size))?;
    let mut flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    };
    flags |= match pages {
        // Reserved at once, so that a pool that is too small is an error here and not a SIGBUS later.
        Pages::Huge2M if file.is_none() => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
        Pages::Huge2M => 0,
        Pages::Small | Pages::Transparent => libc::MAP_NORESERVE,
    };
    let mut builder = MmapRegionBuilder::new(bytes)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags)
        .with_hugetlbfs(pages == Pages::Huge2M);
    if let Some(file) = file {
        builder = builder.with_file_offset(file);
    }
    let region = builder
        .build()
        .map_err(|error| failed(size, pages, source_of(error)))?;
    match pages {
        Pages::Small => match advise(&region, Advice::LinuxNoHugepage) {
            // A kernel without transparent huge pages.
            Err(Errno::INVAL) => Ok(()),
            other => other,
        },
        Pages::Transparent => advise(&region, Advice::LinuxHugepage),
        Pages::Huge2M => Ok(()),
    }
    .map_err(|error| failed(size, pages, error.into()))?;
    Ok(region)
}

fn source_of(error: vm_memory::mmap::MmapRegionError) -> io::Error {
    match error {
        vm_memory::mmap::MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

fn advise(region: &MmapRegion, advice: Advice) -> Result<(), Errno> {
    // SAFETY: the range is the region's own mapping, and the advice changes no contents.
    unsafe { rustix::mm::madvise(region.as_ptr().cast(), region.size(), advice) }
}

/// Gives back to the host the pages that lie wholly in the `length` bytes from `start` on: they read as zeros afterwards, but for a
/// kernel's that were mapped into memory, which read as its file again. How many bytes these pages have.
///
/// # Errors
/// When some of the range is no guest memory (nothing is given back behind it), or the host refuses.
pub fn release(memory: &GuestMemoryMmap, start: GuestAddress, length: u64) -> io::Result<u64> {
    let (mut at, mut left, mut released) = (start, length, 0);
    while left > 0 {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let region = memory.find_region(at).ok_or_else(outside)?;
        let offset = at.unchecked_offset_from(region.start_addr());
        let piece = left.min(region.len() - offset);
        released += release_in(region, offset, piece)?;
        left -= piece;
        at = at.checked_add(piece).ok_or_else(outside)?;
    }
    Ok(released)
}

/// Gives back the pages that lie wholly in the `length` bytes from `offset` of `region` on, which are all the region's.
fn release_in(region: &GuestRegionMmap, offset: u64, length: u64) -> io::Result<u64> {
    const PAGE: u64 = 4 << 10;
    const HUGE_PAGE: u64 = 2 << 20;
    let page = match region.is_hugetlbfs() {
        Some(true) => HUGE_PAGE,
        _ => PAGE,
    };
    let from = offset.next_multiple_of(page);
    let to = (offset + length) / page * page;
    let Some(bytes) = to.checked_sub(from).filter(|bytes| *bytes > 0) else {
        return Ok(0);
    };
    let wide = |value| usize::try_from(value).expect("a region is in the address space");
    let pointer = region.as_ptr().wrapping_add(wide(from));
    // SAFETY: the range is within the region's own mapping. Guest RAM is only ever accessed by volatile copies, by the host's kernel
    // and by a guest, which do not mind that it changes.
    unsafe { rustix::mm::madvise(pointer.cast(), wide(bytes), giving_back(region))? };
    Ok(bytes)
}

/// The advice by which pages of `region` are the host's again.
fn giving_back(region: &GuestRegionMmap) -> Advice {
    match region.file_offset() {
        Some(_) => Advice::LinuxRemove,
        None => Advice::LinuxDontNeed,
    }
}

/// Gives every page of `memory` back to the host: all of it reads as zeros afterwards, but for a kernel's pages that were
/// mapped into it, which read as its file again.
///
/// # Errors
/// When the host refuses.
pub fn clear(memory: &GuestMemoryMmap) -> io::Result<()> {
    for region in memory.iter() {
        // SAFETY: the range is the region's own mapping. Guest RAM is only ever accessed by volatile copies and by a
        // guest, which do not mind that it changes.
        unsafe { rustix::mm::madvise(region.as_ptr().cast(), region.size(), giving_back(region))? };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    const RANGES: [(GuestAddress, u64); 2] =
        [(GuestAddress(0), 4 << 20), (GuestAddress(1 << 32), 2 << 20)];

    fn written_and_cleared(backing: Backing) {
        let memory = map(&RANGES, backing).unwrap();
        for at in [GuestAddress(0x1234), GuestAddress((1 << 32) + 0x1234)] {
            memory.write_obj(0xdead_beef_u32, at).unwrap();
        }
        assert_eq!(
            memory.read_obj::<u32>(GuestAddress(0x1234)).unwrap(),
            0xdead_beef
        );
        clear(&memory).unwrap();
        for at in [GuestAddress(0x1234), GuestAddress((1 << 32) + 0x1234)] {
            assert_eq!(memory.read_obj::<u32>(at).unwrap(), 0);
        }
    }

    fn released(backing: Backing) {
        let memory = map(&RANGES, backing).unwrap();
        let pages = [0, 0x1000, 0x2000, 0x3000].map(GuestAddress);
        for at in pages {
            memory.write_obj(7u32, at).unwrap();
        }
        // Two whole pages, and pieces of two more.
        assert_eq!(
            release(&memory, GuestAddress(0x800), 0x3000).unwrap(),
            0x2000
        );
        let read = pages.map(|at| memory.read_obj::<u32>(at).unwrap());
        assert_eq!(read, [7, 0, 0, 7]);
        assert_eq!(release(&memory, GuestAddress(0x3000), 0x800).unwrap(), 0);
        for (start, length) in [
            (4 << 20, 0x1000),
            ((4 << 20) - 0x1000, 0x2000),
            (0, u64::MAX),
            (u64::MAX, 2),
        ] {
            assert!(release(&memory, GuestAddress(start), length).is_err());
        }
    }

    #[test]
    fn whole_pages_go_back_to_the_host_one_by_one() {
        released(Backing::default());
        released(Backing {
            shared: true,
            pages: Pages::Small,
        });
    }

    #[test]
    fn anonymous_memory_is_there_on_both_sides_of_the_hole() {
        written_and_cleared(Backing::default());
    }

    #[test]
    fn memfd_memory_is_one_file_for_both_ranges() {
        let backing = Backing {
            shared: true,
            pages: Pages::Small,
        };
        written_and_cleared(backing);
        let memory = map(&RANGES, backing).unwrap();
        let offsets: Vec<_> = memory
            .iter()
            .map(|region| region.file_offset().unwrap().start())
            .collect();
        assert_eq!(offsets, [0, 4 << 20]);
    }

    #[test]
    fn transparent_huge_pages_are_only_advice() {
        written_and_cleared(Backing {
            shared: false,
            pages: Pages::Transparent,
        });
    }

    #[test]
    fn more_memory_than_the_address_space_is_an_error() {
        let error = map(&[(GuestAddress(0), 1 << 50)], Backing::default()).unwrap_err();
        assert!(error.to_string().contains("cannot be mapped"), "{error}");
    }
}
