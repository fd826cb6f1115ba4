//! Datagrams and echoes each way.
use std::net::{IpAddr, SocketAddr, UdpSocket};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetFrame, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr,
        IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket, UdpRepr,
    },
};

use super::guest::{Guest, Wire, by_gateway, datagram, icmp, options};
use crate::{
    config::PortProtocol,
    usernet::{Published, plan},
};

const GUEST: IpAddr = IpAddr::V4(plan::GUEST);
const GATEWAY: IpAddr = IpAddr::V4(plan::GATEWAY);
const PORT: u16 = 5000;

/// What a frame with a datagram over IPv4 holds: ends and data, with their checksums checked.
pub(super) fn read_datagram(frame: &[u8]) -> ((IpAddr, u16), (IpAddr, u16), Vec<u8>) {
    let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    assert!(packet.verify_checksum());
    assert_eq!(packet.next_header(), IpProtocol::Udp);
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    let udp = UdpPacket::new_checked(packet.payload()).unwrap();
    UdpRepr::parse(
        &udp,
        &from.into(),
        &to.into(),
        &ChecksumCapabilities::default(),
    )
    .unwrap();
    let ends = ((from.into(), udp.src_port()), (to.into(), udp.dst_port()));
    (ends.0, ends.1, udp.payload().to_vec())
}

fn server() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[test]
fn datagrams_go_there_and_back() {
    let mut guest = Guest::start();
    let (server, port) = server();
    for length in [0, 1, 1000, 40_000] {
        let sent = vec![0x5a; length];
        guest
            .wire
            .put(&datagram((GUEST, PORT), (GATEWAY, port), &sent));
        let mut buffer = vec![0; 65536];
        let (bytes, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..bytes], sent);
        server.send_to(&sent, from).unwrap();
        let (from, to, data) = read_datagram(&guest.wire.expect());
        assert_eq!((from, to), ((GATEWAY, port), (GUEST, PORT)));
        assert_eq!(data, sent);
    }
    assert_eq!(guest.counters.opened.get(), 1);
}

#[test]
fn datagrams_longer_than_the_link_takes_are_dropped() {
    let mut small = options();
    small.mtu = 1500;
    let mut guest = Guest::with(small, 1500);
    let (server, port) = server();
    guest
        .wire
        .put(&datagram((GUEST, PORT), (GATEWAY, port), b"?"));
    let (_, from) = server.recv_from(&mut [0; 1]).unwrap();
    server.send_to(&[0; 1473], from).unwrap();
    server.send_to(&[1; 1472], from).unwrap();
    let (_, _, data) = read_datagram(&guest.wire.expect());
    assert_eq!(data, [1; 1472]);
    assert_eq!(guest.counters.dropped_long.get(), 1);
}

/// The message about IP in a frame.
fn read_icmp(frame: &[u8]) -> Vec<u8> {
    let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    assert!(packet.verify_checksum());
    assert_eq!(packet.next_header(), IpProtocol::Icmp);
    packet.payload().to_vec()
}

/// Waits for news that something was not reached; why, and its ports.
fn unreachable(wire: &mut Wire) -> (Icmpv4DstUnreachable, u16, u16) {
    let message = read_icmp(&wire.expect());
    let packet = Icmpv4Packet::new_checked(&message[..]).unwrap();
    let repr = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
    let Icmpv4Repr::DstUnreachable {
        reason,
        header,
        data,
    } = repr
    else {
        panic!("{repr:?}");
    };
    assert_eq!(header.src_addr, plan::GUEST);
    let port = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    (reason, port(0), port(2))
}

#[test]
fn a_port_that_nobody_listens_at_is_unreachable() {
    let mut guest = Guest::start();
    let (socket, port) = server();
    drop(socket);
    guest
        .wire
        .put(&datagram((GUEST, PORT), (GATEWAY, port), b"?"));
    let told = unreachable(&mut guest.wire);
    assert_eq!(told, (Icmpv4DstUnreachable::PortUnreachable, PORT, port));
    // What is on the link besides the neighbour is denied as well.
    guest
        .wire
        .put(&datagram((GUEST, PORT), (plan::DNS.into(), 54), b"?"));
    let told = unreachable(&mut guest.wire);
    assert_eq!(told, (Icmpv4DstUnreachable::PortUnreachable, PORT, 54));
    let denied = "169.254.169.254".parse().unwrap();
    guest.wire.put(&datagram((GUEST, PORT), (denied, 80), b"?"));
    let told = unreachable(&mut guest.wire);
    assert_eq!(told, (Icmpv4DstUnreachable::CommProhibited, PORT, 80));
    assert_eq!(guest.counters.denied.get(), 1);
}

#[test]
fn a_published_port_takes_datagrams_for_the_guest() {
    let (socket, port) = server();
    socket.set_nonblocking(true).unwrap();
    let mut options = options();
    options.published.push(Published {
        socket: socket.into(),
        protocol: PortProtocol::Udp,
        guest_port: 53,
    });
    let mut guest = Guest::with(options, 1500);
    let clients = [server().0, server().0];
    let mut ports = Vec::new();
    for client in &clients {
        client
            .connect(SocketAddr::from(([127, 0, 0, 1], port)))
            .unwrap();
        client.send(b"question").unwrap();
        let (from, to, data) = read_datagram(&guest.wire.expect());
        assert_eq!(
            (from.0, to, &data[..]),
            (GATEWAY, (GUEST, 53), &b"question"[..])
        );
        ports.push(from.1);
    }
    assert_ne!(ports[0], ports[1]);
    for (client, port) in clients.iter().zip(ports) {
        guest
            .wire
            .put(&datagram((GUEST, 53), (GATEWAY, port), b"answer"));
        let mut buffer = [0; 10];
        let bytes = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], b"answer");
    }
    assert_eq!(guest.counters.opened.get(), 2);
}

#[test]
fn more_flows_than_there_is_room_for_push_out_those_that_are_not_used() {
    let mut options = options();
    options.flows = 16;
    let mut guest = Guest::with(options, 1500);
    let (server, port) = server();
    for own in 0..10_000 {
        guest
            .wire
            .put(&datagram((GUEST, 10_000 + own), (GATEWAY, port), b"flood"));
        // This one is in use all the while.
        guest.wire.put(&datagram((GUEST, 1), (GATEWAY, port), b"."));
        let mut buffer = [0; 5];
        for _ in 0..2 {
            server.recv_from(&mut buffer).unwrap();
        }
    }
    let counters = &guest.counters;
    assert_eq!(counters.opened.get() - counters.closed.get(), 16);
    // It came back rarely, if at all.
    assert!(counters.opened.get() < 10_000 + 100, "{counters:?}");
    assert_eq!(counters.evicted.get(), counters.closed.get());
}

#[test]
fn the_gateway_answers_echoes() {
    let mut guest = Guest::start();
    let checksums = ChecksumCapabilities::default();
    let data = [7; 1000];
    let request = Icmpv4Repr::EchoRequest {
        ident: 1,
        seq_no: 2,
        data: &data,
    };
    let mut message = vec![0; request.buffer_len()];
    request.emit(
        &mut Icmpv4Packet::new_unchecked(&mut message[..]),
        &checksums,
    );
    guest.wire.put(&icmp(GUEST, GATEWAY, &message));
    let reply = read_icmp(&guest.wire.expect());
    let packet = Icmpv4Packet::new_checked(&reply[..]).unwrap();
    let reply = Icmpv4Repr::parse(&packet, &checksums).unwrap();
    assert_eq!(
        reply,
        Icmpv4Repr::EchoReply {
            ident: 1,
            seq_no: 2,
            data: &data
        }
    );

    let (from, to) = ("fd00:a0a0::15".parse().unwrap(), plan::GATEWAY6);
    let request = Icmpv6Repr::EchoRequest {
        ident: 3,
        seq_no: 4,
        data: &data,
    };
    let mut message = vec![0; request.buffer_len()];
    request.emit(
        &from,
        &to,
        &mut Icmpv6Packet::new_unchecked(&mut message[..]),
        &checksums,
    );
    guest.wire.put(&icmp(from.into(), to.into(), &message));
    let frame = guest.wire.expect();
    let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
    let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let reply = Icmpv6Repr::parse(&to, &from, &message, &checksums).unwrap();
    assert_eq!(
        reply,
        Icmpv6Repr::EchoReply {
            ident: 3,
            seq_no: 4,
            data: &data
        }
    );
}

#[test]
fn datagrams_go_there_and_back_over_ipv6() {
    let Ok(server) = UdpSocket::bind("[::1]:0") else {
        return;
    };
    let to = by_gateway(server.local_addr().unwrap());
    let mut guest = Guest::start();
    let from: IpAddr = "fd00:a0a0::1234".parse().unwrap();
    let remote = (plan::GATEWAY6.into(), to.port);
    guest.wire.put(&datagram((from, PORT), remote, b"ask"));
    let mut buffer = [0; 8];
    let (bytes, client) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..bytes], b"ask");
    server.send_to(b"answer", client).unwrap();
    let frame = guest.wire.expect();
    let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    let udp = UdpPacket::new_checked(packet.payload()).unwrap();
    assert!(udp.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()));
    assert_eq!(udp.payload(), b"answer");
    assert_eq!(IpAddr::V6(packet.dst_addr()), from);
}
