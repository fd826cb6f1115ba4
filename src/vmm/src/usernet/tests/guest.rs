//! A guest's half: a TCP/IP stack that nobody here wrote, at the other end of the frames.
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, Checksum, DeviceCapabilities, Medium},
    socket::tcp,
    time,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, HardwareAddress, IpCidr,
        IpEndpoint, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
        UdpRepr,
    },
};

use crate::usernet::{
    Counters, FLOWS, Network, Options, feature, frame::HEADER, plan, policy::Policy,
};

pub(super) const MAC: [u8; 6] = [0x06, 0, 0xac, 0x10, 0, 2];
/// Longer than any test may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The guest's buffers of a stream.
const BUFFER: usize = 256 << 10;

/// Which frames are lost on the way: so many of each way, and the count so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    /// One of so many is lost, or none if it is 0.
    pub(super) to_guest: u64,
    pub(super) from_guest: u64,
}

/// The device's end of the frames.
pub(super) struct Wire {
    socket: OwnedFd,
    mtu: usize,
    offloads: bool,
    loss: Loss,
    received: u64,
    sent: u64,
}

impl Wire {
    /// The next frame, without its header.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        let (bytes, _) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT).ok()?;
        assert!(bytes > HEADER, "the network is gone");
        buffer.truncate(bytes);
        if !self.offloads {
            assert_eq!(buffer[..10], [0; 10], "nothing is left to the guest");
        }
        Some(buffer.split_off(HEADER))
    }

    pub(super) fn put(&mut self, frame: &[u8]) {
        self.put_message(&[&[0; HEADER], frame].concat());
    }

    pub(super) fn put_message(&mut self, message: &[u8]) {
        self.wait(PollFlags::OUT, PATIENCE);
        send(&self.socket, message, SendFlags::NOSIGNAL).expect("the network is there");
    }

    fn wait(&self, flags: PollFlags, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).unwrap();
        let mut descriptors = [PollFd::new(&self.socket, flags)];
        poll(&mut descriptors, Some(&timeout)).unwrap() > 0
    }

    /// Waits for the next frame.
    pub(super) fn expect(&mut self) -> Vec<u8> {
        assert!(self.wait(PollFlags::IN, PATIENCE), "no frame comes");
        self.next().expect("there is one")
    }
}

pub(super) struct Rx(Vec<u8>);
pub(super) struct Tx<'a>(&'a mut Wire);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.sent += 1;
        if self.0.loss.from_guest == 0 || !self.0.sent.is_multiple_of(self.0.loss.from_guest) {
            self.0.put(&frame);
        }
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: time::Instant) -> Option<(Rx, Tx<'_>)> {
        loop {
            let frame = self.next()?;
            self.received += 1;
            if self.loss.to_guest == 0 || !self.received.is_multiple_of(self.loss.to_guest) {
                return Some((Rx(frame), Tx(self)));
            }
        }
    }

    fn transmit(&mut self, _: time::Instant) -> Option<Tx<'_>> {
        Some(Tx(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        if self.offloads {
            capabilities.checksum.tcp = Checksum::Tx;
            capabilities.checksum.udp = Checksum::Tx;
        }
        capabilities
    }
}

/// A guest, and its network.
pub(super) struct Guest {
    pub(super) wire: Wire,
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
    next_port: u16,
}

/// What a guest may do in most of these tests.
pub(super) fn open() -> Policy {
    rules(&["allow", "allow=127.0.0.0/8", "allow=[::1]"])
}

pub(super) fn rules(rules: &[&str]) -> Policy {
    let rules: Vec<_> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    Policy::new(&rules)
}

pub(super) fn options() -> Options {
    Options {
        mac: MAC,
        mtu: plan::MTU,
        features: Arc::new(AtomicU64::new(0)),
        ipv6: true,
        published: Vec::new(),
        resolvers: Vec::new(),
        hostname: None,
        search: Vec::new(),
        policy: open(),
        flows: FLOWS,
    }
}

impl Guest {
    pub(super) fn start() -> Self {
        Self::with(options(), 1500)
    }

    /// A guest on a link that takes packets of so many bytes, with its addresses set by hand.
    pub(super) fn with(options: Options, mtu: usize) -> Self {
        Self::without_address(options, mtu).addressed()
    }

    pub(super) fn addressed(mut self) -> Self {
        let guest = &mut self;
        guest.interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(plan::GUEST.into(), 24)).unwrap();
            let own = "fd00:a0a0::15".parse::<Ipv6Addr>().unwrap();
            addresses.push(IpCidr::new(own.into(), 64)).unwrap();
        });
        let routes = guest.interface.routes_mut();
        routes.add_default_ipv4_route(plan::GATEWAY).unwrap();
        routes.add_default_ipv6_route(plan::ROUTER6).unwrap();
        self
    }

    pub(super) fn without_address(options: Options, mtu: usize) -> Self {
        Self::on(options, mtu, |network| network)
    }

    /// A guest whose network runs as `change` leaves it.
    pub(super) fn on(options: Options, mtu: usize, change: fn(Network) -> Network) -> Self {
        Self::configured(options, mtu, change, false)
    }

    /// A guest with an address on the link, which makes another of what the router says.
    pub(super) fn autoconfigured(options: Options, link: Ipv6Addr) -> Self {
        let mut guest = Self::configured(options, 1500, |network| network, true);
        guest.interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(link.into(), 64)).unwrap();
        });
        guest
    }

    fn configured(
        options: Options,
        mtu: usize,
        change: fn(Network) -> Network,
        slaac: bool,
    ) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let offloads = options.features.load(Ordering::Relaxed) & feature::GUEST_CSUM != 0;
        let network = change(Network::new(options, theirs).unwrap());
        let counters = network.counters().clone();
        let builder = std::thread::Builder::new().name("usernet".into());
        let thread = builder.spawn(move || network.run()).unwrap();
        let mut wire = Wire {
            socket: ours,
            mtu,
            offloads,
            loss: Loss::default(),
            received: 0,
            sent: 0,
        };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        config.random_seed = 7;
        config.slaac = slaac;
        let interface = Interface::new(config, &mut wire, time::Instant::now());
        Self {
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            counters,
            thread: Some(thread),
            next_port: 40_000,
        }
    }

    pub(super) fn lose(&mut self, loss: Loss) {
        self.wire.loss = loss;
    }

    /// Lets the guest go on once, waiting for a frame or its own time for `longest`.
    pub(super) fn turn(&mut self, longest: Duration) {
        let now = time::Instant::now();
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let delay = self
            .interface
            .poll_delay(time::Instant::now(), &self.sockets);
        let delay = delay.map_or(longest, |delay| Duration::from(delay).min(longest));
        self.wire.wait(PollFlags::IN, delay);
    }

    /// Lets the guest go on until `done` says so.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "{what} does not happen: {:?}",
                self.counters
            );
            self.turn(Duration::from_millis(5));
        }
    }

    fn new_stream(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.sockets.add(socket)
    }

    pub(super) fn stream(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket<'static>>(handle)
    }

    /// Begins to connect.
    pub(super) fn dial(&mut self, to: impl Into<IpEndpoint>) -> SocketHandle {
        let handle = self.new_stream();
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket<'static>>(handle);
        socket
            .connect(self.interface.context(), to.into(), self.next_port)
            .unwrap();
        handle
    }

    pub(super) fn connect(&mut self, to: impl Into<IpEndpoint>) -> SocketHandle {
        let handle = self.dial(to);
        self.until("connecting", |guest| {
            guest.stream(handle).state() == tcp::State::Established
        });
        handle
    }

    pub(super) fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.new_stream();
        self.stream(handle).listen(port).unwrap();
        handle
    }

    pub(super) fn read_exact(&mut self, handle: SocketHandle, length: usize) -> Vec<u8> {
        let mut read = Vec::new();
        self.until("reading", |guest| {
            let mut buffer = vec![0; length - read.len()];
            let bytes = guest.stream(handle).recv_slice(&mut buffer).unwrap_or(0);
            read.extend(&buffer[..bytes]);
            read.len() == length
        });
        read
    }

    pub(super) fn write_all(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let mut written = 0;
        self.until("writing", |guest| {
            let stream = guest.stream(handle);
            written += stream.send_slice(&bytes[written..]).unwrap();
            written == bytes.len() && stream.send_queue() == 0
        });
    }
}

impl Drop for Guest {
    /// The network ends with its device.
    fn drop(&mut self) {
        let (other, _) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        self.wire.socket = other;
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// Where the guest finds a server on the host's loopback.
pub(super) fn by_gateway(address: SocketAddr) -> IpEndpoint {
    let gateway: IpAddr = match address {
        SocketAddr::V4(_) => plan::GATEWAY.into(),
        SocketAddr::V6(_) => plan::GATEWAY6.into(),
    };
    IpEndpoint::new(gateway.into(), address.port())
}

/// Headers of a packet of the guest's.
fn packet(from: IpAddr, to: IpAddr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let checksums = phy::ChecksumCapabilities::default();
    let repr = IpRepr::new(from.into(), to.into(), protocol, payload.len(), 64);
    let header = repr.header_len();
    let mut frame = vec![0; 14 + header + payload.len()];
    let ethertype = if from.is_ipv4() {
        EthernetProtocol::Ipv4
    } else {
        EthernetProtocol::Ipv6
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MAC),
        dst_addr: EthernetAddress(plan::NEIGHBOUR),
        ethertype,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    repr.emit(&mut frame[14..], &checksums);
    frame[14 + header..].copy_from_slice(payload);
    frame
}

/// A datagram of the guest's.
pub(super) fn datagram(from: (IpAddr, u16), to: (IpAddr, u16), data: &[u8]) -> Vec<u8> {
    let repr = UdpRepr {
        src_port: from.1,
        dst_port: to.1,
    };
    let mut udp = vec![0; 8 + data.len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut udp[..]),
        &from.0.into(),
        &to.0.into(),
        data.len(),
        |payload| payload.copy_from_slice(data),
        &phy::ChecksumCapabilities::default(),
    );
    packet(from.0, to.0, IpProtocol::Udp, &udp)
}

/// What a segment is made of.
pub(super) fn blank() -> TcpRepr<'static> {
    TcpRepr {
        src_port: 0,
        dst_port: 0,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(0),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// A segment of the guest's.
pub(super) fn segment(from: (IpAddr, u16), to: (IpAddr, u16), repr: TcpRepr<'_>) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: from.1,
        dst_port: to.1,
        ..repr
    };
    let mut tcp = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut tcp[..]),
        &from.0.into(),
        &to.0.into(),
        &phy::ChecksumCapabilities::default(),
    );
    packet(from.0, to.0, IpProtocol::Tcp, &tcp)
}

/// A message of the guest's about IP itself.
pub(super) fn icmp(from: IpAddr, to: IpAddr, message: &[u8]) -> Vec<u8> {
    let protocol = if from.is_ipv4() {
        IpProtocol::Icmp
    } else {
        IpProtocol::Icmpv6
    };
    packet(from, to, protocol, message)
}
