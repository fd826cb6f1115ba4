//! The socket device: what `--vsock` says, and the socket that it names, made.
use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex},
};

use rustix::fs::{CWD, Mode, OFlags};
use vmm::{
    config::{Definition, MAX_CID, MIN_CID, Vsock},
    virtio::{
        transport::SharedDevice,
        vsock::{Options, Vsock as Device},
    },
};

use super::descriptors;
use crate::{api, failure::Failure, paths::Paths};

/// Most connections at a time.
const MOST_CONNECTIONS: u64 = 8192;
/// Descriptors that all else may need.
const OTHER_DESCRIPTORS: u64 = 256;

/// `CID[,PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockArg {
    cid: u32,
    path: Option<PathBuf>,
}

impl FromStr for VsockArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cid, path) = match text.split_once(',') {
            Some((_, "")) => return Err("a path follows the comma: 3,vsock.sock".into()),
            Some((cid, path)) => (cid, Some(path.into())),
            None => (text, None),
        };
        let wrong = |_| {
            format!("{cid:?} is no context id: expected a whole number from {MIN_CID} to {MAX_CID}")
        };
        Ok(Self {
            cid: cid.parse().map_err(wrong)?,
            path,
        })
    }
}

impl VsockArg {
    /// What it stands for.
    pub fn definition(&self) -> Vsock {
        let usual = || {
            Paths::current()
                .state
                .join(format!("vsock-{}.sock", self.cid))
        };
        Vsock::new(self.cid, self.path.clone().unwrap_or_else(usual))
    }
}

/// The definition's socket device, if it has one, whose socket listens from now on.
///
/// # Errors
/// When there is somebody else's socket, something else, or no directory.
pub(super) fn open(
    definition: &Definition,
    paths: &Paths,
) -> Result<Option<SharedDevice>, Failure> {
    let Some(vsock) = &definition.vsock else {
        return Ok(None);
    };
    let path = &vsock.uds_path;
    let what = || format!("vsock {}", path.display());
    if path.parent() == Some(&paths.state) {
        let made = paths.open_state();
        made.map_err(|error| Failure::new(what(), &error).hint(error.hint()))?;
    }
    let failed = |error: io::Error| Failure::new(what(), error);
    let (directory, name) = place(path).map_err(failed)?;
    let listener =
        api::listen(path).map_err(|error| Failure::new(what(), &error).hint(error.hint()))?;
    let device = Device::new(Options {
        cid: vsock.guest_cid,
        listener,
        directory,
        name,
        limit: connections(),
    });
    Ok(Some(Arc::new(Mutex::new(device.map_err(failed)?))))
}

/// The directory that a socket is in, and its name there.
fn place(path: &Path) -> io::Result<(std::os::fd::OwnedFd, String)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::other("its name is none, or not UTF-8"))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    Ok((directory, name.to_owned()))
}

/// How many connections there can be at a time. Each has a descriptor: as many as this user may have are asked for.
fn connections() -> usize {
    let left = descriptors::raise(MOST_CONNECTIONS + OTHER_DESCRIPTORS)
        .saturating_sub(OTHER_DESCRIPTORS)
        .clamp(16, MOST_CONNECTIONS);
    usize::try_from(left).unwrap_or(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_id_comes_first_and_a_path_may_follow() {
        let vsock = "3,a b,c.sock".parse::<VsockArg>().unwrap().definition();
        assert_eq!(vsock, Vsock::new(3, "a b,c.sock"));
        let usual = "77".parse::<VsockArg>().unwrap().definition();
        assert_eq!(usual.uds_path.file_name().unwrap(), "vsock-77.sock");
        assert_eq!(usual.uds_path.parent(), Some(&*Paths::current().state));
    }

    #[test]
    fn what_is_no_context_id_is_refused() {
        for text in ["", ",p", "x", "3,", "-1", "4294967296", "3.5,p"] {
            assert!(text.parse::<VsockArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        assert!(place(Path::new("/nonexistent/a")).is_err());
        assert!(place(Path::new("/")).is_err());
        assert_eq!(place(Path::new("a.sock")).unwrap().1, "a.sock");
    }
}
