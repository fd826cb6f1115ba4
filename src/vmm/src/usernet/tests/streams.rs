//! Streams each way: whole, half closed, broken, refused, held up.
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use sha2::{Digest, Sha256};
use smoltcp::{iface::SocketHandle, socket::tcp::State};

use super::guest::{Guest, Loss, by_gateway, options, rules};
use crate::{
    config::PortProtocol,
    usernet::{Network, Published, feature},
};

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
fn a_kernel_need_not_remember_what_was_looked_at() {
    let guest = Guest::on(options(), 1500, Network::without_memory_of_peeks);
    echo_whole(guest.addressed(), loopback(), 4 << 20);
}

#[test]
fn what_is_lost_on_the_way_to_the_guest_is_sent_again() {
    for change in [Network::without_memory_of_peeks, std::convert::identity] {
        let mut guest = Guest::on(options(), 1500, change).addressed();
        guest.lose(Loss {
            to_guest: 97,
            from_guest: 0,
        });
        let counters = guest.counters.clone();
        echo_whole(guest, loopback(), 256 << 10);
        assert!(counters.retransmits.get() > 0);
    }
}

#[test]
fn what_is_lost_on_the_way_from_the_guest_is_asked_for() {
    let mut guest = Guest::start();
    guest.lose(Loss {
        to_guest: 0,
        from_guest: 89,
    });
    echo_whole(guest, loopback(), 128 << 10);
}

/// A connection from the guest, and the host's end of it.
fn pair(guest: &mut Guest) -> (SocketHandle, TcpStream) {
    let listener = loopback();
    let handle = guest.connect(by_gateway(listener.local_addr().unwrap()));
    let (stream, _) = listener.accept().unwrap();
    (handle, stream)
}

#[test]
fn a_guest_that_sends_no_more_still_receives() {
    let mut guest = Guest::start();
    let (handle, mut stream) = pair(&mut guest);
    guest.write_all(handle, b"all");
    guest.stream(handle).close();
    guest.until("ending", |guest| {
        guest.stream(handle).state() == State::FinWait2
    });
    let mut read = Vec::new();
    stream.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"all");
    stream.write_all(b"and more").unwrap();
    assert_eq!(guest.read_exact(handle, 8), b"and more");
    drop(stream);
    guest.until("ending", |guest| {
        guest.stream(handle).state() == State::TimeWait
    });
}

#[test]
fn a_server_that_sends_no_more_still_receives() {
    let mut guest = Guest::start();
    let (handle, mut stream) = pair(&mut guest);
    stream.write_all(b"all").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.read_exact(handle, 3), b"all");
    guest.until("ending", |guest| {
        guest.stream(handle).state() == State::CloseWait
    });
    guest.write_all(handle, b"and more");
    guest.stream(handle).close();
    guest.until("ending", |guest| {
        guest.stream(handle).state() == State::Closed
    });
    let mut read = Vec::new();
    stream.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"and more");
}

#[test]
fn a_guest_that_breaks_off_is_felt_by_the_server() {
    let mut guest = Guest::start();
    let (handle, mut stream) = pair(&mut guest);
    guest.stream(handle).abort();
    let counters = guest.counters.clone();
    guest.until("breaking off", |_| counters.closed.get() == 1);
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_server_that_breaks_off_is_felt_by_the_guest() {
    let mut guest = Guest::start();
    let (handle, stream) = pair(&mut guest);
    guest.write_all(handle, b"nobody reads this");
    // Until it has arrived: to close is to break off then.
    stream.peek(&mut [0; 17]).unwrap();
    drop(stream);
    guest.until("breaking off", |guest| {
        guest.stream(handle).state() == State::Closed
    });
    assert_eq!(guest.counters.closed.get(), 1);
}

#[test]
fn what_nobody_listens_at_and_what_is_denied_is_refused() {
    let mut options = options();
    options.policy = rules(&["allow", "allow=127.0.0.1:1", "deny=192.0.2.0/24"]);
    let mut guest = Guest::with(options, 1500);
    let address = loopback().local_addr().unwrap();
    let denied = "192.0.2.1:80".parse().unwrap();
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let dialled = [
        by_gateway(nobody),
        by_gateway(address),
        SocketAddr::into(denied),
    ];
    let dialled = dialled.map(|to| guest.dial(to));
    for handle in dialled {
        guest.until("refusing", |guest| {
            guest.stream(handle).state() == State::Closed
        });
    }
    assert_eq!(guest.counters.denied.get(), 2);
    assert_eq!(guest.counters.opened.get(), 1);
}

#[test]
fn a_published_port_leads_to_the_guest() {
    let listener = loopback();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut options = options();
    options.published.push(Published {
        socket: listener.into(),
        protocol: PortProtocol::Tcp,
        guest_port: 22,
    });
    let mut guest = Guest::with(options, 1500);
    // Nobody listens there yet.
    let mut early = TcpStream::connect(address).unwrap();
    let counters = guest.counters.clone();
    guest.until("refusing", |_| counters.closed.get() == 1);
    assert!(early.read(&mut [0]).is_err());
    let handle = guest.listen(22);
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"knock").unwrap();
    assert_eq!(guest.read_exact(handle, 5), b"knock");
    guest.write_all(handle, b"yes?");
    guest.stream(handle).close();
    guest.until("ending", |guest| {
        guest.stream(handle).state() == State::FinWait2
    });
    let mut read = Vec::new();
    client.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"yes?");
    drop(client);
    guest.until("ending", |_| counters.closed.get() == 2);
}

#[test]
fn a_client_is_kept_until_the_guest_is_there() {
    let listener = loopback();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut options = options();
    options.published.push(Published {
        socket: listener.into(),
        protocol: PortProtocol::Tcp,
        guest_port: 22,
    });
    let mut guest = Guest::with(options, 1500);
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"knock").unwrap();
    // The first frames are lost: nobody drives the card yet.
    drop(guest.wire.expect());
    drop(guest.wire.expect());
    let handle = guest.listen(22);
    assert_eq!(guest.read_exact(handle, 5), b"knock");
}

#[test]
fn a_server_that_stops_reading_stops_the_guest_and_nobody_else() {
    let mut guest = Guest::start();
    let (handle, mut stream) = pair(&mut guest);
    let sent = pattern(16 << 20);
    let mut written = 0;
    // Until nothing has moved for a while: all buffers between them are full.
    let mut still = 0;
    guest.until("filling", |guest| {
        let more = guest.stream(handle).send_slice(&sent[written..]).unwrap();
        written += more;
        still = if more == 0 { still + 1 } else { 0 };
        still > 50
    });
    assert!(written < sent.len());
    let listener = loopback();
    let address = listener.local_addr().unwrap();
    let server = echo(listener);
    let other = guest.connect(by_gateway(address));
    assert!(there_and_back(&mut guest, other, &sent[..1 << 20]) == sent[..1 << 20]);
    server.join().unwrap();
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        stream.read_to_end(&mut read).unwrap();
        read
    });
    guest.write_all(handle, &sent[written..]);
    guest.stream(handle).close();
    guest.until("ending", |guest| {
        guest.stream(handle).state() == State::FinWait2
    });
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_guest_that_stops_reading_stops_the_server() {
    let mut guest = Guest::start();
    let (handle, mut stream) = pair(&mut guest);
    let sent = pattern(16 << 20);
    let copy = sent.clone();
    let writer = thread::spawn(move || stream.write_all(&copy).unwrap());
    guest.until("filling", |guest| {
        let stream = guest.stream(handle);
        stream.recv_queue() == stream.recv_capacity()
    });
    let counters = guest.counters.clone();
    assert!(counters.bytes_to_guest.get() < 1 << 20);
    assert!(!writer.is_finished());
    assert!(guest.read_exact(handle, sent.len()) == sent);
    writer.join().unwrap();
}

#[test]
fn many_connections_go_on_at_once_and_no_more_than_there_is_room_for() {
    const MANY: usize = 100;
    let mut options = options();
    options.flows = MANY;
    let mut guest = Guest::with(options, 1500);
    let listener = loopback();
    let to = by_gateway(listener.local_addr().unwrap());
    let handles: Vec<_> = (0..MANY).map(|_| guest.dial(to)).collect();
    guest.until("connecting", |guest| {
        let mut handles = handles.iter();
        handles.all(|handle| guest.stream(*handle).state() == State::Established)
    });
    let too_many = guest.dial(to);
    guest.until("refusing", |guest| {
        guest.stream(too_many).state() == State::Closed
    });
    assert_eq!(guest.counters.exhausted.get(), 1);
    let mut streams: Vec<_> = handles
        .iter()
        .map(|_| listener.accept().unwrap().0)
        .collect();
    let sent = pattern(20_000);
    for stream in &mut streams {
        stream.write_all(&sent).unwrap();
    }
    for handle in handles {
        assert!(guest.read_exact(handle, sent.len()) == sent);
    }
    drop(streams);
}
