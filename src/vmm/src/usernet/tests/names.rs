//! Names, by a resolver of the test's own.
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    thread,
};

use smoltcp::wire::IpEndpoint;

use super::{
    datagrams::read_datagram,
    guest::{Guest, datagram, options, rules},
};
use crate::usernet::{Options, plan};

const GUEST: IpAddr = IpAddr::V4(plan::GUEST);
const RELAY: (IpAddr, u16) = (IpAddr::V4(plan::DNS), 53);
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

/// A question for the addresses of a name.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The answer to it: these addresses, for a minute.
fn answer(question: &[u8], addresses: &[[u8; 4]]) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[7] = u8::try_from(addresses.len()).unwrap();
    for address in addresses {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend(address);
    }
    message
}

fn resolver() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn with_resolvers(resolvers: &[SocketAddr]) -> Options {
    Options {
        resolvers: resolvers.to_vec(),
        ..options()
    }
}

/// Takes a question at the resolver, and who asked.
fn take(resolver: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 600];
    let (bytes, from) = resolver.recv_from(&mut buffer).unwrap();
    (buffer[..bytes].to_vec(), from)
}

fn reply(guest: &mut Guest) -> Vec<u8> {
    let (from, to, data) = read_datagram(&guest.wire.expect());
    assert_eq!((from, to), (RELAY, (GUEST, 4000)));
    data
}

#[test]
fn a_name_is_asked_for_in_disguise_and_answered() {
    let (server, address) = resolver();
    let mut guest = Guest::with(with_resolvers(&[address]), 1500);
    let asked = question(77, "example.org");
    guest.wire.put(&datagram((GUEST, 4000), RELAY, &asked));
    let (seen, from) = take(&server);
    assert_eq!(seen[2..], asked[2..]);
    // What is forged does not count, nor that it comes first.
    let mut forged = answer(&seen, &[[203, 0, 113, 6]]);
    forged[0] ^= 1;
    server.send_to(&forged, from).unwrap();
    server
        .send_to(&answer(&seen, &[[203, 0, 113, 5]]), from)
        .unwrap();
    assert_eq!(reply(&mut guest), answer(&asked, &[[203, 0, 113, 5]]));
}

#[test]
fn the_next_resolver_is_asked_where_one_is_not_there() {
    let (gone, nobody) = resolver();
    drop(gone);
    let (server, address) = resolver();
    let mut guest = Guest::with(with_resolvers(&[nobody, address]), 1500);
    let asked = question(1, "example.org");
    guest.wire.put(&datagram((GUEST, 4000), RELAY, &asked));
    let (seen, from) = take(&server);
    server
        .send_to(&answer(&seen, &[[203, 0, 113, 5]]), from)
        .unwrap();
    assert_eq!(reply(&mut guest), answer(&asked, &[[203, 0, 113, 5]]));
}

#[test]
fn no_resolver_is_a_failure_at_once() {
    let (gone, nobody) = resolver();
    drop(gone);
    for resolvers in [&[][..], &[nobody]] {
        let mut guest = Guest::with(with_resolvers(resolvers), 1500);
        guest
            .wire
            .put(&datagram((GUEST, 4000), RELAY, &question(1, "example.org")));
        assert_eq!(reply(&mut guest)[3] & 0xf, SERVFAIL);
        assert_eq!(guest.counters.names_failed.get(), 1);
    }
}

#[test]
fn names_that_are_denied_do_not_exist_and_are_not_asked_for() {
    let (server, address) = resolver();
    let mut options = with_resolvers(&[address]);
    options.policy = rules(&["deny", "allow=*.example.org"]);
    let mut guest = Guest::with(options, 1500);
    guest
        .wire
        .put(&datagram((GUEST, 4000), RELAY, &question(1, "example.com")));
    assert_eq!(reply(&mut guest)[3] & 0xf, NXDOMAIN);
    // A name that is allowed stands for addresses that are then allowed too, but never for the host's own.
    for (addresses, known) in [([127, 0, 0, 1], false), ([203, 0, 113, 5], true)] {
        let asked = question(2, "www.example.org");
        guest.wire.put(&datagram((GUEST, 4000), RELAY, &asked));
        let (seen, from) = take(&server);
        assert_eq!(seen[2..], asked[2..]);
        server.send_to(&answer(&seen, &[addresses]), from).unwrap();
        assert_eq!(reply(&mut guest)[3] & 0xf == 0, known);
    }
    assert_eq!(guest.counters.denied.get(), 2);
}

#[test]
fn long_answers_are_asked_for_again_over_a_stream() {
    let (server, address) = resolver();
    let listener = TcpListener::bind(address).unwrap();
    let mut guest = Guest::with(with_resolvers(&[address]), 1500);
    let addresses: Vec<_> = (0..200).map(|last| [203, 0, 113, last]).collect();
    let asked = question(9, "example.org");
    guest.wire.put(&datagram((GUEST, 4000), RELAY, &asked));
    let (seen, from) = take(&server);
    server.send_to(&answer(&seen, &addresses), from).unwrap();
    let truncated = reply(&mut guest);
    assert!(truncated[2] & 2 != 0 && truncated.len() < 512);

    let expected = answer(&asked, &addresses);
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut seen = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut seen).unwrap();
            let answer = answer(&seen, &addresses);
            let length = u16::try_from(answer.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    let handle = guest.connect(IpEndpoint::new(plan::DNS.into(), 53));
    let length = u16::try_from(asked.len()).unwrap();
    let framed = [&length.to_be_bytes()[..], &asked].concat();
    // Two in a row: they are answered in their order.
    guest.write_all(handle, &[&framed[..], &framed].concat());
    for _ in 0..2 {
        let length = guest.read_exact(handle, 2);
        assert_eq!(
            usize::from(u16::from_be_bytes([length[0], length[1]])),
            expected.len()
        );
        assert!(guest.read_exact(handle, expected.len()) == expected);
    }
    server.join().unwrap();
}
