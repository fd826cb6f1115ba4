//! The initial RAM disk: read whole into guest memory, below the 32-bit hole.
use std::{
    fs::File,
    io::{self, Seek},
};

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::x86_64::layout::HOLE_START;

const PAGE: u64 = 4096;

/// Why an initrd cannot be loaded.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// The file is not one with bytes at known offsets.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// There are no bytes in it.
    #[error("it is empty")]
    Empty,
    /// There is no room between the kernel and the end of RAM.
    #[error(
        "it does not fit: {size} bytes, and {room} bytes of RAM below 3 GiB are free above the kernel"
    )]
    DoesNotFit {
        /// Bytes of the file.
        size: u64,
        /// Bytes between the kernel's end and the end of RAM.
        room: u64,
    },
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The file ended early, or the guest has no RAM there.
    #[error("it cannot be copied to guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// An opened initrd, ready to be loaded.
#[derive(Debug)]
pub struct Initrd {
    file: File,
    size: u64,
}

impl Initrd {
    /// Takes an opened file and learns its size.
    ///
    /// # Errors
    /// When it is no regular file, or empty.
    pub fn open(file: File) -> Result<Self, InitrdError> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(InitrdError::NotAFile("a directory"));
        }
        if !metadata.is_file() {
            return Err(InitrdError::NotAFile("a device, pipe or socket"));
        }
        match metadata.len() {
            0 => Err(InitrdError::Empty),
            size => Ok(Self { file, size }),
        }
    }

    /// Copies the file to the highest pages of RAM below the hole, `first_free` being where the kernel ends.
    /// Gives its address and bytes.
    ///
    /// # Errors
    /// When it does not fit or cannot be read whole.
    pub fn load(
        &self,
        memory: &GuestMemoryMmap,
        ram: u64,
        first_free: GuestAddress,
    ) -> Result<(GuestAddress, u32), InitrdError> {
        let top = ram.min(HOLE_START);
        let room = top.saturating_sub(first_free.0.next_multiple_of(PAGE));
        let does_not_fit = InitrdError::DoesNotFit {
            size: self.size,
            room,
        };
        let Ok(size) = u32::try_from(self.size) else {
            return Err(does_not_fit);
        };
        if self.size.next_multiple_of(PAGE) > room {
            return Err(does_not_fit);
        }
        let address = GuestAddress(top - self.size.next_multiple_of(PAGE));
        let length = usize::try_from(size).expect("32 bits fit a usize");
        let mut file = &self.file;
        file.rewind()?;
        memory.read_exact_volatile_from(address, &mut file, length)?;
        Ok((address, size))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn initrd(bytes: usize) -> Initrd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0xa5; bytes]).unwrap();
        Initrd::open(file).unwrap()
    }

    fn memory(mib: u64) -> GuestMemoryMmap {
        let size = usize::try_from(mib * MIB).unwrap();
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap()
    }

    #[test]
    fn it_lies_page_aligned_at_the_end_of_ram() {
        let memory = memory(4);
        let (address, size) = initrd(5000)
            .load(&memory, 4 * MIB, GuestAddress(MIB))
            .unwrap();
        assert_eq!((address.0, size), (4 * MIB - 8192, 5000));
        assert_eq!(
            memory
                .read_obj::<u8>(GuestAddress(address.0 + 4999))
                .unwrap(),
            0xa5
        );
        assert_eq!(
            memory
                .read_obj::<u8>(GuestAddress(address.0 + 5000))
                .unwrap(),
            0
        );
    }

    #[test]
    fn it_can_be_loaded_twice() {
        let (memory, initrd) = (memory(4), initrd(10));
        initrd.load(&memory, 4 * MIB, GuestAddress(MIB)).unwrap();
        assert!(initrd.load(&memory, 4 * MIB, GuestAddress(MIB)).is_ok());
    }

    #[test]
    fn one_that_would_overlap_the_kernel_is_refused() {
        let error = initrd(2 << 20)
            .load(&memory(4), 4 * MIB, GuestAddress(3 * MIB))
            .unwrap_err();
        assert!(
            matches!(
                error,
                InitrdError::DoesNotFit {
                    room: 0x10_0000,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn one_that_shrinks_while_it_is_read_is_refused() {
        let initrd = initrd(9000);
        initrd.file.set_len(100).unwrap();
        assert!(initrd.load(&memory(4), 4 * MIB, GuestAddress(MIB)).is_err());
    }

    #[test]
    fn directories_devices_and_empty_files_are_refused() {
        let open = |path: &str| {
            Initrd::open(File::open(path).unwrap())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(open("/"), "it is a directory, not a file");
        assert_eq!(
            open("/dev/null"),
            "it is a device, pipe or socket, not a file"
        );
        let empty = Initrd::open(tempfile::tempfile().unwrap()).unwrap_err();
        assert!(matches!(empty, InitrdError::Empty));
    }
}
