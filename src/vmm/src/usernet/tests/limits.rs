//! Floods: what one guest can take is bounded, and the rest goes on.
use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with},
    process::{Resource, Rlimit, setrlimit},
};
use smoltcp::{
    socket::tcp::State,
    wire::{Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber},
};

use super::guest::{Guest, blank, by_gateway, options, segment};
use crate::{
    config::PortProtocol,
    usernet::{Published, plan},
};

const GUEST: IpAddr = IpAddr::V4(plan::GUEST);
const GATEWAY: IpAddr = IpAddr::V4(plan::GATEWAY);

fn syn() -> TcpRepr<'static> {
    TcpRepr {
        control: TcpControl::Syn,
        ..blank()
    }
}

/// A connection that goes through, whatever went on before.
fn prove_sound(guest: &mut Guest) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.connect(by_gateway(listener.local_addr().unwrap()));
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"ok").unwrap();
    assert_eq!(guest.read_exact(handle, 2), b"ok");
    guest.stream(handle).abort();
    drop(stream);
}

#[test]
fn a_flood_of_connections_that_nobody_answers_pushes_out_its_own() {
    // Who does not accept leaves most without an answer.
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&socket, 0).unwrap();
    let address = std::net::SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    let mut guest = Guest::start();
    for port in 1..5000 {
        guest
            .wire
            .put(&segment((GUEST, port), (GATEWAY, address.port()), syn()));
        while guest.wire.next().is_some() {}
    }
    let counters = guest.counters.clone();
    guest.until("taking all", |_| counters.frames_from_guest.get() >= 4999);
    let now = counters.opened.get() - counters.closed.get();
    assert!(now <= 256 + 8, "{counters:?}");
    assert!(counters.evicted.get() > 4000, "{counters:?}");
    prove_sound(&mut guest);
}

#[test]
fn a_scan_of_all_ports_leaves_nothing_behind() {
    let mut options = options();
    options.flows = 300;
    let mut guest = Guest::with(options, 1500);
    let mut answers = 0;
    let mut count = |frame: Vec<u8>| {
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let packet = TcpPacket::new_checked(packet.payload()).unwrap();
        answers += u32::from(packet.rst());
    };
    // Port 1 is nobody's; each of the guest's asks for it.
    for port in 1..=u16::MAX {
        guest.wire.put(&segment((GUEST, port), (GATEWAY, 1), syn()));
        while let Some(frame) = guest.wire.next() {
            count(frame);
        }
    }
    let counters = guest.counters.clone();
    guest.until("taking all", |_| {
        counters.frames_from_guest.get() >= 65535 && counters.opened.get() == counters.closed.get()
    });
    assert_eq!(counters.opened.get(), 65535 - counters.exhausted.get());
    assert!(answers > 60_000, "{answers}: {counters:?}");
    prove_sound(&mut guest);
}

#[test]
fn segments_of_nobodys_make_no_flows() {
    let mut guest = Guest::start();
    for port in 1..20_000u16 {
        let stray = TcpRepr {
            seq_number: TcpSeqNumber(port.into()),
            payload: b"stray",
            ..blank()
        };
        guest
            .wire
            .put(&segment((GUEST, port), (GATEWAY, 80), stray));
        while guest.wire.next().is_some() {}
    }
    assert_eq!(guest.counters.opened.get(), 0);
    prove_sound(&mut guest);
}

#[test]
fn a_host_without_descriptors_refuses_and_goes_on() {
    const MARK: &str = "AMPOULE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(MARK).is_none() {
        // A limit is the whole process's.
        let name = "usernet::tests::limits::a_host_without_descriptors_refuses_and_goes_on";
        let mut again = Command::new(std::env::current_exe().unwrap());
        let status = again
            .args(["--exact", name])
            .env(MARK, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = by_gateway(listener.local_addr().unwrap());
    let published = TcpListener::bind("127.0.0.1:0").unwrap();
    let knock = published.local_addr().unwrap();
    published.set_nonblocking(true).unwrap();
    let mut options = options();
    options.published.push(Published {
        socket: published.into(),
        protocol: PortProtocol::Tcp,
        guest_port: 22,
    });
    let mut guest = Guest::with(options, 1500);
    let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(knock).unwrap()).collect();
    let counters = guest.counters.clone();
    // Nobody listens at the guest's port.
    guest.until("refusing", |_| counters.closed.get() == 4);
    drop(clients);
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let most = u64::try_from(used).unwrap() + 4;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(most),
            maximum: Some(most),
        },
    )
    .unwrap();
    let handles: Vec<_> = (0..20).map(|_| guest.dial(to)).collect();
    guest.until("connecting or refusing", |guest| {
        let settled = |state| matches!(state, State::Established | State::Closed);
        handles
            .iter()
            .all(|handle| settled(guest.stream(*handle).state()))
    });
    assert!(counters.exhausted.get() > 0, "{counters:?}");
    for handle in handles {
        guest.stream(handle).abort();
    }
    guest.until("ending", |_| counters.closed.get() == counters.opened.get());
    // There is room again.
    let handle = guest.listen(22);
    let mut client = TcpStream::connect(knock).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    guest.until("connecting", |guest| {
        guest.stream(handle).state() == State::Established
    });
    guest.write_all(handle, b"yes");
    let mut read = [0; 3];
    client.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"yes");
}
