//! All that the thread works on, and how it goes round.
use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{event::epoll, fs::Timespec, io::Errno, net::sockopt};

use super::{
    Counters, Options,
    dhcp::Lease,
    frame::{Channel, MOST, Received},
    host::{self, WASTE},
    policy::{Policy, Protocol, Verdict},
    publish::Ports,
    relay::Relay,
    table::{Kind, Table, Token},
    tcp::{TURN, Way},
    udp,
};
use crate::notices::Notices;

/// Where names are asked for.
pub(super) const DNS_PORT: u16 = 53;
/// Frames, and turns of flows, that are served before all else is looked at again.
const AT_ONCE: usize = 64;
/// Events that one look brings.
const EVENTS: usize = 128;
/// Bytes of frames for the guest that are on their way to the device: more make no difference to it.
const CHANNEL: usize = 512 << 10;
/// The longest sleep: an alarm that is further away is looked at again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

/// What an event is about that is about no flow: the frames, a published port from the first on, a question from the first on.
const FRAMES: u64 = 0;
const FIRST_PORT: u64 = 1;
const FIRST_QUESTION: u64 = 1 << 20;
const FIRST_FLOW: u64 = 1 << 32;

/// A network.
pub(super) struct Engine {
    pub(super) guest_mac: [u8; 6],
    pub(super) mtu: u16,
    pub(super) ipv6: bool,
    pub(super) lease: Lease,
    pub(super) counters: Arc<Counters>,
    notices: Option<Notices>,
    pub(super) channel: Channel,
    pub(super) poll: OwnedFd,
    pub(super) table: Table,
    /// Connections that one side has not agreed to, the oldest first, among others that have come further.
    pub(super) opening: VecDeque<Token>,
    pub(super) policy: Policy,
    pub(super) relay: Relay,
    pub(super) published: Ports,
    /// What is looked at of streams.
    payload: Box<[u8; TURN]>,
    /// What is thrown away.
    pub(super) waste: Box<[u8; WASTE]>,
    /// What is received of datagrams.
    pub(super) datagram: Vec<MaybeUninit<u8>>,
    pub(super) now: Instant,
    pub(super) remembers_peeks: bool,
    /// What the last look has brought: what it is about, and what it says.
    told: Vec<(u64, epoll::EventFlags)>,
}

/// Room that is not touched before it is used, as it is of no stack first.
fn zeroes<const N: usize>() -> Box<[u8; N]> {
    let zeroes = vec![0; N].into_boxed_slice();
    zeroes.try_into().expect("as many as were asked for")
}

/// Watches a socket from now on: each change is told once.
pub(super) fn watch(poll: &OwnedFd, socket: impl AsFd, about: u64) -> rustix::io::Result<()> {
    epoll::add(poll, socket, epoll::EventData::new_u64(about), changes())
}

fn changes() -> epoll::EventFlags {
    epoll::EventFlags::IN
        | epoll::EventFlags::OUT
        | epoll::EventFlags::RDHUP
        | epoll::EventFlags::ET
}

impl Engine {
    /// A network with one end of its channel.
    pub(super) fn new(
        options: Options,
        frames: OwnedFd,
        counters: Arc<Counters>,
    ) -> std::io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let published = Ports::new(options.published);
        // As much as the host allows: it must hold a few of the longest frames.
        let _ = sockopt::set_socket_send_buffer_size(&frames, CHANNEL);
        watch(&poll, &frames, FRAMES)?;
        for (socket, about) in published.sockets().zip(FIRST_PORT..FIRST_QUESTION) {
            watch(&poll, socket, about)?;
        }
        let notices = options.policy.logs().then(|| Notices::of("net".into()));
        Ok(Self {
            guest_mac: options.mac,
            mtu: options.mtu,
            ipv6: options.ipv6,
            lease: Lease::new(options.hostname, options.search, options.mtu),
            channel: Channel::new(frames, options.features, counters.clone()),
            counters,
            notices,
            poll,
            table: Table::new(options.flows),
            opening: VecDeque::new(),
            policy: options.policy,
            relay: Relay::new(options.resolvers),
            published,
            payload: zeroes(),
            waste: zeroes(),
            datagram: udp::room(),
            now: Instant::now(),
            remembers_peeks: host::remembers_peeks(),
            told: Vec::with_capacity(EVENTS),
        })
    }

    /// Goes round until the device is gone.
    pub(super) fn work(&mut self) {
        let mut message = zeroes();
        while self.turn(&mut message) {}
    }

    /// Waits for something to happen, unless there is something to do, and does what there is. Whether the device is there.
    pub(super) fn turn(&mut self, message: &mut [u8; MOST]) -> bool {
        self.wait();
        self.now = Instant::now();
        self.take_events();
        for _ in 0..AT_ONCE {
            if !self.channel.readable {
                break;
            }
            match self.channel.receive(message) {
                Received::Message(bytes) => self.take_message(&message[..bytes]),
                Received::Nothing => break,
                Received::End => return false,
            }
        }
        self.let_in();
        self.expire();
        self.serve();
        true
    }

    fn is_busy(&self) -> bool {
        let writable = self.channel.writable;
        self.channel.readable
            || (writable && self.table.has_line())
            || self.published.is_busy(writable)
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let alarm = [self.table.first_alarm(), self.relay.first_alarm()];
        let sleep = match alarm.into_iter().flatten().min() {
            _ if self.is_busy() => Some(Duration::ZERO),
            Some(alarm) => Some(alarm.saturating_duration_since(now).min(LONGEST_SLEEP)),
            None => None,
        };
        let timeout = sleep.map(|sleep| Timespec {
            tv_sec: i64::try_from(sleep.as_secs()).unwrap_or(0),
            tv_nsec: sleep.subsec_nanos().into(),
        });
        if sleep != Some(Duration::ZERO) {
            self.counters.waits.count();
        }
        self.told.clear();
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        match epoll::wait(&self.poll, &mut events[..], timeout.as_ref()) {
            Ok((told, _)) => {
                let told = told.iter().map(|event| (event.data.u64(), event.flags));
                self.told.extend(told);
            }
            Err(Errno::INTR) => {}
            Err(error) => panic!("a thread can wait for its own descriptors: {error}"),
        }
    }

    fn take_events(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        for (about, flags) in told.drain(..) {
            match about {
                FRAMES => {
                    self.channel.readable |= flags.intersects(!epoll::EventFlags::OUT);
                    self.channel.writable |= flags.contains(epoll::EventFlags::OUT);
                }
                FIRST_PORT..FIRST_QUESTION => {
                    let number = usize::try_from(about - FIRST_PORT).unwrap_or(usize::MAX);
                    self.published.wake(number);
                }
                FIRST_QUESTION..FIRST_FLOW => {
                    let number = usize::try_from(about - FIRST_QUESTION).unwrap_or(usize::MAX);
                    self.resolver_answers(number);
                }
                bits => self.flow_event(Token::from_bits(bits), flags),
            }
        }
        self.told = told;
    }

    fn flow_event(&mut self, token: Token, flags: epoll::EventFlags) {
        let Some(flow) = self.table.get(token) else {
            return;
        };
        // An error is what a datagram came to: to read it is to be told.
        let readable = flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::ERR);
        match &mut flow.kind {
            Kind::Tcp(_) => return self.tcp_event(token, flags),
            Kind::Udp(datagrams) => datagrams.readable |= readable,
            Kind::Ping(ping) => ping.readable |= readable,
        }
        self.settle(token);
    }

    /// Does what is due.
    fn expire(&mut self) {
        // One that has come may be put off to now, but not more than once.
        for _ in 0..=self.table.len() {
            let Some(token) = self.table.next_alarm(self.now) else {
                break;
            };
            let now = self.now;
            let Some(flow) = self.table.get(token) else {
                continue;
            };
            match &mut flow.kind {
                Kind::Tcp(connection) => connection.expire(now, &self.channel, &self.counters),
                Kind::Udp(datagrams) if datagrams.due() > now => {}
                Kind::Ping(ping) if ping.due() > now => {}
                _ => {
                    self.remove(token);
                    continue;
                }
            }
            self.settle(token);
        }
        self.expire_questions();
    }

    /// Gives those their turn who have something for the guest.
    fn serve(&mut self) {
        for _ in 0..AT_ONCE {
            if !self.channel.writable {
                return;
            }
            let Some(token) = self.table.next_in_line() else {
                return;
            };
            match self.table.get(token).map(|flow| &flow.kind) {
                Some(Kind::Tcp(_)) => self.serve_connection(token),
                Some(Kind::Udp(_)) => self.serve_datagrams(token),
                Some(Kind::Ping(_)) => self.serve_ping(token),
                None => {}
            }
            self.settle(token);
        }
    }

    fn serve_connection(&mut self, token: Token) {
        let Some((key, connection)) = self.table.tcp(token) else {
            return;
        };
        connection.serve(&mut Way {
            key,
            guest_mac: self.guest_mac,
            mtu: self.mtu,
            now: self.now,
            channel: &mut self.channel,
            counters: &self.counters,
            payload: &mut self.payload,
            waste: &mut self.waste,
        });
        if connection.asks_for_room() {
            let data = epoll::EventData::new_u64(token.to_bits());
            // To ask again is to have the kernel look whether there is room, and tell when there is.
            let _ = epoll::modify(&self.poll, connection.socket(), data, changes());
        }
    }

    /// Puts a flow where it belongs after something was done about it.
    pub(super) fn settle(&mut self, token: Token) {
        if self.table.settle(token) {
            self.remove(token);
        }
    }

    pub(super) fn remove(&mut self, token: Token) {
        if self.table.remove(token).is_some() {
            self.counters.closed.count();
        }
    }

    /// Whether there is room for another flow. One of datagrams goes for it, if need be: it comes back if it is used.
    pub(super) fn has_room(&mut self) -> bool {
        if !self.table.is_full() {
            return true;
        }
        let Some(token) = self.table.find_evictable() else {
            return false;
        };
        self.counters.evicted.count();
        self.remove(token);
        true
    }

    /// Whether the guest may begin to talk to a host. If not, that is counted, and said if the user wants to know.
    pub(super) fn may_reach(&mut self, protocol: Protocol, host: IpAddr, port: u16) -> bool {
        if self.policy.verdict(protocol, host, port, self.now) == Verdict::Allow {
            return true;
        }
        self.counters.denied.count();
        if let Some(notices) = &self.notices {
            match protocol {
                Protocol::Tcp => notices.say(format_args!("denied: {host} port {port}/tcp")),
                Protocol::Udp => notices.say(format_args!("denied: {host} port {port}/udp")),
                Protocol::Icmp => notices.say(format_args!("denied: {host} echo request")),
            }
        }
        false
    }

    /// What is refused to the guest, if the user wants to know.
    pub(super) fn say_denied(&self, name: &str) {
        self.counters.denied.count();
        if let Some(notices) = &self.notices {
            notices.say(format_args!("denied: the name {name}"));
        }
    }
}

/// An event of the question `number`.
pub(super) fn question(number: usize) -> u64 {
    FIRST_QUESTION.saturating_add(u64::try_from(number).unwrap_or(0))
}
