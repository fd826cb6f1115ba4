//! A driver's half of a socket device, in ordinary memory, and the host's half in a directory of its own.
use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    testing::virtqueue::{DriverQueue, Edges},
    virtio::{
        Confine, Device, Interrupt,
        vsock::{
            Options, Vsock,
            packet::{HEADER, Header, Ports, STREAM, op},
        },
    },
};

pub(super) const CID: u32 = 3;
pub(super) const RAM: usize = 2 << 20;
const SIZE: u16 = 64;
const RINGS: [u64; 3] = [0x1000, 0x1_0000, 0x2_0000];
/// Where buffers for packets to the guest are, and packets of its own.
const TO_GUEST: u64 = 0x4_0000;
const FROM_GUEST: u64 = 0x10_0000;
/// Bytes of each.
pub(super) const BUFFER: u32 = 4096;
/// The room that the guest says that it has.
pub(super) const GUEST_ROOM: u32 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Bench {
    pub(super) device: Vsock,
    pub(super) memory: GuestMemoryMmap,
    pub(super) rx: DriverQueue,
    pub(super) tx: DriverQueue,
    pub(super) events: DriverQueue,
    edges: Arc<Edges>,
    interrupt: Interrupt,
    directory: TempDir,
    /// Packets that came, and nobody has asked for yet.
    came: VecDeque<(Header, Vec<u8>)>,
    next_packet: u64,
    /// Buffers so far: each begins at the next descriptor.
    offered: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(256)
    }

    /// A device for so many connections, whose driver has not started.
    pub(super) fn with(limit: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("v")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut device = Vsock::new(Options {
            cid: CID,
            listener: listener.into(),
            directory: rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap(),
            name: "v".into(),
            limit,
        })
        .unwrap();
        device
            .start_threads(&(Arc::new(|_| ()) as Confine))
            .unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let queue = |index: usize| DriverQueue::new(memory.clone(), RINGS[index], SIZE);
        let (edges, line) = Edges::line();
        Self {
            rx: queue(0),
            tx: queue(1),
            events: queue(2),
            device,
            memory,
            edges,
            interrupt: Interrupt::new(line),
            directory,
            came: VecDeque::new(),
            next_packet: 0,
            offered: 0,
        }
    }

    /// One whose driver has started, with buffers for packets.
    pub(super) fn started() -> Self {
        let mut bench = Self::new();
        bench.start(SIZE);
        bench
    }

    pub(super) fn start(&mut self, buffers: u16) {
        for ring in RINGS {
            self.memory
                .write_slice(&[0; 0x8000], GuestAddress(ring))
                .unwrap();
        }
        let queue = |index: usize| DriverQueue::new(self.memory.clone(), RINGS[index], SIZE);
        (self.rx, self.tx, self.events) = (queue(0), queue(1), queue(2));
        self.came.clear();
        self.offered = 0;
        for _ in 0..buffers {
            self.offer_buffer();
        }
        let queues = [&self.rx, &self.tx, &self.events];
        let queues = queues.map(|queue| Some(queue.setup().freeze(&self.memory, false).unwrap()));
        self.device.activate(0, queues.into(), &self.interrupt);
    }

    pub(super) fn offer_buffer(&mut self) {
        let index = self.offered % u64::from(SIZE);
        self.offered += 1;
        let at = TO_GUEST + index * u64::from(BUFFER);
        self.rx.offer(&[], &[(at, BUFFER)]);
    }

    pub(super) fn ring(&self) {
        self.device.doorbell(0).unwrap().write(1).unwrap();
    }

    /// The path of the device's socket, or of the one for a port.
    pub(super) fn path(&self, port: Option<u32>) -> PathBuf {
        let name = port.map_or("v".into(), |port| format!("v_{port}"));
        self.directory.path().join(name)
    }

    pub(super) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(Some(port))).unwrap()
    }

    /// A client that has said something.
    pub(super) fn client(&self, greeting: &str) -> UnixStream {
        let mut client = UnixStream::connect(self.path(None)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(greeting.as_bytes()).unwrap();
        client
    }

    /// Sends a packet, and waits until it is taken.
    pub(super) fn send(&mut self, header: Header, data: &[u8]) {
        self.put(header, data);
        self.ring();
        self.wait_taken(1);
    }

    /// Puts a packet into the queue.
    pub(super) fn put(&mut self, header: Header, data: &[u8]) {
        let at = FROM_GUEST + self.next_packet % 7 * 0x2_0000;
        self.next_packet += 1;
        self.memory
            .write_slice(&header.bytes(), GuestAddress(at))
            .unwrap();
        self.memory
            .write_slice(data, GuestAddress(at + 0x1000))
            .unwrap();
        let head = (at, u32::try_from(HEADER).unwrap());
        let body = (at + 0x1000, u32::try_from(data.len()).unwrap());
        match data {
            [] => self.tx.offer(&[head], &[]),
            _ => self.tx.offer(&[head, body], &[]),
        };
    }

    /// Waits until so many more packets are taken.
    pub(super) fn wait_taken(&mut self, count: usize) {
        for _ in 0..count {
            let tx = &mut self.tx;
            self.edges.wait_until(|| tx.used().is_some());
        }
    }

    /// The next packet for the guest, whose buffer is offered again.
    pub(super) fn next(&mut self) -> (Header, Vec<u8>) {
        if let Some(came) = self.came.pop_front() {
            return came;
        }
        let (rx, mut used) = (&mut self.rx, None);
        self.edges.wait_until(|| {
            used = rx.used();
            used.is_some()
        });
        self.read(used.unwrap())
    }

    /// A packet that has come already.
    pub(super) fn poll(&mut self) -> Option<(Header, Vec<u8>)> {
        self.rx.used().map(|used| self.read(used))
    }

    fn read(&mut self, (head, written): (u32, u32)) -> (Header, Vec<u8>) {
        let at = TO_GUEST + u64::from(head) * u64::from(BUFFER);
        let mut bytes = vec![0; usize::try_from(written).unwrap()];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        self.offer_buffer();
        self.ring();
        let data = bytes.split_off(HEADER);
        let header = Header::parse(&bytes.try_into().unwrap());
        assert_eq!(
            (header.src_cid, header.dst_cid, header.kind),
            (2, CID.into(), STREAM)
        );
        assert_eq!(usize::try_from(header.len).unwrap(), data.len());
        (header, data)
    }

    /// The next packet, which is of this kind.
    pub(super) fn expect(&mut self, op: u16) -> Header {
        let (header, _) = self.next();
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    /// A guest's connection to a server on the host.
    pub(super) fn connect(&mut self, server: &UnixListener, ports: Ports) -> UnixStream {
        self.send(from_guest(ports, op::REQUEST), &[]);
        self.expect(op::RESPONSE);
        let (stream, _) = server.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client's connection to a port of the guest's.
    pub(super) fn accept(&mut self, port: u32) -> (UnixStream, Ports) {
        let mut client = self.client(&format!("CONNECT {port}\n"));
        let asked = self.expect(op::REQUEST);
        assert_eq!(asked.dst_port, port);
        let ports = Ports {
            guest: port,
            host: asked.src_port,
        };
        self.send(from_guest(ports, op::RESPONSE), &[]);
        assert_eq!(line(&mut client), format!("OK {}\n", ports.host));
        (client, ports)
    }

    /// Waits for an event; its bytes.
    pub(super) fn wait_event(&mut self) -> u32 {
        let (events, mut used) = (&mut self.events, None);
        self.edges.wait_until(|| {
            used = events.used();
            used.is_some()
        });
        used.unwrap().1
    }

    /// Waits until the device says that its driver broke the rules.
    pub(super) fn wait_broken(&self) {
        self.edges.wait_until(|| self.interrupt.is_broken());
    }

    /// Waits until so many connections are left.
    pub(super) fn wait_left(&self, left: u64) {
        let counters = self.device.counters();
        let end = Instant::now() + PATIENCE;
        while counters.opened.get() - counters.closed.get() != left {
            assert!(Instant::now() < end, "{left} expected, {counters:?}");
            std::thread::yield_now();
        }
    }
}

/// A packet of the guest's, without data, from a guest with room.
pub(super) fn from_guest(ports: Ports, op: u16) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: 2,
        src_port: ports.guest,
        dst_port: ports.host,
        kind: STREAM,
        op,
        buf_alloc: GUEST_ROOM,
        ..Header::default()
    }
}

/// One with data.
pub(super) fn data_from_guest(ports: Ports, bytes: usize) -> Header {
    Header {
        len: u32::try_from(bytes).unwrap(),
        ..from_guest(ports, op::RW)
    }
}

/// What a client reads up to the end of a line, or of everything.
pub(super) fn line(client: &mut UnixStream) -> String {
    let (mut line, mut byte) = (String::new(), [0]);
    while !line.ends_with('\n') && client.read(&mut byte).unwrap() > 0 {
        line.push(char::from(byte[0]));
    }
    line
}
