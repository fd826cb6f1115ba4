//! All flows: found by their ends, by the token of an event, by their turn, by their time.
use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{ping::Ping, tcp::Connection, udp::Datagrams};

/// What a flow is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Tcp,
    Udp,
    /// Ports are the identifier of its echo requests, and 0.
    Ping,
}

/// A flow's ends, as the guest sees them. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) transport: Transport,
    pub(super) guest: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
}

/// Which flow: a place, and which of those that were at that place. Generations begin with 1: what is below is free for other events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    place: u32,
    generation: u32,
}

impl Token {
    /// As an event's data.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    /// What [`to_bits`](Self::to_bits) made.
    pub(super) fn from_bits(bits: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
        Self {
            place: u32::from_le_bytes([a, b, c, d]),
            generation: u32::from_le_bytes([e, f, g, h]),
        }
    }
}

/// A flow's own part.
#[derive(Debug)]
pub(super) enum Kind {
    Tcp(Connection),
    Udp(Datagrams),
    Ping(Ping),
}

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) kind: Kind,
    /// Whether it was used since somebody looked for one that was not.
    pub(super) used: bool,
    in_line: bool,
    /// When it is looked at at the latest: what is due later is put off then.
    alarm: Option<Instant>,
}

impl Flow {
    pub(super) fn new(key: Key, kind: Kind) -> Self {
        Self {
            key,
            kind,
            used: true,
            in_line: false,
            alarm: None,
        }
    }

    /// Whether there is something to be done for it that needs room in the channel.
    fn has_something(&self) -> bool {
        match &self.kind {
            Kind::Tcp(connection) => connection.has_something(),
            Kind::Udp(datagrams) => datagrams.readable,
            Kind::Ping(ping) => ping.readable,
        }
    }

    fn is_over(&self) -> bool {
        matches!(&self.kind, Kind::Tcp(connection) if connection.is_over())
    }

    fn due(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Tcp(connection) => connection.due(),
            Kind::Udp(datagrams) => Some(datagrams.due()),
            Kind::Ping(ping) => Some(ping.due()),
        }
    }
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    flow: Option<Box<Flow>>,
}

/// A client on the host of a published port for datagrams: which port, and where from.
pub(super) type Client = (usize, SocketAddr);

/// The flows of a network.
#[derive(Debug)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    by_key: HashMap<Key, Token>,
    by_client: HashMap<Client, Token>,
    line: VecDeque<Token>,
    alarms: BTreeSet<(Instant, Token)>,
    /// Flows that can be given up for others, in the order in which they came or were found in use.
    evictable: VecDeque<Token>,
    limit: usize,
    random: RandomState,
    numbered: u64,
}

/// How many of those that can be given up are looked at to find one that is not in use.
const LOOKS: usize = 32;
/// The first port that flows from the host are given, and how many.
const FIRST_PORT: u16 = 1024;
const PORTS: u64 = 65536 - 1024;

impl Table {
    /// Room for `limit` flows.
    pub(super) fn new(limit: usize) -> Self {
        // It asks the kernel for random bytes, and does so here: the thread that uses it could not.
        let random = RandomState::new();
        Self {
            places: Vec::with_capacity(limit),
            free: Vec::with_capacity(limit),
            by_key: HashMap::with_hasher(random.clone()),
            by_client: HashMap::with_hasher(random.clone()),
            line: VecDeque::with_capacity(2 * limit + 2),
            alarms: BTreeSet::new(),
            evictable: VecDeque::with_capacity(2 * limit + 2),
            limit,
            random,
            numbered: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// A number that nobody can guess.
    pub(super) fn random(&mut self) -> u64 {
        self.numbered = self.numbered.wrapping_add(1);
        self.random.hash_one(self.numbered)
    }

    pub(super) fn insert(&mut self, flow: Flow) -> Token {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("fewer flows than descriptors")
        });
        let at = &mut self.places[index(place)];
        at.generation = at.generation.wrapping_add(1).max(1);
        let token = Token {
            place,
            generation: at.generation,
        };
        self.by_key.insert(flow.key, token);
        match &flow.kind {
            Kind::Tcp(_) => {}
            Kind::Udp(datagrams) => {
                if let Some(client) = datagrams.client() {
                    self.by_client.insert(client, token);
                }
                self.evictable.push_back(token);
            }
            Kind::Ping(_) => self.evictable.push_back(token),
        }
        at.flow = Some(Box::new(flow));
        self.trim_evictable();
        token
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut Flow> {
        let place = self.places.get_mut(index(token.place))?;
        let same = place.generation == token.generation;
        place.flow.as_deref_mut().filter(|_| same)
    }

    /// The connection of `token`, with its ends.
    pub(super) fn tcp(&mut self, token: Token) -> Option<(Key, &mut Connection)> {
        let flow = self.get(token)?;
        match &mut flow.kind {
            Kind::Tcp(connection) => Some((flow.key, connection)),
            _ => None,
        }
    }

    pub(super) fn find(&self, key: &Key) -> Option<Token> {
        self.by_key.get(key).copied()
    }

    pub(super) fn find_client(&self, client: &Client) -> Option<Token> {
        self.by_client.get(client).copied()
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Box<Flow>> {
        let flow = self.get(token)?;
        let (key, alarm) = (flow.key, flow.alarm);
        if let Some(alarm) = alarm {
            self.alarms.remove(&(alarm, token));
        }
        self.by_key.remove(&key);
        let flow = self.places[index(token.place)].flow.take()?;
        self.free.push(token.place);
        if let Kind::Udp(datagrams) = &flow.kind
            && let Some(client) = datagrams.client()
        {
            self.by_client.remove(&client);
        }
        Some(flow)
    }

    /// Puts a flow where it belongs after something was done about it. Whether it is over, and to be removed.
    pub(super) fn settle(&mut self, token: Token) -> bool {
        let Some(flow) = self.get(token) else {
            return false;
        };
        if flow.is_over() {
            return true;
        }
        let (due, alarm) = (flow.due(), flow.alarm);
        let line_up = !flow.in_line && flow.has_something();
        flow.in_line |= line_up;
        // An alarm that comes too early is put off when it comes: most never come.
        let earlier = due.filter(|due| alarm.is_none_or(|alarm| *due < alarm));
        if earlier.is_some() {
            flow.alarm = earlier;
        }
        if let Some(due) = earlier {
            if let Some(alarm) = alarm {
                self.alarms.remove(&(alarm, token));
            }
            self.alarms.insert((due, token));
        }
        if line_up {
            self.trim_line();
            self.line.push_back(token);
        }
        false
    }

    /// Those that have gone may still stand in line.
    fn trim_line(&mut self) {
        if self.line.len() > 2 * self.limit {
            let mut line = std::mem::take(&mut self.line);
            line.retain(|token| self.get(*token).is_some());
            self.line = line;
        }
    }

    fn trim_evictable(&mut self) {
        if self.evictable.len() > 2 * self.limit {
            let mut evictable = std::mem::take(&mut self.evictable);
            evictable.retain(|token| self.get(*token).is_some());
            self.evictable = evictable;
        }
    }

    /// Whose turn it is.
    pub(super) fn next_in_line(&mut self) -> Option<Token> {
        while let Some(token) = self.line.pop_front() {
            if let Some(flow) = self.get(token) {
                flow.in_line = false;
                return Some(token);
            }
        }
        None
    }

    pub(super) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    pub(super) fn first_alarm(&self) -> Option<Instant> {
        self.alarms.first().map(|(alarm, _)| *alarm)
    }

    /// One whose alarm has come: it has none any more, and may have to be [put off](Self::settle).
    pub(super) fn next_alarm(&mut self, now: Instant) -> Option<Token> {
        let (alarm, token) = *self.alarms.first()?;
        if alarm > now {
            return None;
        }
        self.alarms.pop_first();
        if let Some(flow) = self.get(token) {
            flow.alarm = None;
        }
        Some(token)
    }

    /// A flow to be given up for another: one that was not used for long, as far as a few looks tell.
    pub(super) fn find_evictable(&mut self) -> Option<Token> {
        for look in 0.. {
            let token = self.evictable.pop_front()?;
            let Some(flow) = self.get(token) else {
                continue;
            };
            if look >= LOOKS || !std::mem::take(&mut flow.used) {
                return Some(token);
            }
            self.evictable.push_back(token);
        }
        None
    }

    /// Makes the remote port of `key` one that no other flow has.
    pub(super) fn with_free_port(&mut self, mut key: Key) -> Option<Key> {
        let start = self.random();
        // There are many more ports than flows.
        for more in 0..PORTS {
            let port = u16::try_from(start.wrapping_add(more) % PORTS).unwrap_or(0);
            key.remote.1 = FIRST_PORT.saturating_add(port);
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).expect("32 bits fit a usize")
}
