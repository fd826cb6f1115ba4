//! All connections: found by their ports, by the token of an event, by their turn, by their time.
use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    time::Instant,
};

use super::{connection::Connection, packet::Ports};

/// The first port of the host's that connections from there are given: the range is Firecracker's.
const FIRST_PORT: u32 = 1 << 30;

/// Which connection: a place, and which of those that were at that place.
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

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// The connections of a device.
#[derive(Debug)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    by_ports: HashMap<Ports, Token>,
    line: VecDeque<Token>,
    deadlines: BTreeSet<(Instant, Token)>,
    limit: usize,
    next_port: u32,
}

impl Table {
    /// Room for `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        // It asks the kernel for random bytes, and does so here: the thread that uses it could not.
        let random = RandomState::new();
        let [a, b, c, ..] = random.hash_one(limit).to_le_bytes();
        // What is large must not grow: its thread may not ask the kernel to move it. Nothing of it is touched before it is used.
        Self {
            places: Vec::with_capacity(limit),
            free: Vec::with_capacity(limit),
            by_ports: HashMap::with_hasher(random),
            line: VecDeque::with_capacity(2 * limit + 2),
            deadlines: BTreeSet::new(),
            limit,
            next_port: FIRST_PORT | u32::from_le_bytes([a, b, c, 0]),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    pub(super) fn insert(&mut self, connection: Connection) -> Token {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("fewer connections than descriptors")
        });
        let at = &mut self.places[index(place)];
        at.generation = at.generation.wrapping_add(1);
        let token = Token {
            place,
            generation: at.generation,
        };
        if let Some(ports) = connection.ports {
            self.by_ports.insert(ports, token);
        }
        at.connection = Some(Box::new(connection));
        token
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut Connection> {
        let place = self.places.get_mut(index(token.place))?;
        let same = place.generation == token.generation;
        place.connection.as_deref_mut().filter(|_| same)
    }

    pub(super) fn find(&self, ports: Ports) -> Option<Token> {
        self.by_ports.get(&ports).copied()
    }

    /// Gives a connection its ports.
    pub(super) fn name(&mut self, token: Token, ports: Ports) {
        if let Some(connection) = self.get(token) {
            connection.ports = Some(ports);
            self.by_ports.insert(ports, token);
        }
    }

    /// From now on the guest's packets are not about this connection.
    pub(super) fn forget_ports(&mut self, token: Token) {
        if let Some(ports) = self
            .get(token)
            .and_then(|connection| connection.ports.take())
        {
            self.by_ports.remove(&ports);
        }
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Box<Connection>> {
        self.set_deadline(token, None);
        self.forget_ports(token);
        self.get(token)?;
        self.free.push(token.place);
        self.places[index(token.place)].connection.take()
    }

    /// A port of the host's that no connection to `guest` has.
    pub(super) fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = FIRST_PORT | (host.wrapping_add(1) & (FIRST_PORT - 1));
            if !self.by_ports.contains_key(&Ports { guest, host }) {
                return host;
            }
        }
    }

    /// Puts a connection in line, if it has something for the guest and does not stand there.
    pub(super) fn line_up(&mut self, token: Token) {
        if self.line.len() > 2 * self.limit {
            // Those that have gone still stand there.
            let mut line = std::mem::take(&mut self.line);
            line.retain(|token| self.get(*token).is_some());
            self.line = line;
        }
        if let Some(connection) = self.get(token)
            && !connection.in_line
            && connection.has_something()
        {
            connection.in_line = true;
            self.line.push_back(token);
        }
    }

    /// Whose turn it is.
    pub(super) fn next_in_line(&mut self) -> Option<Token> {
        while let Some(token) = self.line.pop_front() {
            if let Some(connection) = self.get(token) {
                connection.in_line = false;
                return Some(token);
            }
        }
        None
    }

    pub(super) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    pub(super) fn set_deadline(&mut self, token: Token, deadline: Option<Instant>) {
        let Some(connection) = self.get(token) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut connection.deadline, deadline) {
            self.deadlines.remove(&(before, token));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, token));
        }
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// One whose time has come. It has no deadline any more.
    pub(super) fn next_expired(&mut self, now: Instant) -> Option<Token> {
        let (deadline, token) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.set_deadline(token, None);
        Some(token)
    }

    /// Every connection there is.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let places = self.places.iter().zip(0..);
        places
            .filter(|(place, _)| place.connection.is_some())
            .map(|(at, place)| Token {
                place,
                generation: at.generation,
            })
            .collect()
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).expect("32 bits fit a usize")
}
