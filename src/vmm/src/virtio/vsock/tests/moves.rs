//! Socket devices that are paused, saved, and restored as others: their queues go on, their connections do not.
use std::{
    os::unix::net::UnixListener,
    sync::{Arc, Mutex},
};

use rustix::fs::{Mode, OFlags};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Bench, CID, PORTS, from_guest, line};
use crate::{
    testing::journey::{Pieces, Request, Subject, take_through},
    virtio::{
        Confine, Device, OwnState,
        transport::SharedDevice,
        vsock::{
            Options, Vsock,
            packet::{HEADER, Header, Ports, op},
        },
    },
};

/// A guest that sends packets about connections that there are not, and is told so in as many.
struct Strays;

impl Subject for Strays {
    fn build(&mut self) -> SharedDevice {
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
        device
            .start_threads(&(Arc::new(|_| ()) as Confine))
            .unwrap();
        Arc::new(Mutex::new(device))
    }

    fn ask(&mut self, memory: &GuestMemoryMmap, request: Request) -> Pieces {
        let Request {
            number,
            queue,
            page,
        } = request;
        if queue == 0 {
            return (vec![], vec![(page, 20), (page + 20, 100)]);
        }
        let guest = u32::try_from(number).unwrap();
        let header = from_guest(Ports { guest, host: 1 }, op::RW);
        memory
            .write_slice(&header.bytes(), GuestAddress(page))
            .unwrap();
        (vec![(page, 7), (page + 7, 37)], vec![])
    }

    fn check(&mut self, memory: &GuestMemoryMmap, request: Request, written: u32) {
        if request.queue == 1 {
            assert_eq!(written, 0);
            return;
        }
        let mut bytes = [0; HEADER];
        memory
            .read_slice(&mut bytes, GuestAddress(request.page))
            .unwrap();
        let header = Header::parse(&bytes);
        assert_eq!((header.op, header.src_port, written), (op::RST, 1, 44));
    }
}

#[test]
fn a_socket_device_goes_on_where_another_was_paused() {
    take_through(&mut Strays, 2);
}

#[test]
fn a_driver_that_has_moved_is_told_that_its_connections_are_gone() {
    let mut bench = Bench::new();
    bench.device.restore(&OwnState::Nothing);
    bench.start(8);
    // As soon as it has a buffer for that.
    let _first = bench.accept(52);
    bench.events.offer(&[], &[(0x18_0000, 8)]);
    bench.ring();
    assert_eq!(bench.wait_event(), 4);
    let event: u32 = bench.memory.read_obj(GuestAddress(0x18_0000)).unwrap();
    assert_eq!(event, 0);
    // And once only.
    bench.events.offer(&[], &[(0x18_0000, 8)]);
    bench.ring();
    let _second = bench.accept(53);
    assert!(bench.events.used().is_none());
    // Not the next driver.
    bench.device.reset();
    bench.start(8);
    bench.events.offer(&[], &[(0x18_0000, 8)]);
    bench.ring();
    bench.accept(52);
    assert!(bench.events.used().is_none());
}

#[test]
fn what_a_pause_finds_taken_is_put_back() {
    let mut bench = Bench::started();
    let server = bench.listen(PORTS.host);
    let _stream = bench.connect(&server, PORTS);
    bench.device.pause();
    let progress = bench.device.progress().unwrap();
    let [Some(rx), Some(tx), Some(events)] = progress[..] else {
        panic!("{progress:?}");
    };
    assert_eq!((rx.next_available, rx.next_used), (1, 1));
    assert_eq!((tx.next_available, tx.next_used), (1, 1));
    assert_eq!((events.next_available, events.next_used), (0, 0));
    bench.device.resume();
    let mut client = bench.client("CONNECT 9 wait=1\n");
    assert_eq!(bench.expect(op::REQUEST).dst_port, 9);
    assert_eq!(line(&mut client), "");
}
