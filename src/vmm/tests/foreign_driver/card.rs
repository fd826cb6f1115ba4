//! A network card, whose cable is a pair of sockets.
use std::{
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::{Arc, Mutex},
    time::Duration,
};

use virtio_drivers::device::net::{TxBuffer, VirtIONet};
use vmm::virtio::{
    Confine, Device,
    net::{Net, Options, Tap},
};

use super::{Way, board::Board, bytes, pages::GuestPages, transport::Wire, ways};

/// Entries of each queue of the driver's.
const ENTRIES: usize = 16;
const MAC: [u8; 6] = [6, 0, 0, 0, 0, 1];
/// Before each frame (virtio 1.3 §5.1.6).
const HEADER: usize = 12;
/// `VIRTIO_NET_F_MAC`, `VIRTIO_NET_F_STATUS`.
const FEATURES: u64 = 1 << 5 | 1 << 16;

type Driver = VirtIONet<GuestPages, Wire, ENTRIES>;

struct Machine {
    board: Arc<Board>,
    way: Way,
    /// The other end of the cable.
    host: UnixDatagram,
}

impl Machine {
    fn new(way: Way) -> Self {
        let (tap, host) = UnixDatagram::pair().unwrap();
        tap.set_nonblocking(true).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let options = Options {
            taps: vec![Tap::stand_in(OwnedFd::from(tap), Default::default())],
            mac: MAC,
            pinned: true,
            mtu: 1500,
            id: "test".into(),
        };
        let mut net = Net::new(options, "net".into()).unwrap();
        let confine: Confine = Arc::new(|_| {});
        net.start_threads(&confine).unwrap();
        Self {
            board: Arc::new(Board::new(&way, Arc::new(Mutex::new(net)))),
            way,
            host,
        }
    }

    fn driver(&self) -> Driver {
        let driver = Driver::new(self.way.wire(&self.board), 2048).unwrap();
        self.way.check(&self.board, FEATURES);
        driver
    }

    fn heard(&self) -> Vec<u8> {
        let mut heard = vec![0; 4096];
        let length = self.host.recv(&mut heard).unwrap();
        heard.truncate(length);
        heard
    }
}

/// A frame of `length` bytes, from the card's address.
fn frame(seed: u64, length: usize) -> Vec<u8> {
    let rest = bytes(seed, u64::try_from(length - 14).unwrap());
    [&[0xff; 6], &MAC, [8, 0].as_slice(), &rest].concat()
}

/// What both sides can carry: the shortest, usual ones, the longest.
const LENGTHS: [usize; 5] = [14, 60, 61, 1000, 1514];

#[test]
fn what_it_sends_goes_out_as_it_is() {
    for way in ways() {
        let machine = Machine::new(way);
        let mut driver = machine.driver();
        assert_eq!(driver.mac_address(), MAC);
        for (round, length) in (0..20).flat_map(|round| LENGTHS.map(|length| (round, length))) {
            let frame = frame(round, length);
            driver.send(TxBuffer::from(&frame)).unwrap();
            let heard = machine.heard();
            assert_eq!(heard[..HEADER], [0; HEADER], "{way:?}");
            assert_eq!(heard[HEADER..], frame, "{way:?}");
        }
    }
}

#[test]
fn what_comes_in_is_what_it_receives_and_it_is_told() {
    for way in ways() {
        let machine = Machine::new(way);
        let mut driver = machine.driver();
        for round in 0..20 {
            let frames = LENGTHS.map(|length| frame(round, length));
            for frame in &frames {
                let sent = [[0; HEADER].as_slice(), frame].concat();
                machine.host.send(&sent).unwrap();
            }
            for frame in &frames {
                machine.board.edges.wait_until(|| driver.can_recv());
                let buffer = driver.receive().unwrap();
                assert_eq!(buffer.packet(), frame, "{way:?}");
                driver.recycle_rx_buffer(buffer).unwrap();
            }
        }
    }
}

#[test]
fn a_second_driver_takes_over() {
    for way in ways() {
        let machine = Machine::new(way);
        for round in 0..3 {
            let mut driver = machine.driver();
            let frame = frame(round, 100);
            driver.send(TxBuffer::from(&frame)).unwrap();
            assert_eq!(machine.heard()[HEADER..], frame);
        }
    }
}
