//! The link itself: who is there, what it is called, and what is not let through.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use smoltcp::{
    socket::dhcpv4,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, DhcpPacket, EthernetAddress, EthernetFrame,
        EthernetProtocol, EthernetRepr, Icmpv6Packet, Icmpv6Repr, Ipv4Packet, Ipv6Packet,
        NdiscNeighborFlags, NdiscRepr, TcpControl, TcpRepr, TcpSeqNumber,
    },
};

use super::guest::{Guest, MAC, blank, datagram, icmp, options, segment};
use crate::usernet::{Counters, plan};

const GUEST: IpAddr = IpAddr::V4(plan::GUEST);
const GATEWAY: IpAddr = IpAddr::V4(plan::GATEWAY);

fn ask_who_has(address: Ipv4Addr) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(MAC),
        source_protocol_addr: plan::GUEST,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    let mut frame = vec![0; 14 + repr.buffer_len()];
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MAC),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

#[test]
fn the_neighbour_says_who_it_is_and_nothing_of_others() {
    let mut guest = Guest::start();
    for nobody in ["10.0.2.15", "10.0.2.4", "8.8.8.8"] {
        guest.wire.put(&ask_who_has(nobody.parse().unwrap()));
    }
    for address in [plan::GATEWAY, plan::DNS] {
        guest.wire.put(&ask_who_has(address));
        let frame = guest.wire.expect();
        let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
        assert_eq!(frame.dst_addr(), EthernetAddress(MAC));
        let reply = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
        let expected = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(plan::NEIGHBOUR),
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress(MAC),
            target_protocol_addr: plan::GUEST,
        };
        assert_eq!(reply, expected);
    }
}

#[test]
fn a_guest_gets_its_address_by_dhcp() {
    let mut options = options();
    options.hostname = Some("box".into());
    options.search = vec!["example.org".into(), "bad..name".into(), "a.example".into()];
    let mut guest = Guest::without_address(options, 1500);
    let mut socket = dhcpv4::Socket::new();
    socket.set_receive_packet_buffer(Box::leak(vec![0; 1024].into_boxed_slice()));
    let handle = guest.sockets.add(socket);
    let mut lease = None;
    guest.until("a lease", |guest| {
        let socket = guest.sockets.get_mut::<dhcpv4::Socket<'static>>(handle);
        if let Some(dhcpv4::Event::Configured(config)) = socket.poll() {
            let packet: DhcpPacket<&[u8]> = config.packet.unwrap();
            let mut options: Vec<_> = packet
                .options()
                .map(|option| (option.kind, option.data.to_vec()))
                .collect();
            options.sort();
            lease = Some((
                config.address,
                config.router,
                config.dns_servers[0],
                options,
            ));
        }
        lease.is_some()
    });
    let (address, router, dns, options) = lease.unwrap();
    assert_eq!((address.address(), address.prefix_len()), (plan::GUEST, 24));
    assert_eq!((router, dns), (Some(plan::GATEWAY), plan::DNS));
    let option = |kind: u8| {
        options
            .iter()
            .find(|option| option.0 == kind)
            .map(|option| &option.1[..])
    };
    assert_eq!(option(12), Some(&b"box"[..]));
    assert_eq!(option(15), Some(&b"example.org"[..]));
    assert_eq!(option(26), Some(&plan::MTU.to_be_bytes()[..]));
    assert_eq!(
        option(119),
        Some(&b"\x07example\x03org\x00\x01a\x07example\x00"[..])
    );
}

#[test]
fn a_guest_makes_an_address_of_an_advertisement() {
    let expected: Ipv6Addr = "fd00:a0a0::400:acff:fe10:2".parse().unwrap();
    let link = "fe80::400:acff:fe10:2".parse().unwrap();
    let mut guest = Guest::autoconfigured(options(), link);
    guest.until("an address", |guest| guest.interface.has_ip_addr(expected));
}

#[test]
fn an_advertisement_names_the_relay() {
    let mut guest = Guest::start();
    let own: Ipv6Addr = "fe80::1".parse().unwrap();
    let all_routers = "ff02::2".parse().unwrap();
    let solicit = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
    let frame = on_link(own, all_routers, &solicit);
    guest.wire.put(&frame);
    let frame = guest.wire.expect();
    let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    assert_eq!((packet.src_addr(), packet.dst_addr()), (plan::ROUTER6, own));
    assert_eq!(packet.hop_limit(), 255);
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    assert!(message.verify_checksum(&plan::ROUTER6, &own));
    let option = [&[25, 3, 0, 0, 255, 255, 255, 255][..], &plan::DNS6.octets()].concat();
    assert!(packet.payload().ends_with(&option));
}

/// A message about the link, of which some must not have come over a router.
fn on_link(from: Ipv6Addr, to: Ipv6Addr, repr: &Icmpv6Repr<'_>) -> Vec<u8> {
    let mut message = vec![0; repr.buffer_len()];
    let mut packet = Icmpv6Packet::new_unchecked(&mut message[..]);
    repr.emit(&from, &to, &mut packet, &Default::default());
    let mut frame = icmp(from.into(), to.into(), &message);
    Ipv6Packet::new_unchecked(&mut frame[14..]).set_hop_limit(255);
    frame
}

#[test]
fn neighbours_are_found_over_ipv6() {
    let mut guest = Guest::start();
    let own: Ipv6Addr = "fe80::1".parse().unwrap();
    for (from, target, solicited) in [
        (own, plan::GATEWAY6, true),
        (own, plan::ROUTER6, true),
        (Ipv6Addr::UNSPECIFIED, plan::DNS6, false),
    ] {
        // That an address is free is learnt by silence.
        let free = NdiscRepr::NeighborSolicit {
            target_addr: own,
            lladdr: None,
        };
        guest.wire.put(&on_link(
            Ipv6Addr::UNSPECIFIED,
            own,
            &Icmpv6Repr::Ndisc(free),
        ));
        let solicit = NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr: None,
        };
        guest
            .wire
            .put(&on_link(from, target, &Icmpv6Repr::Ndisc(solicit)));
        let frame = guest.wire.expect();
        let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let repr = Icmpv6Repr::parse(
            &packet.src_addr(),
            &packet.dst_addr(),
            &message,
            &Default::default(),
        );
        let Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            flags,
            target_addr,
            lladdr,
        })) = repr
        else {
            panic!("{repr:?}");
        };
        assert_eq!(target_addr, target);
        assert_eq!(flags.contains(NdiscNeighborFlags::SOLICITED), solicited);
        assert_eq!(lladdr, Some(EthernetAddress(plan::NEIGHBOUR).into()));
    }
}

/// Puts `frame`, and waits for an answer to something sound behind it.
fn put_and_pass(guest: &mut Guest, frame: &[u8]) {
    guest.wire.put(frame);
    guest.wire.put(&ask_who_has(plan::GATEWAY));
    let answer = guest.wire.expect();
    assert_eq!(answer[12..14], [0x08, 0x06], "something else was answered");
}

#[test]
fn what_is_not_the_guests_is_dropped() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = Guest::start();
    let counters = guest.counters.clone();
    let sound = datagram((GUEST, 9), (GATEWAY, port), b"data");
    let mut check = |change: &dyn Fn(&mut Vec<u8>), counter: fn(&Counters) -> u64, what: &str| {
        let before = counter(&counters);
        let mut frame = sound.clone();
        change(&mut frame);
        put_and_pass(&mut guest, &frame);
        assert_eq!(counter(&counters), before + 1, "{what}");
    };
    fn rewrite(frame: &mut [u8], change: impl FnOnce(&mut Ipv4Packet<&mut [u8]>)) {
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
        change(&mut packet);
        packet.fill_checksum();
    }
    let spoofed = |counters: &Counters| counters.dropped_spoofed.get();
    check(&|frame| frame[6] ^= 2, spoofed, "another card");
    check(
        &|frame| rewrite(frame, |packet| packet.set_src_addr(plan::GATEWAY)),
        spoofed,
        "the gateway",
    );
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let from_nobody = datagram((unspecified, 9), (GATEWAY, port), b"data");
    check(&|frame| frame.clone_from(&from_nobody), spoofed, "nobody");
    let checksum = |counters: &Counters| counters.dropped_checksum.get();
    check(
        &|frame| frame[14 + 10] ^= 1,
        checksum,
        "the header's checksum",
    );
    check(
        &|frame| frame[14 + 20 + 6] ^= 1,
        checksum,
        "the datagram's checksum",
    );
    let fragments = |counters: &Counters| counters.dropped_fragments.get();
    check(
        &|frame| rewrite(frame, |packet| packet.set_more_frags(true)),
        fragments,
        "a first part",
    );
    check(
        &|frame| rewrite(frame, |packet| packet.set_frag_offset(8)),
        fragments,
        "a later part",
    );
    let malformed = |counters: &Counters| counters.dropped_malformed.get();
    check(&|frame| frame.truncate(20), malformed, "half a header");
    check(
        &|frame| rewrite(frame, |packet| packet.set_total_len(60000)),
        malformed,
        "a length",
    );
    check(
        &|frame| rewrite(frame, |packet| packet.set_header_len(16)),
        malformed,
        "a header's length",
    );
    let ignored = |counters: &Counters| counters.dropped_ignored.get();
    check(&|frame| frame[0] = 0x54, ignored, "another's card");
    check(
        &|frame| rewrite(frame, |packet| packet.set_next_header(47.into())),
        ignored,
        "a protocol",
    );
    assert_eq!(counters.opened.get(), 0);
    server.set_nonblocking(true).unwrap();
    assert!(server.recv(&mut [0; 8]).is_err());
}

#[test]
fn a_segment_out_of_nothing_is_refused_and_its_reset_is_not() {
    let mut guest = Guest::start();
    let stray = TcpRepr {
        seq_number: TcpSeqNumber(1000),
        ack_number: Some(TcpSeqNumber(2000)),
        payload: b"hello",
        ..blank()
    };
    let reset = TcpRepr {
        control: TcpControl::Rst,
        ..stray
    };
    put_and_pass(&mut guest, &segment((GUEST, 5), (GATEWAY, 6), reset));
    guest.wire.put(&segment((GUEST, 5), (GATEWAY, 6), stray));
    let frame = guest.wire.expect();
    let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    let tcp = smoltcp::wire::TcpPacket::new_checked(packet.payload()).unwrap();
    assert!(tcp.rst() && tcp.seq_number() == TcpSeqNumber(2000));
    assert!(tcp.verify_checksum(&plan::GATEWAY.into(), &plan::GUEST.into()));
}
