//! Streams each way: whole, half closed, broken, refused, held up.
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use sha2::{Digest, Sha256};
use smoltcp::{iface::SocketHandle, socket::tcp::State};

use super::guest::{Guest, Loss, by_gateway, options};
use crate::usernet::feature;

/// Bytes that do not repeat soon.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next(&mut state)).collect()
}

fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A server that sends back what it gets, and the digest of that once its client ends.
fn echo(listener: TcpListener) -> thread::JoinHandle<[u8; 32]> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let bytes = stream.read(&mut buffer).unwrap();
            if bytes == 0 {
                return hash.finalize().into();
            }
            hash.update(&buffer[..bytes]);
            stream.write_all(&buffer[..bytes]).unwrap();
        }
    })
}

/// Sends `sent` to an echo, and reads it back.
fn there_and_back(guest: &mut Guest, handle: SocketHandle, sent: &[u8]) -> Vec<u8> {
    let (mut written, mut read) = (0, Vec::new());
    let mut buffer = vec![0; 1 << 16];
    guest.until("echoing", |guest| {
        let stream = guest.stream(handle);
        if written < sent.len() {
            written += stream.send_slice(&sent[written..]).unwrap();
            if written == sent.len() {
                stream.close();
            }
        }
        let bytes = stream.recv_slice(&mut buffer).unwrap_or(0);
        read.extend(&buffer[..bytes]);
        read.len() == sent.len()
    });
    read
}

fn echo_whole(mut guest: Guest, listener: TcpListener, length: usize) {
    let address = listener.local_addr().unwrap();
    let server = echo(listener);
    let handle = guest.connect(by_gateway(address));
    let sent = pattern(length);
    let read = there_and_back(&mut guest, handle, &sent);
    assert!(read == sent);
    let digest: [u8; 32] = Sha256::digest(&sent).into();
    assert_eq!(server.join().unwrap(), digest);
    guest.until("closing", |guest| {
        matches!(
            guest.stream(handle).state(),
            State::TimeWait | State::Closed
        )
    });
    let counters = guest.counters.clone();
    guest.until("forgetting", |_| {
        counters.closed.get() == counters.opened.get()
    });
}

#[test]
fn ten_megabytes_go_there_and_back() {
    echo_whole(Guest::start(), loopback(), 10 << 20);
}

#[test]
fn long_packets_go_there_and_back() {
    echo_whole(Guest::with(options(), 65520), loopback(), 10 << 20);
}

#[test]
fn packets_that_are_left_to_the_guest_to_cut_go_there_and_back() {
    let mut options = options();
    options.features = Arc::new(AtomicU64::new(feature::GUEST_CSUM | feature::GUEST_TSO4));
    echo_whole(Guest::with(options, 1500), loopback(), 10 << 20);
}

#[test]
fn ten_megabytes_go_there_and_back_over_ipv6() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return;
    };
    echo_whole(Guest::start(), listener, 10 << 20);
}

#[test]
fn what_is_lost_is_sent_again() {
    let mut guest = Guest::start();
    guest.lose(Loss {
        to_guest: 97,
        from_guest: 89,
    });
    let counters = guest.counters.clone();
    echo_whole(guest, loopback(), 1 << 20);
    assert!(counters.retransmits.get() > 0);
}
