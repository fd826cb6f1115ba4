//! Whatever a guest sends, and however connections go on: nothing is lost that should arrive, and nothing is left behind.
use std::io::{Read, Write};

use proptest::prelude::*;

use super::bench::{Bench, data_from_guest, from_guest};
use crate::virtio::{
    Device,
    vsock::packet::{Header, Ports, op},
};

/// A packet of a guest's that means nothing good.
fn any_packet() -> impl Strategy<Value = (Header, usize)> {
    let ports = (0u32..4, 0u32..4);
    let credit = (any::<u32>(), any::<u32>());
    (
        ports,
        0u16..9,
        0u16..3,
        any::<u32>(),
        credit,
        0usize..3000,
        any::<bool>(),
    )
        .prop_map(
            |((guest, host), op, kind, flags, (buf_alloc, fwd_cnt), length, honest)| {
                let ports = Ports { guest, host };
                let header = Header {
                    kind: if kind == 0 { 2 } else { 1 },
                    flags,
                    buf_alloc,
                    fwd_cnt,
                    len: if honest {
                        u32::try_from(length).unwrap()
                    } else {
                        0
                    },
                    ..from_guest(ports, op)
                };
                (header, length)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any packets lead to answers, and the device goes on.
    #[test]
    fn any_packets_are_answered_and_nothing_is_left(packets in proptest::collection::vec(any_packet(), 0..60)) {
        let mut bench = Bench::started();
        let servers: Vec<_> = (0..3).map(|port| bench.listen(port)).collect();
        for (header, length) in packets {
            bench.send(header, &vec![0x5a; length]);
            while bench.poll().is_some() {}
        }
        // What is still owed from before is gone with the driver.
        bench.device.reset();
        bench.wait_left(0);
        bench.start(32);
        let (mut client, ports) = bench.accept(52);
        bench.send(data_from_guest(ports, 2), b"ok");
        let mut read = [0; 2];
        client.read_exact(&mut read).unwrap();
        drop(servers);
    }

    /// What goes in at one end comes out at the other, in any pieces, while other connections come and go.
    #[test]
    fn streams_arrive_whole(
        sizes in proptest::collection::vec(1usize..9000, 1..20),
        others in proptest::collection::vec(0u32..5, 0..10),
    ) {
        let mut bench = Bench::started();
        let server = bench.listen(7);
        let ports = Ports { guest: 100, host: 7 };
        let mut stream = bench.connect(&server, ports);
        let (mut from_guest_sent, mut from_host_sent) = (Vec::<u8>::new(), Vec::<u8>::new());
        let (mut at_host, mut at_guest) = (Vec::<u8>::new(), Vec::<u8>::new());
        for (number, size) in sizes.iter().enumerate() {
            let byte = number.to_le_bytes()[0];
            let piece = vec![byte; *size];
            let fwd_cnt = u32::try_from(at_guest.len()).unwrap();
            bench.send(Header { fwd_cnt, ..data_from_guest(ports, *size) }, &piece);
            from_guest_sent.extend(&piece);
            let mut read = piece.clone();
            stream.read_exact(&mut read).unwrap();
            at_host.extend(&read);
            stream.write_all(&piece).unwrap();
            from_host_sent.extend(&piece);
            while at_guest.len() < from_host_sent.len() {
                let (header, data) = bench.next();
                if header.dst_port == ports.guest {
                    at_guest.extend(data);
                }
            }
            let taken = u32::try_from(at_guest.len()).unwrap();
            bench.send(Header { fwd_cnt: taken, ..from_guest(ports, op::CREDIT_UPDATE) }, &[]);
            if let Some(guest) = others.get(number) {
                let other = Ports { guest: *guest, host: 7 };
                bench.send(from_guest(other, op::REQUEST), &[]);
                bench.send(from_guest(other, op::RST), &[]);
                drop(server.accept().unwrap());
            }
        }
        prop_assert_eq!(at_host, from_guest_sent);
        prop_assert_eq!(at_guest, from_host_sent);
    }
}
