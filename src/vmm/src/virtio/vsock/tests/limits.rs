//! What is bounded: the room that either side has, answers, connections, and work when there is nothing to do.
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::{Bench, GUEST_ROOM, PORTS, data_from_guest, from_guest};
use crate::virtio::vsock::packet::{Header, Ports, ending, op};

#[test]
fn a_guest_gets_no_more_than_it_has_room_for() {
    let mut bench = Bench::started();
    let (mut client, ports) = bench.accept(52);
    let sent: Vec<u8> = (0..150_000u32)
        .map(|index| index.to_le_bytes()[0])
        .collect();
    let bytes = sent.clone();
    let writer = std::thread::spawn(move || client.write_all(&bytes).map(|()| client));
    let (mut got, mut taken) = (Vec::new(), 0);
    while got.len() < sent.len() {
        let (header, data) = bench.next();
        got.extend(data);
        let under_way = u32::try_from(got.len()).unwrap() - taken;
        assert!(under_way <= GUEST_ROOM);
        if header.op == op::CREDIT_REQUEST {
            assert_eq!(under_way, GUEST_ROOM);
            taken = u32::try_from(got.len()).unwrap();
            let credit = Header {
                fwd_cnt: taken,
                ..from_guest(ports, op::CREDIT_UPDATE)
            };
            bench.send(credit, &[]);
        }
    }
    assert_eq!(got, sent);
    drop(writer.join().unwrap().unwrap());
}

/// A guest's packets until a peer that does not read has no room for another; how many bytes they were.
fn fill(bench: &mut Bench, ports: Ports) -> usize {
    let (mut sent, mut forwarded, room) = (0u32, 0u32, 256u32 << 10);
    let piece = 16u32 << 10;
    loop {
        while let Some((header, _)) = bench.poll() {
            forwarded = header.fwd_cnt;
        }
        if sent - forwarded + piece > room {
            // What is on its way says so when it is asked.
            bench.send(from_guest(ports, op::CREDIT_REQUEST), &[]);
            let told = bench.expect(op::CREDIT_UPDATE).fwd_cnt;
            if told == forwarded {
                return usize::try_from(sent).unwrap();
            }
            forwarded = told;
            continue;
        }
        let data = vec![sent.to_le_bytes()[2]; usize::try_from(piece).unwrap()];
        bench.send(data_from_guest(ports, data.len()), &data);
        sent += piece;
    }
}

#[test]
fn a_peer_that_does_not_read_stops_nobody_else() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let mut deaf = bench.connect(&server, PORTS);
    let sent = fill(&mut bench, PORTS);
    assert!(sent >= 256 << 10);
    let other = Ports {
        guest: 1025,
        ..PORTS
    };
    let mut stream = bench.connect(&server, other);
    bench.send(data_from_guest(other, 2), b"ok");
    let mut read = [0; 2];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"ok");
    // It gets all of it once it reads.
    let mut all = vec![0; sent];
    deaf.read_exact(&mut all).unwrap();
    let expected = (0..sent)
        .step_by(16 << 10)
        .flat_map(|at| vec![u32::try_from(at).unwrap().to_le_bytes()[2]; 16 << 10]);
    assert!(expected.eq(all));
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_loses_that_connection_alone() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let _deaf = bench.connect(&server, PORTS);
    let other = Ports {
        guest: 1025,
        ..PORTS
    };
    let mut stream = bench.connect(&server, other);
    fill(&mut bench, PORTS);
    let data = vec![0; 17 << 10];
    bench.send(data_from_guest(PORTS, data.len()), &data);
    let reset = bench.expect(op::RST);
    assert_eq!(reset.dst_port, PORTS.guest);
    assert_eq!(bench.device.counters().overruns.get(), 1);
    bench.wait_left(1);
    bench.send(data_from_guest(other, 2), b"ok");
    let mut read = [0; 2];
    stream.read_exact(&mut read).unwrap();
}

#[test]
fn what_a_guest_sent_before_it_ended_arrives() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let mut slow = bench.connect(&server, PORTS);
    let sent = fill(&mut bench, PORTS);
    bench.send(
        Header {
            flags: ending::BOTH,
            ..from_guest(PORTS, op::SHUTDOWN)
        },
        &[],
    );
    let mut all = Vec::new();
    slow.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), sent);
    bench.expect(op::RST);
    bench.wait_left(0);
}

#[test]
fn a_guest_without_buffers_costs_nothing_and_loses_nothing() {
    let mut bench = Bench::new();
    bench.start(0);
    for guest in 0..600 {
        let stray = Ports { guest, host: 1 };
        bench.put(from_guest(stray, op::RW), &[]);
        bench.ring();
        if guest < 256 {
            bench.wait_taken(1);
        } else {
            break;
        }
    }
    // As many resets are owed as ever will be: it takes no more of the guest's packets.
    assert!(bench.tx.used().is_none());
    assert_sleeps(&bench);
    for _ in 0..8 {
        bench.offer_buffer();
    }
    bench.ring();
    for guest in 0..257 {
        assert_eq!(bench.expect(op::RST).dst_port, guest);
    }
    bench.wait_taken(1);
}

/// Its thread comes to rest.
fn assert_sleeps(bench: &Bench) {
    let waits = || bench.device.counters().waits.get();
    let rests = (0..100).any(|_| {
        let before = waits();
        std::thread::sleep(Duration::from_millis(20));
        waits() == before
    });
    assert!(rests, "it does not sleep");
}

#[test]
fn it_sleeps_when_there_is_nothing_to_do() {
    let mut bench = Bench::started();
    let (mut client, ports) = bench.accept(52);
    // There is more than the guest has room for, and it has asked for none.
    client.set_nonblocking(true).unwrap();
    while client.write(&[0; 4096]).is_ok() {}
    while bench.next().0.op != op::CREDIT_REQUEST {}
    assert_sleeps(&bench);
    // Gone, and still nothing to do.
    drop(client);
    assert_sleeps(&bench);
    bench.send(from_guest(ports, op::RST), &[]);
    bench.wait_left(0);
}

#[test]
fn there_are_as_many_connections_as_were_allowed() {
    let mut bench = Bench::with(4);
    bench.start(16);
    let server = bench.listen(PORTS.host);
    let kept: Vec<UnixStream> = (0..4)
        .map(|guest| bench.connect(&server, Ports { guest, ..PORTS }))
        .collect();
    bench.send(from_guest(Ports { guest: 9, ..PORTS }, op::REQUEST), &[]);
    bench.expect(op::RST);
    let mut client = UnixStream::connect(bench.path(None)).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
    drop(kept);
    for _ in 0..4 {
        let left = bench.expect(op::SHUTDOWN);
        bench.send(
            from_guest(
                Ports {
                    guest: left.dst_port,
                    host: left.src_port,
                },
                op::RST,
            ),
            &[],
        );
    }
    bench.wait_left(0);
    bench.connect(&server, PORTS);
}
