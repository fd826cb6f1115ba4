//! Cards that are paused, saved, and restored as others on the same cable.
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::{Net, Options, Tap, config::feature};
use super::MAC;
use crate::{
    testing::journey::{Journey, Pieces, Request, Subject, take_through},
    testing::virtio_driver::Way,
    virtio::{Confine, Device, transport::SharedDevice},
};

/// Cards of one cable, whose driver uses the first queues: frames for it, frames of its, commands.
struct Cards {
    tap: OwnedFd,
    host: OwnedFd,
    /// Frames both ways, of all journeys.
    sent: u64,
    /// The last one that it got.
    last: u64,
    card: Option<Arc<Mutex<Net>>>,
}

const BYTES: usize = 60;
/// Offsets in a request's page.
const AT_FRAME: u64 = 12;
const AT_ANSWER: u64 = 2048;

impl Cards {
    fn new() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (tap, host) = pair.unwrap();
        Self {
            tap,
            host,
            sent: 0,
            last: 0,
            card: None,
        }
    }
}

/// Frame `number`, behind an empty header.
fn frame(number: u64) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0xff; 6]);
    frame.extend(MAC);
    frame.extend([8, 0]);
    frame.extend(number.to_le_bytes());
    frame.resize(12 + BYTES, 0);
    frame
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[26..34].try_into().unwrap())
}

impl Subject for Cards {
    fn build(&mut self) -> SharedDevice {
        let options = Options {
            taps: vec![Tap::stand_in(self.tap.try_clone().unwrap(), Arc::default())],
            mac: MAC,
            pinned: false,
            mtu: 1500,
            id: "test".into(),
        };
        let mut net = Net::new(options, "net".into()).unwrap();
        net.start_threads(&(Arc::new(|_| ()) as Confine)).unwrap();
        let net = Arc::new(Mutex::new(net));
        self.card = Some(net.clone());
        net
    }

    fn features(&self) -> u64 {
        feature::CSUM | feature::CTRL_VQ | feature::CTRL_MAC_ADDR
    }

    fn ask(&mut self, memory: &GuestMemoryMmap, request: Request) -> Pieces {
        let Request { queue, page, .. } = request;
        self.sent += 1;
        let frame = frame(self.sent);
        let put = |bytes: &[u8]| memory.write_slice(bytes, GuestAddress(page)).unwrap();
        match queue {
            0 => {
                send(&self.host, &frame, SendFlags::empty()).unwrap();
                (vec![], vec![(page, 1000), (page + 1000, 1000)])
            }
            1 => {
                put(&frame);
                (vec![(page, 12), (page + AT_FRAME, 60)], vec![])
            }
            _ => {
                put(&[1, 1, 6, 0, 0, 0, 0, 1]);
                (vec![(page, 8)], vec![(page + AT_ANSWER, 1)])
            }
        }
    }

    fn check(&mut self, memory: &GuestMemoryMmap, request: Request, written: u32) {
        let Request { queue, page, .. } = request;
        let mut bytes = [0; 12 + BYTES];
        match queue {
            0 => {
                assert_eq!(written, 72);
                memory.read_slice(&mut bytes, GuestAddress(page)).unwrap();
                assert_eq!(bytes[10], 1);
                // Frames for a queue that is served no more come to the next one's.
                let came = number(&bytes);
                assert!(came > self.last, "each once, in order");
                self.last = came;
            }
            1 => {
                let mut sent = bytes;
                memory.read_slice(&mut sent, GuestAddress(page)).unwrap();
                // Of a journey that ended early some are left.
                while bytes != sent {
                    assert!(number(&bytes) < number(&sent), "each once, in order");
                    let received = recv(&self.host, &mut bytes, RecvFlags::empty());
                    assert_eq!((written, received.unwrap().0), (0, bytes.len()));
                }
            }
            _ => {
                let answer: u8 = memory.read_obj(GuestAddress(page + AT_ANSWER)).unwrap();
                assert_eq!((written, answer), (1, 0));
            }
        }
    }
}

#[test]
fn a_card_goes_on_where_another_was_paused() {
    for queues in 1..=3 {
        take_through(&mut Cards::new(), queues);
    }
}

#[test]
fn an_address_and_pairs_move_with_the_card_and_the_neighbours_are_told() {
    let mut cards = Cards::new();
    let mut journey = Journey::new(&mut cards, Way::Pci, 0, 3);
    journey.start(|_| ());
    let mac = |card: &Option<Arc<Mutex<Net>>>| {
        let mut bytes = [0; 8];
        let card = card.as_ref().unwrap().lock().unwrap();
        card.config().read(0, &mut bytes);
        bytes
    };
    let card = journey.subject.card.clone().unwrap();
    card.lock()
        .unwrap()
        .common
        .config
        .put(0, &[2, 2, 2, 2, 2, 2]);
    journey.pause();
    journey.move_on();
    assert_eq!(mac(&journey.subject.card)[..6], [2; 6]);
    journey.resume();
    journey.offer(7);
    journey.hear_all();
}
