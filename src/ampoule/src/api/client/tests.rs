use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use super::*;
use crate::api::resources::tests::{Fake, resources};

const SECOND: Duration = Duration::from_secs(1);

/// A client as it is served, and its own end.
struct Pair {
    client: Client,
    theirs: UnixStream,
    resources: Resources<Fake>,
    start: Instant,
}

impl Pair {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let start = Instant::now();
        Self {
            client: Client::new(ours.into(), start),
            theirs,
            resources: resources(vec![]),
            start,
        }
    }

    /// Sends bytes, and has the client's turn when this many seconds have passed.
    fn send(&mut self, bytes: &[u8], seconds: u32) -> bool {
        self.theirs.write_all(bytes).unwrap();
        self.turn(seconds)
    }

    fn turn(&mut self, seconds: u32) -> bool {
        let now = self.start + SECOND * seconds;
        self.client.turn(now, &mut self.resources)
    }

    /// The seconds from the start to its deadline.
    fn deadline(&self) -> Option<u64> {
        let deadline = self.client.deadline()?;
        Some(deadline.duration_since(self.start).as_secs())
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

#[test]
fn a_client_that_asks_for_nothing_is_waited_for_as_long_as_it_likes() {
    let mut pair = Pair::new();
    assert_eq!(pair.deadline(), None);
    assert!(pair.send(GET, 5));
    assert_eq!(pair.deadline(), None);
    let mut answer = [0; 17];
    pair.theirs.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK\r\n");
}

#[test]
fn a_request_has_its_time_from_its_first_byte_however_often_another_comes() {
    let mut pair = Pair::new();
    for (byte, second) in GET[..10].iter().zip(3..) {
        assert!(pair.send(&[*byte], second));
        assert_eq!(pair.deadline(), Some(13));
    }
    assert!(pair.send(&GET[10..], 13));
    assert_eq!(pair.deadline(), None);
    // What follows at once has a time of its own.
    assert!(pair.send(&[GET, &GET[..10]].concat(), 20));
    assert!(pair.client.has_more() && pair.turn(21) && !pair.client.has_more());
    assert_eq!(pair.deadline(), Some(30));
}

#[test]
fn an_answer_that_is_not_taken_has_its_time_and_nothing_is_read_meanwhile() {
    let mut pair = Pair::new();
    while pair.client.output.is_empty() {
        assert!(pair.send(GET, 1));
    }
    assert_eq!(pair.client.interest(), PollFlags::OUT);
    for second in 2..9 {
        assert!(pair.send(GET, second));
        assert_eq!(pair.deadline(), Some(11));
    }
    pair.theirs.set_nonblocking(true).unwrap();
    let mut chunk = [0; 64 << 10];
    while pair.deadline().is_some() || pair.client.has_more() {
        while pair.theirs.read(&mut chunk).is_ok() {}
        assert!(pair.turn(9));
    }
}

#[test]
fn who_is_refused_has_a_moment_to_read_why() {
    let mut pair = Pair::new();
    assert!(pair.send(b"nonsense\n", 1));
    assert_eq!(pair.deadline(), Some(3));
    assert!(pair.send(&[b'x'; 1000], 2) && pair.send(GET, 2));
    assert_eq!(pair.deadline(), Some(3));
    let mut answer = String::new();
    pair.theirs.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1").count(), 2, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    drop(pair.theirs.shutdown(std::net::Shutdown::Both));
    assert!(!pair.client.turn(pair.start, &mut pair.resources));
}

#[test]
fn who_is_in_the_middle_of_something_goes_last() {
    let (idle, mut busy, mut leaving) = (Pair::new(), Pair::new(), Pair::new());
    assert!(busy.send(b"GET", 0) && leaving.send(b"nonsense\n", 1));
    let worth = |pair: &Pair| pair.client.worth().0;
    assert!(!worth(&idle) && worth(&busy) && !worth(&leaving));
}
