//! Locks on images, so that no two programs write to one: open-file-description locks, which end with the descriptor.
use std::{
    fmt,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use thiserror::Error;

/// Why an image was not locked.
#[derive(Debug, Error)]
pub(crate) enum ClaimError {
    /// Another has it open to write.
    #[error("another program is writing to it{}", Named(.0.as_ref()))]
    Written(Option<Holder>),
    /// Another has it open, and here it was to be written.
    #[error("another program is using it{} (to share an image, give it to all with ,ro)", Named(.0.as_ref()))]
    Used(Option<Holder>),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] io::Error),
}

impl From<ClaimError> for io::Error {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Host(error) => error,
            used => Self::other(used),
        }
    }
}

/// Who has an image locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    process: u32,
    name: String,
}

/// The holder behind "using it", where it is known.
struct Named<'a>(Option<&'a Holder>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(holder) if holder.process == std::process::id() => {
                f.write_str(": this one, as another of its disks")
            }
            Some(Holder { process, name }) => write!(f, ": {name}, process {process}"),
            None => Ok(()),
        }
    }
}

/// Locks the whole image for as long as it is open: readers share it, a writer has it alone.
///
/// # Errors
/// When another has it locked, or the host refuses.
pub(crate) fn lock(file: &File, shared: bool) -> Result<(), ClaimError> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    let lock = libc::flock {
        l_type: libc::c_short::try_from(kind).expect("a small number"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("a small number"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the structure lives while the call lasts.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if locked == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.kind() {
        io::ErrorKind::WouldBlock if shared => ClaimError::Written(None),
        io::ErrorKind::WouldBlock => ClaimError::Used(None),
        _ => error.into(),
    })
}

/// As [`lock`], while `/proc` may still be read: the refusal names the holder, where the caller may see it.
///
/// # Errors
/// As of [`lock`].
pub(super) fn lock_or_name_holder(file: &File, shared: bool) -> Result<(), ClaimError> {
    lock(file, shared).map_err(|error| match error {
        ClaimError::Written(_) => ClaimError::Written(holder(file)),
        ClaimError::Used(_) => ClaimError::Used(holder(file)),
        host => host,
    })
}

/// The first process that has `file` open by a descriptor which holds a lock (`proc(5)`, fdinfo).
fn holder(file: &File) -> Option<Holder> {
    let wanted = identity(file, c"", AtFlags::EMPTY_PATH)?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            locks(&entry.path(), wanted).then(|| Holder {
                process,
                name: name(&entry.path()),
            })
        })
        .next()
}

/// A file's device and number there.
type Identity = (u32, u32, u64);

/// That of the file at `path` of `directory`, as far as the kernel knows: among the files that others have open are those of servers,
/// which would be asked, and might never answer.
fn identity(
    directory: impl AsFd,
    path: impl rustix::path::Arg,
    flags: AtFlags,
) -> Option<Identity> {
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    let found = statx(directory, path, flags, StatxFlags::INO).ok()?;
    Some((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

/// Whether the process in `/proc` at `process` has the file locked.
fn locks(process: &Path, wanted: Identity) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let is_it = identity(CWD, descriptor.path(), AtFlags::empty()) == Some(wanted);
        let info = process.join("fdinfo").join(descriptor.file_name());
        is_it && fs::read_to_string(info).is_ok_and(|info| info.contains("\nlock:"))
    })
}

/// What the process calls itself: any bytes, so what is not printable is replaced.
fn name(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let name = name.trim_end().replace(|c: char| c.is_control(), "?");
    if name.is_empty() {
        "a program".into()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_alone_and_readers_share() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let claim = |shared| {
            let file = image.reopen().unwrap();
            lock(&file, shared).map(|()| file)
        };
        let writer = claim(false).unwrap();
        assert!(matches!(claim(false), Err(ClaimError::Used(None))));
        assert!(matches!(claim(true), Err(ClaimError::Written(None))));
        drop(writer);
        let _readers = (claim(true).unwrap(), claim(true).unwrap());
        assert!(matches!(claim(false), Err(ClaimError::Used(None))));
    }

    #[test]
    fn the_holder_is_named_by_the_descriptor_that_locks() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let file = image.reopen().unwrap();
        // Open, but not locked.
        assert_eq!(holder(&file), None);
        lock(&file, false).unwrap();
        let process = std::process::id();
        assert_eq!(holder(&file).unwrap().process, process);
        let refusal = lock_or_name_holder(&image.reopen().unwrap(), false).unwrap_err();
        assert!(refusal.to_string().contains("another of its disks"));
        let other = Holder {
            process: process + 1,
            name: "qemu".into(),
        };
        let text = ClaimError::Written(Some(other)).to_string();
        assert!(text.ends_with(&format!("it: qemu, process {}", process + 1)));
    }
}
