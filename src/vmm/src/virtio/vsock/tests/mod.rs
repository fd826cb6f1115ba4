//! A guest's driver, honest and not, and clients and servers on the host.
mod bench;
mod limits;
mod moves;
mod properties;

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    time::Duration,
};

use self::bench::{BUFFER, Bench, CID, GUEST_ROOM, data_from_guest, from_guest, line};
use super::packet::{Header, Ports, ending, op};
use crate::virtio::Device;

const PORTS: Ports = Ports {
    guest: 1024,
    host: 7,
};

#[test]
fn a_client_reaches_the_port_that_it_names() {
    let mut bench = Bench::started();
    let (mut client, ports) = bench.accept(52);
    client.write_all(b"to the guest").unwrap();
    let (header, data) = bench.next();
    assert_eq!(
        (header.op, header.src_port, header.dst_port),
        (op::RW, ports.host, 52)
    );
    assert_eq!(data, b"to the guest");
    bench.send(data_from_guest(ports, 3), b"and");
    bench.send(data_from_guest(ports, 5), b" back");
    let mut read = [0; 8];
    client.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"and back");
}

#[test]
fn what_a_client_sends_behind_its_greeting_is_the_guests() {
    let mut bench = Bench::started();
    let mut client = bench.client("CONNECT 52\nalready");
    let ports = Ports {
        guest: 52,
        host: bench.expect(op::REQUEST).src_port,
    };
    assert!(bench.poll().is_none());
    bench.send(from_guest(ports, op::RESPONSE), &[]);
    assert_eq!(bench.next().1, b"already");
    assert!(line(&mut client).starts_with("OK "));
}

#[test]
fn a_greeting_may_come_in_pieces() {
    let mut bench = Bench::started();
    let mut client = bench.client("CON");
    for piece in ["NECT", " 5", "2"] {
        std::thread::sleep(Duration::from_millis(5));
        client.write_all(piece.as_bytes()).unwrap();
    }
    client.write_all(b"\n").unwrap();
    assert_eq!(bench.expect(op::REQUEST).dst_port, 52);
}

#[test]
fn what_is_no_greeting_is_hung_up_on() {
    let bench = Bench::started();
    let long = "CONNECT 1".to_owned() + &" ".repeat(60);
    for greeting in ["GET / HTTP/1.0\r\n", "CONNECT x\n", "\n", long.as_str()] {
        let mut client = bench.client(greeting);
        assert_eq!(client.read(&mut [0; 16]).unwrap_or(0), 0, "{greeting}");
    }
    bench.wait_left(0);
}

#[test]
fn a_port_where_nobody_listens_ends_the_client() {
    let mut bench = Bench::started();
    let mut client = bench.client("CONNECT 52\n");
    let ports = Ports {
        guest: 52,
        host: bench.expect(op::REQUEST).src_port,
    };
    bench.send(from_guest(ports, op::RST), &[]);
    assert_eq!(line(&mut client), "");
    bench.wait_left(0);
}

#[test]
fn a_client_may_wait_for_a_port() {
    let mut bench = Bench::started();
    let mut client = bench.client("CONNECT 52 wait=60000\n");
    for _ in 0..3 {
        let ports = Ports {
            guest: 52,
            host: bench.expect(op::REQUEST).src_port,
        };
        bench.send(from_guest(ports, op::RST), &[]);
    }
    let ports = Ports {
        guest: 52,
        host: bench.expect(op::REQUEST).src_port,
    };
    bench.send(from_guest(ports, op::RESPONSE), &[]);
    assert_eq!(line(&mut client), format!("OK {}\n", ports.host));
}

#[test]
fn a_client_waits_no_longer_than_it_said() {
    let bench = Bench::started();
    let mut client = bench.client("CONNECT 52 wait=20\n");
    assert_eq!(line(&mut client), "");
    bench.wait_left(0);
}

#[test]
fn before_there_is_a_driver_a_client_is_hung_up_on_or_waits() {
    let mut bench = Bench::new();
    assert_eq!(line(&mut bench.client("CONNECT 52\n")), "");
    let mut client = bench.client("CONNECT 52 wait=60000\n");
    bench.wait_left(1);
    bench.start(8);
    let ports = Ports {
        guest: 52,
        host: bench.expect(op::REQUEST).src_port,
    };
    bench.send(from_guest(ports, op::RESPONSE), &[]);
    assert!(line(&mut client).starts_with("OK "));
}

#[test]
fn a_client_that_goes_is_forgotten_by_both_sides() {
    let mut bench = Bench::started();
    let client = bench.client("CONNECT 52\n");
    let asked = bench.expect(op::REQUEST);
    drop(client);
    let reset = bench.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (asked.src_port, 52));
    bench.wait_left(0);
}

#[test]
fn a_client_that_greets_and_goes_at_once_is_not_waited_for() {
    let mut bench = Bench::started();
    // So that both are seen together.
    bench.device.pause();
    drop(bench.client("CONNECT 52 wait=60000\n"));
    bench.device.resume();
    let _next = bench.accept(53);
    bench.wait_left(1);
}

#[test]
fn the_guest_reaches_a_server_on_the_host() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let mut stream = bench.connect(&server, PORTS);
    bench.send(data_from_guest(PORTS, 4), b"ping");
    let mut read = [0; 4];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"ping");
    stream.write_all(b"pong").unwrap();
    assert_eq!(bench.next().1, b"pong");
}

#[test]
fn where_no_server_is_the_guest_is_refused() {
    let mut bench = Bench::started();
    std::fs::write(bench.path(Some(1)), "a file").unwrap();
    let _elsewhere = bench.listen(77);
    std::os::unix::fs::symlink(bench.path(Some(77)), bench.path(Some(2))).unwrap();
    drop(bench.listen(3));
    for host in 0..4 {
        let ports = Ports { guest: 9, host };
        bench.send(from_guest(ports, op::REQUEST), &[]);
        let reset = bench.expect(op::RST);
        assert_eq!((reset.src_port, reset.dst_port), (host, 9), "port {host}");
    }
    bench.wait_left(0);
}

#[test]
fn a_guest_that_has_no_such_connection_is_told_so() {
    let mut bench = Bench::started();
    for op in [
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0,
        99,
    ] {
        bench.send(from_guest(PORTS, op), &[]);
        bench.expect(op::RST);
    }
    // One that is not a stream, too.
    let seqpacket = Header {
        kind: 2,
        ..from_guest(PORTS, op::REQUEST)
    };
    bench.send(seqpacket, &[]);
    bench.expect(op::RST);
    // But not what is itself a reset, or from or to somebody else.
    bench.send(from_guest(PORTS, op::RST), &[]);
    bench.send(
        Header {
            src_cid: 4,
            ..from_guest(PORTS, op::RW)
        },
        &[],
    );
    bench.send(
        Header {
            dst_cid: u64::from(CID),
            ..from_guest(PORTS, op::RW)
        },
        &[],
    );
    assert!(bench.poll().is_none());
    assert_eq!(bench.device.counters().dropped.get(), 2);
}

#[test]
fn each_side_may_end_its_direction_alone() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let mut stream = bench.connect(&server, PORTS);
    // The guest sends no more, and still gets.
    bench.send(data_from_guest(PORTS, 4), b"last");
    bench.send(
        Header {
            flags: ending::SEND,
            ..from_guest(PORTS, op::SHUTDOWN)
        },
        &[],
    );
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "last");
    stream.write_all(b"answer").unwrap();
    assert_eq!(bench.next().1, b"answer");
    // Now the host does not either.
    stream.shutdown(Shutdown::Write).unwrap();
    let told = bench.expect(op::SHUTDOWN);
    assert_ne!(told.flags & ending::SEND, 0);
    bench.send(
        Header {
            flags: ending::BOTH,
            ..from_guest(PORTS, op::SHUTDOWN)
        },
        &[],
    );
    bench.expect(op::RST);
    bench.wait_left(0);
}

#[test]
fn a_guest_that_reads_no_more_ends_who_writes() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let mut stream = bench.connect(&server, PORTS);
    bench.send(
        Header {
            flags: ending::RECEIVE,
            ..from_guest(PORTS, op::SHUTDOWN)
        },
        &[],
    );
    let error = stream.write(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    bench.send(data_from_guest(PORTS, 2), b"ok");
    let mut read = [0; 2];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"ok");
}

#[test]
fn what_a_client_sent_before_it_went_arrives() {
    let mut bench = Bench::started();
    let (mut client, ports) = bench.accept(52);
    client.write_all(&[7; 10_000]).unwrap();
    drop(client);
    let mut got = 0;
    loop {
        let (header, data) = bench.next();
        if header.op == op::SHUTDOWN {
            assert_eq!(header.flags & ending::SEND, ending::SEND);
            break;
        }
        assert!(data.iter().all(|byte| *byte == 7));
        got += data.len();
    }
    assert_eq!(got, 10_000);
    bench.send(from_guest(ports, op::RST), &[]);
    bench.wait_left(0);
}

#[test]
fn descriptors_that_come_along_hide_nothing_behind_them() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::{io::IoSlice, os::fd::AsFd};
    let mut bench = Bench::started();
    let (mut client, _) = bench.accept(52);
    let descriptors = [client.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    assert!(along.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(
        &client,
        &[IoSlice::new(b"one")],
        &mut along,
        SendFlags::empty(),
    )
    .unwrap();
    client.write_all(b"two").unwrap();
    let mut got = Vec::new();
    while got.len() < 6 {
        got.extend(bench.next().1);
    }
    assert_eq!(got, b"onetwo");
}

#[test]
fn a_reset_ends_what_the_driver_had_and_keeps_who_waits() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let mut stream = bench.connect(&server, PORTS);
    let mut waiting = bench.client("CONNECT 52 wait=60000\n");
    bench.expect(op::REQUEST);
    bench.device.reset();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    bench.wait_left(1);
    bench.start(8);
    let ports = Ports {
        guest: 52,
        host: bench.expect(op::REQUEST).src_port,
    };
    bench.send(from_guest(ports, op::RESPONSE), &[]);
    assert!(line(&mut waiting).starts_with("OK "));
}

#[test]
fn during_a_pause_nothing_moves() {
    let mut bench = Bench::started();
    let (mut client, ports) = bench.accept(52);
    bench.device.pause();
    client.write_all(b"later").unwrap();
    bench.put(data_from_guest(ports, 4), b"also");
    bench.ring();
    std::thread::sleep(Duration::from_millis(20));
    assert!(bench.poll().is_none() && bench.tx.used().is_none());
    bench.device.resume();
    assert_eq!(bench.next().1, b"later");
    let mut read = [0; 4];
    client.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"also");
}

#[test]
fn a_driver_that_breaks_the_rules_stops_its_own_device() {
    let breaks: [fn(&mut Bench); 4] = [
        // A packet without a header.
        |bench| {
            bench.tx.offer(&[(0x10_0000, 43)], &[]);
        },
        // One in memory that is not there.
        |bench| {
            bench.tx.offer(&[(1 << 40, 44)], &[]);
        },
        // A buffer without room.
        |bench| {
            bench.rx.offer(&[], &[(0x10_0000, 44)]);
            bench.send(from_guest(PORTS, op::RW), &[]);
        },
        // More packets than there are entries.
        |bench| bench.tx.claim(1000),
    ];
    for act in breaks {
        let mut bench = Bench::new();
        bench.start(0);
        act(&mut bench);
        bench.ring();
        bench.wait_broken();
        // A reset mends it.
        bench.device.reset();
        bench.start(8);
        bench.accept(52);
    }
}

#[test]
fn buffers_of_any_shape_are_filled() {
    let mut bench = Bench::started();
    let (mut client, _) = bench.accept(52);
    let sent: Vec<u8> = (0..40_000u32)
        .map(|index| (index % 251).to_le_bytes()[0])
        .collect();
    client.write_all(&sent).unwrap();
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let (_, data) = bench.next();
        assert!(data.len() <= usize::try_from(BUFFER).unwrap() - 44);
        got.extend(data);
    }
    assert_eq!(got, sent);
}
