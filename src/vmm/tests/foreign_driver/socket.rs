//! A socket device, with clients and servers on the host.
use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;
use virtio_drivers::device::socket::{
    DisconnectReason, VirtIOSocket, VsockAddr, VsockConnectionManager, VsockEventType,
};
use vmm::virtio::{
    Confine, Device,
    vsock::{Options, Vsock},
};

use super::{Way, board::Board, bytes, pages::GuestPages, transport::Wire, ways};

const CID: u32 = 3;
const PORT: u32 = 7;
const OWN_PORT: u32 = 1024;
/// How the driver names the host's port.
const HOST: VsockAddr = VsockAddr { cid: 2, port: PORT };

type Driver = VsockConnectionManager<GuestPages, Wire>;

struct Machine {
    board: Arc<Board>,
    way: Way,
    directory: TempDir,
}

impl Machine {
    fn new(way: Way) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("v")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut device = Vsock::new(Options {
            cid: CID,
            listener: listener.into(),
            directory: rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap(),
            name: "v".into(),
            limit: 16,
        })
        .unwrap();
        let confine: Confine = Arc::new(|_| {});
        device.start_threads(&confine).unwrap();
        Self {
            board: Arc::new(Board::new(&way, Arc::new(Mutex::new(device)))),
            way,
            directory,
        }
    }

    fn driver(&self) -> Driver {
        let driver = VirtIOSocket::new(self.way.wire(&self.board)).unwrap();
        self.way.check(&self.board, 0);
        assert_eq!(driver.guest_cid(), u64::from(CID));
        VsockConnectionManager::new(driver)
    }
}

/// The next thing that happens to a connection of the driver's, but for news of its credit.
fn next(machine: &Machine, driver: &mut Driver) -> (VsockAddr, VsockEventType) {
    let mut event = None;
    machine.board.edges.wait_until(|| {
        event = driver.poll().unwrap();
        event
            .as_ref()
            .is_some_and(|event| event.event_type != VsockEventType::CreditUpdate)
    });
    let event = event.unwrap();
    (event.source, event.event_type)
}

/// As many bytes as `length` from `peer`.
fn receive(driver: &mut Driver, peer: VsockAddr, port: u32, length: usize) -> Vec<u8> {
    let mut got = vec![0; length];
    let mut count = 0;
    until(|| {
        driver.poll().unwrap();
        let more = driver.recv(peer, port, &mut got[count..]).unwrap();
        if more > 0 {
            driver.update_credit(peer, port).unwrap();
        }
        count += more;
        count == length
    });
    got
}

/// Looks until `done`, as the crate itself does.
fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "the device did not answer");
        thread::yield_now();
    }
}

fn greet(client: &mut UnixStream) {
    writeln!(client, "CONNECT {OWN_PORT}").unwrap();
}

/// The line that tells a client that it is connected.
fn welcome(client: &mut UnixStream) -> String {
    let (mut line, mut byte) = (String::new(), [0]);
    while !line.ends_with('\n') {
        client.read_exact(&mut byte).unwrap();
        line.push(byte[0].into());
    }
    line
}

#[test]
fn it_connects_to_a_server_of_the_hosts() {
    for way in ways() {
        let machine = Machine::new(way);
        let path = machine.directory.path().join(format!("v_{PORT}"));
        let listener = UnixListener::bind(path).unwrap();
        let mut driver = machine.driver();
        driver.connect(HOST, OWN_PORT).unwrap();
        assert_eq!(
            next(&machine, &mut driver),
            (HOST, VsockEventType::Connected)
        );
        let (mut server, _) = listener.accept().unwrap();
        for round in 0..10 {
            let there = bytes(round, 1000);
            driver.send(HOST, OWN_PORT, &there).unwrap();
            let mut got = vec![0; there.len()];
            server.read_exact(&mut got).unwrap();
            assert!(got == there, "{way:?}");
            let back = bytes(100 + round, 700);
            server.write_all(&back).unwrap();
            let got = receive(&mut driver, HOST, OWN_PORT, back.len());
            assert!(got == back, "{way:?}");
        }
        driver.shutdown(HOST, OWN_PORT).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_client_of_the_hosts_connects_to_it() {
    for way in ways() {
        let machine = Machine::new(way);
        let mut driver = machine.driver();
        driver.listen(OWN_PORT);
        let mut client = UnixStream::connect(machine.directory.path().join("v")).unwrap();
        greet(&mut client);
        let (peer, event) = next(&machine, &mut driver);
        assert_eq!((peer.cid, event), (2, VsockEventType::ConnectionRequest));
        assert!(welcome(&mut client).starts_with("OK "));
        client.write_all(b"to the guest").unwrap();
        let got = receive(&mut driver, peer, OWN_PORT, 12);
        assert_eq!(got, b"to the guest");
        driver.send(peer, OWN_PORT, b"and back").unwrap();
        let mut got = [0; 8];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"and back");
        drop(client);
        let (_, event) = next(&machine, &mut driver);
        let reason = DisconnectReason::Shutdown;
        assert_eq!(event, VsockEventType::Disconnected { reason });
    }
}

#[test]
fn a_port_where_nobody_listens_is_refused_on_either_side() {
    for way in ways() {
        let machine = Machine::new(way);
        let mut driver = machine.driver();
        driver.connect(HOST, OWN_PORT).unwrap();
        let (_, event) = next(&machine, &mut driver);
        let reason = DisconnectReason::Reset;
        assert_eq!(event, VsockEventType::Disconnected { reason });
        let mut client = UnixStream::connect(machine.directory.path().join("v")).unwrap();
        greet(&mut client);
        client.set_nonblocking(true).unwrap();
        // Nothing is said to the crate's user: it refuses by itself, when it looks.
        until(|| {
            assert_eq!(driver.poll().unwrap(), None);
            matches!(client.read(&mut [0]), Ok(0))
        });
    }
}
