//! A client of the control socket, by hand: what it sends, how and when, is the test's to say.
use std::{
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;

use crate::deadline::Deadline;

/// Where a guest's control socket is, in a directory of its own.
#[derive(Debug)]
pub struct Socket {
    _directory: TempDir,
    path: PathBuf,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, as they came.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl Default for Socket {
    /// A path at which there is nothing yet.
    fn default() -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let path = directory.path().join("api");
        Self {
            _directory: directory,
            path,
        }
    }
}

impl Socket {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, as an argument.
    ///
    /// # Panics
    /// When the directory for temporary files has a name that is not Unicode.
    pub fn argument(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }

    /// A connection.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn connect(&self) -> Connection {
        let stream = UnixStream::connect(&self.path).expect("the guest's process listens");
        Connection::of(stream)
    }

    /// Asks once, on a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.connect().ask(method, path, body)
    }

    /// Changes something.
    ///
    /// # Panics
    /// When that is refused.
    pub fn patch(&self, path: &str, body: &str) {
        let answer = self.ask("PATCH", path, body);
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    /// The number behind `key` in what `path` tells; none where there is no such key.
    ///
    /// # Panics
    /// When nothing is told, or the value is no number.
    pub fn number(&self, path: &str, key: &str) -> Option<u64> {
        let answer = self.ask("GET", path, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let value = answer.body.split(&format!("\"{key}\":")).nth(1)?;
        let digits = value.split([',', '}']).next().unwrap_or_default();
        Some(digits.parse().unwrap_or_else(|_| panic!("{answer:?}")))
    }

    /// The guest's state.
    ///
    /// # Panics
    /// When it is not told.
    pub fn state(&self) -> String {
        let answer = self.ask("GET", "/", "");
        let told = answer.body.split("\"state\":\"").nth(1);
        let told = told.and_then(|rest| rest.split('"').next());
        told.unwrap_or_else(|| panic!("{answer:?}")).to_owned()
    }
}

/// A connection to a control socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Connection {
    fn of(stream: UnixStream) -> Self {
        let left = Deadline::from_now().left();
        stream.set_read_timeout(left).expect("it is a socket");
        stream.set_write_timeout(left).expect("it is a socket");
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the other side has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes, and descriptors with the first of them.
    ///
    /// # Errors
    /// When the other side has closed the connection.
    ///
    /// # Panics
    /// When there are more descriptors than a message can have, or the bytes are not taken at once.
    pub fn send_with(&mut self, bytes: &[u8], descriptors: &[BorrowedFd]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let bytes = [IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL)?;
        assert_eq!(sent, bytes[0].len());
        Ok(())
    }

    /// Asks, and waits for the answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Answer {
        self.send(&request(method, path, body))
            .expect("it is listened to");
        self.answer().expect("there is an answer")
    }

    /// The next answer; none where the connection ends before it.
    ///
    /// # Panics
    /// When it takes too long, or is no answer.
    pub fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            let end = self
                .received
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            match end {
                Some(end) => break end + 4,
                None => self.receive()?,
            }
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).expect("text");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let length = head.split("Content-Length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.received.len() < length {
            self.receive()?;
        }
        let body = self.received.drain(..length).collect();
        Some(Answer {
            status: status.unwrap_or_else(|| panic!("{head:?}")),
            head,
            body: String::from_utf8(body).expect("text"),
        })
    }

    /// Whether it ends, with nothing more said.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn ends(&mut self) -> bool {
        self.received.is_empty() && self.receive().is_none()
    }

    /// Waits for more; none at the end.
    fn receive(&mut self) -> Option<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => None,
            Ok(count) => {
                self.received.extend(&chunk[..count]);
                Some(())
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("there was nothing to read in time: {error}"),
        }
    }
}

/// A request, as a plain client makes it.
pub fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}").into_bytes()
}
