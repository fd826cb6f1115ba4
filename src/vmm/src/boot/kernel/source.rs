//! Reading a file that may be anything and may change under us.
//!
//! Only regular files are read: a FIFO or a terminal would block, a device would answer for ever. Every read is
//! positioned, so that two readers of one descriptor never meet in its offset.
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt};

use super::KernelError;

/// What `file` is, refusing all but a regular file with something in it.
pub(super) fn regular(file: &File) -> Result<Metadata, KernelError> {
    let metadata = file.metadata().map_err(KernelError::Read)?;
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return match metadata.len() {
            0 => Err(KernelError::Empty),
            _ => Ok(metadata),
        };
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a special file"
    };
    Err(KernelError::NotAFile(what))
}

/// Up to `limit` bytes at `offset`; fewer only where the file ends.
pub(super) fn read_up_to(file: &File, offset: u64, limit: usize) -> Result<Vec<u8>, KernelError> {
    let mut bytes = vec![0; limit];
    let mut section = Section::new(file, offset, u64::MAX);
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match section.read(rest).map_err(KernelError::Read)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Exactly `length` bytes at `offset`. They were there when the size was asked, so a short read means that somebody
/// is writing to the file.
pub(super) fn read_exact(file: &File, offset: u64, length: usize) -> Result<Vec<u8>, KernelError> {
    let bytes = read_up_to(file, offset, length)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(KernelError::Changed)
    }
}

/// A range of a file as a stream, without touching the file's own offset.
pub(super) struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl<'a> Section<'a> {
    pub(super) fn new(file: &'a File, offset: u64, length: u64) -> Self {
        Self {
            file,
            offset,
            left: length,
        }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = loop {
            match self.file.read_at(&mut buffer[..limit], self.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        // `count` never exceeds `left`, and a file offset never reaches the end of u64.
        self.left = self.left.saturating_sub(count as u64);
        self.offset = self.offset.saturating_add(count as u64);
        Ok(count)
    }
}
