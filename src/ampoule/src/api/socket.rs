//! The socket itself: made before the process is confined, and for its user alone.
use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, RenameFlags, fchmod},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as listen_on,
        socket_with,
    },
};

/// Clients that wait to be let in. More wait for a place to wait.
const BACKLOG: i32 = 128;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A running program listens there.
    #[error("a running program listens there already")]
    Live,
    /// Something else has that name.
    #[error("it exists, and is no socket")]
    NoSocket,
    /// It is longer than an address can be.
    #[error("the path is longer than the 107 bytes of a socket's address")]
    TooLong,
    /// The host refused.
    #[error("{0}")]
    Host(#[from] io::Error),
}

impl From<Errno> for SocketError {
    fn from(error: Errno) -> Self {
        Self::Host(error.into())
    }
}

impl SocketError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Live => "give each guest a socket of its own",
            Self::NoSocket => "name a file that does not exist yet: it will be made",
            Self::TooLong => "start in its directory, and give a relative path",
            Self::Host(_) => "its directory must exist, and be writable for you",
        }
    }
}

/// Makes the socket at `path`, and listens: only this user, and root, can connect. What a guest that has ended left there is
/// replaced.
///
/// The guest's process cannot remove its socket when it ends. It is confined by then: the right to remove one file by its path is
/// the right to remove any in that directory (Landlock knows directories, and seccomp sees no names), which a guest that broke into
/// this process would have too. So the socket is left behind, where clients are told that nobody listens (`ECONNREFUSED`).
///
/// # Errors
/// When something else is there, or the host refuses.
pub fn listen(path: &Path) -> Result<OwnedFd, SocketError> {
    let address = address(path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let mut bound = bind_privately(&socket, &address);
    if bound == Err(Errno::ADDRINUSE) {
        remove_stale(path)?;
        bound = bind_privately(&socket, &address);
    }
    match bound {
        // Somebody else was quicker.
        Err(Errno::ADDRINUSE) => return Err(SocketError::Live),
        other => other?,
    }
    listen_on(&socket, BACKLOG)?;
    Ok(socket)
}

fn address(path: &Path) -> Result<SocketAddrUnix, SocketError> {
    SocketAddrUnix::new(path).map_err(|error| match error {
        Errno::NAMETOOLONG => SocketError::TooLong,
        other => other.into(),
    })
}

/// With mode 0600 from the first moment on: Linux makes the name with the mode that the socket has. The process's mask of modes would
/// be every thread's.
fn bind_privately(socket: &OwnedFd, address: &SocketAddrUnix) -> Result<(), Errno> {
    fchmod(socket, Mode::RUSR | Mode::WUSR)?;
    bind(socket, address)
}

/// Removes a socket on which nobody listens. It is moved away first, which one of several that want it to go can do: nobody removes
/// the new socket that another has put there in the meantime.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let kind = path.symlink_metadata()?.file_type();
    if !kind.is_socket() {
        return Err(SocketError::NoSocket);
    }
    if is_live(path)? {
        return Err(SocketError::Live);
    }
    let aside = aside(path);
    match rustix::fs::rename(path, &aside) {
        // Another one was quicker.
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    }
    if is_live(&aside)? {
        rustix::fs::renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE)?;
        return Err(SocketError::Live);
    }
    rustix::fs::unlink(&aside)?;
    Ok(())
}

/// A name beside `path` that no other process uses.
fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(format!(".{}", std::process::id()));
    name.into()
}

/// Whether anybody listens at `path`. A queue of clients that is full is somebody's.
fn is_live(path: &Path) -> Result<bool, SocketError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address(path)?) {
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::MetadataExt,
        net::{UnixDatagram, UnixListener, UnixStream},
    };

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn it_is_for_its_user_alone() {
        let directory = directory();
        let path = directory.path().join("api");
        let _socket = listen(&path).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().mode() & 0o7777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn what_nobody_listens_at_is_replaced() {
        let directory = directory();
        let path = directory.path().join("api");
        drop(UnixListener::bind(&path).unwrap());
        let _socket = listen(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_somebody_listens_at_is_left_alone() {
        let directory = directory();
        let path = directory.path().join("api");
        let _socket = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::Live)));
        assert!(UnixStream::connect(&path).is_ok());
        let path = directory.path().join("datagrams");
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::Live)));
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = directory();
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(SocketError::NoSocket)));
        let link = directory.path().join("link");
        drop(UnixListener::bind(directory.path().join("stale")).unwrap());
        std::os::unix::fs::symlink("stale", &link).unwrap();
        assert!(matches!(listen(&link), Err(SocketError::NoSocket)));
        assert!(matches!(
            listen(directory.path()),
            Err(SocketError::NoSocket)
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn where_there_can_be_none_the_reason_is_told() {
        let directory = directory();
        let error = listen(&directory.path().join("x".repeat(120))).unwrap_err();
        assert!(matches!(error, SocketError::TooLong), "{error}");
        let error = listen(&directory.path().join("none/api")).unwrap_err();
        assert!(matches!(error, SocketError::Host(_)), "{error}");
    }
}
