//! Whether a file can be a kernel, as far as its first bytes tell. The boot code has the last word.
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::trail::Rejection;

/// Where a bzImage has its magic number `HdrS` (Linux x86 boot protocol §1.2).
const BZIMAGE_MAGIC_OFFSET: usize = 0x202;
const BZIMAGE_MAGIC: &[u8] = b"HdrS";
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Opens `path` and says why it cannot be booted. With `contents`, its first bytes must look like a kernel's too.
pub(super) fn inspect(path: &Path, contents: bool) -> Result<(), Rejection> {
    let metadata = std::fs::metadata(path).map_err(|error| reject(&error))?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let what = match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_fifo() => "a named pipe",
            () if kind.is_socket() => "a socket",
            () => "a device",
        };
        return Err(Rejection::NotAFile(what));
    }
    // O_NONBLOCK: should the file have become a named pipe since, do not wait for its writer.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| reject(&error))?;
    if metadata.len() == 0 {
        return Err(Rejection::Empty);
    }
    if !contents {
        return Ok(());
    }
    let mut head = Vec::new();
    file.take(0x400)
        .read_to_end(&mut head)
        .map_err(|error| reject(&error))?;
    let magic = head.get(BZIMAGE_MAGIC_OFFSET..).unwrap_or_default();
    if head.starts_with(ELF_MAGIC) || magic.starts_with(BZIMAGE_MAGIC) {
        Ok(())
    } else {
        Err(Rejection::NotAKernel)
    }
}

fn reject(error: &io::Error) -> Rejection {
    match error.kind() {
        io::ErrorKind::NotFound => Rejection::Missing,
        io::ErrorKind::PermissionDenied => Rejection::PermissionDenied,
        _ => Rejection::Unreadable(error.to_string()),
    }
}
