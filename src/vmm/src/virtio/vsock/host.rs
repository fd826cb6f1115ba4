//! The host's side: unix sockets. Nothing here waits.
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with},
};

/// What came out of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes; and whether that was all that there is for now.
    Bytes(usize, bool),
    /// Nothing now.
    Nothing,
    /// There is no more, and will not be.
    End,
}

/// A message of `count` vectors, and nothing else.
fn message(vectors: *mut libc::iovec, count: usize) -> libc::msghdr {
    /// C libraries count them in types of their own.
    fn number<T: TryFrom<usize> + Default>(count: usize) -> T {
        T::try_from(count).unwrap_or_default()
    }
    // SAFETY: the structure is plain data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors;
    message.msg_iovlen = number(count);
    message
}

/// Reads into `vectors`, which have room for `room` bytes. Descriptors that come along are closed by the kernel.
pub(super) fn receive(
    socket: &impl AsFd,
    vectors: &mut [libc::iovec],
    room: usize,
    peek: bool,
) -> Received {
    let mut message = message(vectors.as_mut_ptr(), vectors.len());
    let flags = if peek { libc::MSG_PEEK } else { 0 };
    let fd = socket.as_fd().as_raw_fd();
    let received = loop {
        // SAFETY: each vector is mapped memory that may be written to: a buffer of ours, or guest memory, to which no reference
        // exists in this program.
        let received = unsafe { libc::recvmsg(fd, &raw mut message, flags) };
        if received >= 0 {
            break usize::try_from(received).unwrap_or(0);
        }
        match io::Error::last_os_error().kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Received::Nothing,
            // The other end is gone, and took what it had not read with it.
            _ => return Received::End,
        }
    };
    match received {
        0 => Received::End,
        // A message with descriptors is not read beyond, so there may be more.
        bytes => Received::Bytes(
            bytes,
            bytes < room && message.msg_flags & libc::MSG_CTRUNC == 0,
        ),
    }
}

/// Writes what `vectors` hold, as far as the socket takes it. A peer that has gone is an error, and no signal.
///
/// # Errors
/// What the host says, but for a socket that takes nothing now.
pub(super) fn send(socket: &impl AsFd, vectors: &[libc::iovec]) -> io::Result<usize> {
    // They are only read.
    let message = message(vectors.as_ptr().cast_mut(), vectors.len());
    let fd = socket.as_fd().as_raw_fd();
    loop {
        // SAFETY: each vector is mapped memory: a buffer of ours, or guest memory, which may change while it is read without more
        // harm than other bytes in the guest's own stream.
        let sent = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(0),
            _ => return Err(error),
        }
    }
}

/// As [`send`], of ordinary memory.
///
/// # Errors
/// As those of [`send`].
pub(super) fn send_bytes(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    send(socket, &[vector])
}

/// Connects to the socket `name` in `directory`, where somebody must listen. No link is followed: it is that directory's own, whoever
/// put it there.
///
/// # Errors
/// What the host says: nothing is there, something else, or nobody listens, or too many want to connect at once.
pub(super) fn connect(directory: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
    if kind != FileType::Socket {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // By the descriptor: a name could be another's by now, and be longer than an address can be.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}
