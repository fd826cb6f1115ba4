//! Whatever a guest sends: nobody panics, nothing hangs, and others are served.
use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener},
};

use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::guest::{Guest, MAC, blank, by_gateway, segment};
use crate::usernet::plan;

const GUEST: (IpAddr, u16) = (IpAddr::V4(plan::GUEST), 1234);

/// A message that means nothing good: what lies behind a sound beginning of some length is anything.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        Just([0; 12].to_vec()),
        prop::collection::vec(any::<u8>(), 12)
    ];
    let ethertype = prop_oneof![
        Just(vec![0x08, 0x00, 0x45]),
        Just(vec![0x86, 0xdd, 0x60]),
        Just(vec![0x08, 0x06]),
        prop::collection::vec(any::<u8>(), 2),
    ];
    let rest = prop::collection::vec(any::<u8>(), 0..200);
    (header, ethertype, rest, 0usize..300).prop_map(|(header, ethertype, rest, length)| {
        let mut message = [
            header,
            plan::NEIGHBOUR.to_vec(),
            MAC.to_vec(),
            ethertype,
            rest,
        ]
        .concat();
        message.truncate(length.max(1));
        message
    })
}

fn any_control() -> impl Strategy<Value = TcpControl> {
    prop_oneof![
        6 => Just(TcpControl::None),
        2 => Just(TcpControl::Psh),
        1 => Just(TcpControl::Fin),
        1 => Just(TcpControl::Syn),
        1 => Just(TcpControl::Rst),
    ]
}

/// Sequence numbers near the ones in use, or anywhere.
fn any_distance() -> impl Strategy<Value = i32> {
    prop_oneof![4 => -3i32..200, 1 => any::<i32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_messages_leave_others_alone(messages in prop::collection::vec(any_message(), 0..100)) {
        let mut guest = Guest::start();
        for message in &messages {
            guest.wire.put_message(message);
            while guest.wire.next().is_some() {}
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = guest.connect(by_gateway(listener.local_addr().unwrap()));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"ok").unwrap();
        prop_assert_eq!(guest.read_exact(handle, 2), b"ok");
    }

    #[test]
    fn any_segments_leave_others_alone(
        segments in prop::collection::vec(
            (any_control(), any_distance(), prop::option::of(any_distance()), any::<u16>(), 0usize..300),
            0..100,
        ),
        mss in prop::option::of(any::<u16>()),
        window_scale in prop::option::of(any::<u8>()),
    ) {
        let mut guest = Guest::start();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let to = (IpAddr::V4(plan::GATEWAY), address.port());
        let syn = TcpRepr { control: TcpControl::Syn, max_seg_size: mss, window_scale, ..blank() };
        guest.wire.put(&segment(GUEST, to, syn));
        let frame = guest.wire.expect();
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let answer = TcpPacket::new_checked(packet.payload()).unwrap();
        prop_assert!(answer.syn() && answer.ack());
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(&[0x5a; 20_000]).unwrap();
        let data = [0xa5; 300];
        for (control, seq, ack, window_len, length) in segments {
            let repr = TcpRepr {
                control,
                seq_number: TcpSeqNumber(1) + usize::try_from(seq.max(0)).unwrap(),
                ack_number: ack.map(|ack| TcpSeqNumber(answer.seq_number().0.wrapping_add(1).wrapping_add(ack))),
                window_len,
                payload: &data[..length],
                ..blank()
            };
            guest.wire.put(&segment(GUEST, to, repr));
            while guest.wire.next().is_some() {}
        }
        // What arrived is what was sent, and nothing else.
        let mut read = [0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut read) {
            prop_assert!(read[..bytes].iter().all(|byte| *byte == 0xa5));
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = guest.connect(by_gateway(listener.local_addr().unwrap()));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"ok").unwrap();
        prop_assert_eq!(guest.read_exact(handle, 2), b"ok");
    }
}
