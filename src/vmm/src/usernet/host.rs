//! Sockets of the host's. Nothing here waits.
use std::{
    io,
    mem::{self, MaybeUninit},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, SendFlags, Shutdown, SocketFlags, SocketType, ipproto,
        socket_with, sockopt,
    },
};

/// What bytes go to that are read to be gone.
pub(super) const WASTE: usize = 64 << 10;
/// Most of a stream that is looked past.
pub(super) const FURTHEST: usize = 512 << 10;
/// `SO_MEMINFO` (`asm-generic/socket.h`), and what of it is used (`linux/sock_diag.h`).
const SO_MEMINFO: libc::c_int = 55;
const SK_MEMINFO_WMEM_ALLOC: usize = 2;
const SK_MEMINFO_SNDBUF: usize = 3;
const SK_MEMINFO_WMEM_QUEUED: usize = 5;
const SK_MEMINFO_VARS: usize = 9;

/// A socket that neither blocks nor outlives this program.
///
/// # Errors
/// What the host says.
pub(super) fn socket(
    address: &SocketAddr,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    socket_with(
        family,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        protocol,
    )
}

/// A connected socket for datagrams.
///
/// # Errors
/// What the host says.
pub(super) fn connect_udp(address: &SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = socket(address, SocketType::DGRAM, None)?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

/// A connected socket for echo requests, where this user may have one.
///
/// # Errors
/// What the host says.
pub(super) fn connect_ping(address: &SocketAddr) -> rustix::io::Result<OwnedFd> {
    let protocol = match address {
        SocketAddr::V4(_) => ipproto::ICMP,
        SocketAddr::V6(_) => ipproto::ICMPV6,
    };
    let socket = socket(address, SocketType::DGRAM, Some(protocol))?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

/// Whether this kernel remembers how far a TCP socket was peeked into (Linux 6.9, with exceptions).
pub(super) fn remembers_peeks() -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let inet = socket(&address, SocketType::STREAM, None);
    let address = SocketAddr::from(([0u16; 8], 0));
    // A host without IPv6 has no such sockets at all.
    let inet6 = socket(&address, SocketType::STREAM, None);
    let remembers = |socket: &OwnedFd| set_peek_offset(socket, 0).is_ok();
    inet.is_ok_and(|socket| remembers(&socket)) && inet6.map_or(true, |socket| remembers(&socket))
}

fn set_peek_offset(socket: &OwnedFd, offset: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let size =
        libc::socklen_t::try_from(size_of_val(&value)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open, and the kernel reads an integer that outlives the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const value).cast(),
            size,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes that a socket has not got rid of.
pub(super) fn unsent(socket: &OwnedFd) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes an integer that outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    usize::try_from(bytes).ok().filter(|_| answer == 0)
}

/// What came of looking at a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peeked {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// There is no more, and will not be.
    End,
    /// The other end broke it.
    Broken(Errno),
}

/// How much a socket takes, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// What it takes in all.
    pub(super) limit: usize,
    /// What of that is in use.
    pub(super) used: usize,
}

/// A stream's end on the host.
#[derive(Debug)]
pub(super) struct Stream {
    socket: OwnedFd,
    /// Whether it is TCP, which throws away without copying.
    tcp: bool,
    /// Whether the kernel remembers how far it was looked into.
    remembers: bool,
}

impl Stream {
    /// A TCP socket that is connected or about to be.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn tcp(socket: OwnedFd, remembers: bool) -> rustix::io::Result<Self> {
        // The guest's own TCP has gathered what it sends already.
        sockopt::set_tcp_nodelay(&socket, true)?;
        // A byte that is out of band would be looked for at its place in vain.
        sockopt::set_socket_oobinline(&socket, true)?;
        let stream = Self {
            socket,
            tcp: true,
            remembers,
        };
        stream.look_from(0);
        Ok(stream)
    }

    /// One end of a pair of sockets.
    pub(super) fn local(socket: OwnedFd) -> Self {
        Self {
            socket,
            tcp: false,
            remembers: false,
        }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether to look at more costs nothing for what was looked at before.
    pub(super) fn remembers(&self) -> bool {
        self.remembers
    }

    /// Looks at what comes behind the first `skip` bytes, which were looked at before.
    pub(super) fn peek(&self, skip: usize, into: &mut [u8], waste: &mut [u8; WASTE]) -> Peeked {
        let to_skip = if self.remembers {
            0
        } else {
            skip.min(FURTHEST)
        };
        let empty = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        let mut vectors = [empty; FURTHEST / WASTE + 1];
        let (mut count, mut left) = (0, to_skip);
        while left > 0 {
            let now = left.min(WASTE);
            vectors[count] = libc::iovec {
                iov_base: waste.as_mut_ptr().cast(),
                iov_len: now,
            };
            left -= now;
            count += 1;
        }
        vectors[count] = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        // SAFETY: the structure is plain data.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = number(count + 1);
        loop {
            // SAFETY: the vectors lie in buffers that are borrowed for as long, and in which it does not matter what is left.
            let seen =
                unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_PEEK) };
            match usize::try_from(seen) {
                Ok(0) => return Peeked::End,
                Ok(seen) if seen > to_skip => return Peeked::Bytes(seen - to_skip),
                Ok(_) => return Peeked::Nothing,
                Err(_) => {}
            }
            match last_error() {
                Errno::INTR => {}
                Errno::AGAIN => return Peeked::Nothing,
                error => return Peeked::Broken(error),
            }
        }
    }

    /// The next look begins `offset` bytes behind what is not taken yet.
    pub(super) fn look_from(&self, offset: usize) {
        if self.remembers {
            // It was tried on another one.
            let _ = set_peek_offset(&self.socket, offset);
        }
    }

    /// Takes `bytes` that were looked at before. Whether they were there.
    pub(super) fn take(&self, mut bytes: usize, waste: &mut [u8; WASTE]) -> bool {
        while bytes > 0 {
            let (length, flags) = match self.tcp {
                true => (bytes, libc::MSG_TRUNC),
                false => (bytes.min(WASTE), 0),
            };
            // SAFETY: with this flag TCP writes nothing (tcp(7)); without it, no more than the buffer takes is asked for.
            let taken = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    waste.as_mut_ptr().cast(),
                    length,
                    flags,
                )
            };
            match usize::try_from(taken) {
                Ok(0) => return false,
                Ok(taken) => bytes -= taken.min(bytes),
                Err(_) if last_error() == Errno::INTR => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Sends as much of `bytes` as is taken now.
    ///
    /// # Errors
    /// The stream is broken.
    pub(super) fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        loop {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                other => return other,
            }
        }
    }

    /// What it takes. Nothing, where the host does not say.
    pub(super) fn room(&self) -> Room {
        let mut values = [0u32; SK_MEMINFO_VARS];
        let mut size = libc::socklen_t::try_from(size_of_val(&values)).unwrap_or(0);
        // SAFETY: the descriptor is open, and the kernel writes no more than `size` bytes to what outlives the call.
        let answer = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                values.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        if answer != 0 {
            return Room::default();
        }
        let value = |at: usize| usize::try_from(values[at]).unwrap_or(0);
        let used = if self.tcp {
            SK_MEMINFO_WMEM_QUEUED
        } else {
            SK_MEMINFO_WMEM_ALLOC
        };
        Room {
            limit: value(SK_MEMINFO_SNDBUF),
            used: value(used),
        }
    }

    /// Nothing more will be sent.
    pub(super) fn end(&self) {
        // It fails only where nobody listens any more.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Who is at the other end will see it break when this is dropped.
    pub(super) fn break_off(&self) {
        if self.tcp {
            // It is broken already where that fails.
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }
}

/// What a socket's last attempt came to.
pub(super) fn error_of(socket: &impl AsFd) -> Option<Errno> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error),
    }
}

/// C libraries count vectors in types of their own.
fn number<T: TryFrom<usize> + Default>(count: usize) -> T {
    T::try_from(count).unwrap_or_default()
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Receives one datagram, or what of it fits; None if there is none.
///
/// # Errors
/// What an earlier one came to.
pub(super) fn receive<'a>(
    socket: &OwnedFd,
    buffer: &'a mut [MaybeUninit<u8>],
) -> rustix::io::Result<Option<&'a mut [u8]>> {
    match rustix::net::recv(socket, buffer, rustix::net::RecvFlags::DONTWAIT) {
        Ok(((datagram, _), _)) => Ok(Some(datagram)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}
