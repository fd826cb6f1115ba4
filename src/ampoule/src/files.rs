//! Opening files that somebody else may have made, and may change while we look.
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Opens a file that may turn out to be a FIFO or a device without waiting for it.
///
/// # Errors
/// The host's.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    Ok(rustix::fs::open(path, FLAGS, Mode::empty())?.into())
}

// musl's open() would make a second system call for O_CLOEXEC.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

/// A directory, and nothing but what is below it: neither `..` nor a link leads out.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Directory {
    /// Opens it. Links on the way to it are followed.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            path: path.to_owned(),
            descriptor: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Where it is, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the regular file `name` in it.
    ///
    /// # Errors
    /// When it is not there, not below this directory, or no file.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&self.descriptor, name, FLAGS, Mode::empty(), beneath)?;
        let file = File::from(opened);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_leads_out_of_a_directory() {
        let outside = tempfile::tempdir().unwrap();
        let directory = outside.path().join("inside");
        fs::create_dir_all(directory.join("a")).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        fs::write(directory.join("a/file"), "ours").unwrap();
        symlink("a/file", directory.join("within")).unwrap();
        symlink("../secret", directory.join("out")).unwrap();
        symlink("/etc/passwd", directory.join("away")).unwrap();
        let directory = Directory::open(&directory).unwrap();
        assert!(directory.file("a/file").is_ok());
        assert!(directory.file("a/../within").is_ok());
        for name in [
            "../secret",
            "a/../../secret",
            "out",
            "away",
            "/etc/passwd",
            "a",
            "none",
        ] {
            assert!(directory.file(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let error = Directory::open(directory.path()).unwrap().file("fifo");
        assert_eq!(error.unwrap_err().to_string(), "it is no file");
        assert!(super::open(&path).is_ok());
    }
}
