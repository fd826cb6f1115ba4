//! The host's side of measured transfers, beside `guest-traffic` in the guest: a connection that the guest has made, over which it is told
//! what to send and to receive. What is fixed is the amount; what is measured is the time.
use std::{
    fs::File,
    io::{self, Read, Write},
    net::UdpSocket,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
};

/// Bytes of a datagram, without its headers.
pub const DATAGRAM: usize = 64;
/// Of what is sent and received at a time.
const PIECE: usize = 64 << 10;
/// Of the lab's clock: how long nothing comes before a guest is given up, ten times what any whole transfer takes. A guest that spins costs
/// minutes of real time for a few of these seconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for datagrams, of which the last is sent before it is waited for.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A guest that does what it is told.
#[derive(Debug)]
pub struct Peer {
    stream: File,
    piece: Vec<u8>,
}

impl Peer {
    /// On a stream that the guest has connected.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        let stream = stream.into();
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&stream, which, Some(PATIENCE))?;
        }
        Ok(Self {
            stream: stream.into(),
            piece: vec![0; PIECE],
        })
    }

    fn order(&mut self, letter: u8, count: u64) -> io::Result<()> {
        let mut order = vec![letter];
        order.extend(count.to_le_bytes());
        self.stream.write_all(&order)
    }

    /// Has the guest send so many bytes, and receives them.
    ///
    /// # Errors
    /// When it does not.
    pub fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.order(b's', bytes)?;
        let mut left = bytes;
        while left > 0 {
            match self.stream.read(&mut self.piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => left = left.saturating_sub(got as u64),
            }
        }
        Ok(())
    }

    /// Sends so many bytes, 64 KiB at a time, and waits until the guest has them all.
    ///
    /// # Errors
    /// When it does not take them.
    pub fn give(&mut self, bytes: u64) -> io::Result<()> {
        self.order(b'r', bytes)?;
        let mut left = bytes;
        while left > 0 {
            let now = left.min(PIECE as u64);
            self.stream
                .write_all(&self.piece[..usize::try_from(now).unwrap_or(PIECE)])?;
            left -= now;
        }
        self.stream.read_exact(&mut [0])
    }

    /// Sends a byte and waits for its answer, so many times.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn echo(&mut self, count: u64) -> io::Result<()> {
        self.order(b'e', count)?;
        for _ in 0..count {
            self.stream.write_all(&[1])?;
            self.stream.read_exact(&mut [0])?;
        }
        Ok(())
    }

    /// Has the guest send so many datagrams, and receives them.
    ///
    /// # Errors
    /// When one is lost.
    pub fn take_datagrams(&mut self, socket: &UdpSocket, count: u64) -> io::Result<()> {
        self.order(b'u', count)?;
        for came in 0..count {
            let received = socket.recv(&mut self.piece);
            received.map_err(|_| lost(came, count))?;
        }
        Ok(())
    }

    /// Sends so many datagrams, and waits until the guest has them all.
    ///
    /// # Errors
    /// When one is lost.
    pub fn give_datagrams(&mut self, socket: &UdpSocket, count: u64) -> io::Result<()> {
        self.order(b'v', count)?;
        for _ in 0..count {
            socket.send(&self.piece[..DATAGRAM])?;
        }
        let mut came = [0; 8];
        self.stream.read_exact(&mut came)?;
        match u64::from_le_bytes(came) {
            came if came == count => Ok(()),
            came => Err(lost(came, count)),
        }
    }

    /// Lets the guest go.
    ///
    /// # Errors
    /// When it has gone already.
    pub fn end(&mut self) -> io::Result<()> {
        self.order(b'q', 0)
    }
}

fn lost(came: u64, of: u64) -> io::Error {
    io::Error::other(format!("{came} of {of} datagrams came"))
}

/// A socket for datagrams between `here` and `there`, with room for all that are under way.
///
/// # Errors
/// When there is no such address, or no privilege to have so much room.
pub fn datagrams(here: &str, there: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(here)?;
    socket.connect(there)?;
    set_socket_recv_buffer_size_force(&socket, 16 << 20)?;
    socket.set_read_timeout(Some(LOST_AFTER))?;
    Ok(socket)
}

/// Whether somebody wants to connect, within `timeout`.
///
/// # Errors
/// When `listener` is not to be waited for.
pub fn knocks(listener: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut events = [PollFd::new(listener, PollFlags::IN)];
    Ok(poll(&mut events, Some(&timeout))? > 0)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, thread};

    use super::*;

    /// A guest that hears one order and answers as it is told here.
    fn guest(answer: impl FnOnce(&mut UnixStream, u8, u64) + Send + 'static) -> Peer {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let (mut letter, mut count) = ([0], [0; 8]);
            theirs.read_exact(&mut letter).unwrap();
            theirs.read_exact(&mut count).unwrap();
            answer(&mut theirs, letter[0], u64::from_le_bytes(count));
        });
        Peer::new(ours).unwrap()
    }

    #[test]
    fn a_transfer_is_over_when_all_bytes_are_there() {
        let sends = |stream: &mut UnixStream, letter, count: u64| {
            assert_eq!(letter, b's');
            stream
                .write_all(&vec![7; usize::try_from(count).unwrap()])
                .unwrap();
        };
        guest(sends).take(100_000).unwrap();
        let takes = |stream: &mut UnixStream, letter, count: u64| {
            assert_eq!(letter, b'r');
            io::copy(&mut stream.take(count), &mut io::sink()).unwrap();
            stream.write_all(&[1]).unwrap();
        };
        guest(takes).give(200_000).unwrap();
    }

    #[test]
    fn a_guest_that_goes_is_an_error() {
        assert!(guest(|_, _, _| ()).take(10).is_err());
        assert!(guest(|_, _, _| ()).echo(10).is_err());
    }

    #[test]
    fn a_datagram_that_is_lost_is_told() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        let loses = |stream: &mut UnixStream, _, count: u64| {
            stream.write_all(&(count - 1).to_le_bytes()).unwrap();
        };
        let error = guest(loses).give_datagrams(&socket, 5).unwrap_err();
        assert_eq!(error.to_string(), "4 of 5 datagrams came");
    }
}
