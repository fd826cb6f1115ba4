//! The thread that serves the control socket: it waits for whoever is ready, and for nobody in particular.
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketFlags, accept_with},
};

use super::{
    client::Client,
    resources::{Resources, Vm},
};

/// Clients at a time.
pub(super) const MAX_CLIENTS: usize = 64;
/// New clients at a time, so that others have their turn.
const MAX_NEW: usize = 16;
/// How long a client is waited for at least, however many others want its place; and how long none is let in when the host
/// has no descriptor for another.
const GRACE: Duration = Duration::from_millis(100);

/// The server.
pub(super) struct Server<V> {
    listener: OwnedFd,
    resources: Resources<V>,
    clients: Vec<Client>,
    /// Until when nobody is let in.
    shut_until: Option<Instant>,
}

impl<V: Vm> Server<V> {
    pub(super) fn new(listener: OwnedFd, resources: Resources<V>) -> Self {
        Self {
            listener,
            resources,
            clients: Vec::new(),
            shut_until: None,
        }
    }

    /// Serves until `end` is readable, and what has been asked by then is answered.
    pub(super) fn run(mut self, end: BorrowedFd<'_>) {
        while self.turn(end) {}
    }

    /// Waits for anything, and does all that there is to do then; whether to go on.
    fn turn(&mut self, end: BorrowedFd<'_>) -> bool {
        let now = Instant::now();
        self.shut_until = self.shut_until.filter(|until| *until > now);
        let ready = self.wait(now, end);
        let now = Instant::now();
        let mut readiness = ready.into_iter();
        let ended = readiness.next().is_some_and(|ready| ready);
        let resources = &mut self.resources;
        self.clients.retain_mut(|client| {
            let ready = readiness.next().is_some_and(|ready| ready) || client.has_more();
            let overdue = client.deadline().is_some_and(|deadline| deadline <= now);
            !overdue && (!ready || client.turn(now, resources))
        });
        if readiness.next().is_some_and(|ready| ready) {
            self.let_in(now);
        }
        !ended
    }

    /// Waits; whether it is the end, whether each client is ready, and behind them whether another one is there.
    fn wait(&self, now: Instant, end: BorrowedFd<'_>) -> Vec<bool> {
        let clients = self.clients.iter();
        let of =
            |client| PollFd::from_borrowed_fd(Client::socket(client), Client::interest(client));
        let mut waited = vec![PollFd::from_borrowed_fd(end, PollFlags::IN)];
        waited.extend(clients.clone().map(of));
        if self.shut_until.is_none() {
            waited.push(PollFd::from_borrowed_fd(
                self.listener.as_fd(),
                PollFlags::IN,
            ));
        }
        let next = if clients.clone().any(Client::has_more) {
            Some(now)
        } else {
            clients
                .filter_map(Client::deadline)
                .chain(self.shut_until)
                .min()
        };
        let left = next.map(|next| next.saturating_duration_since(now));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        // It fails only when it is interrupted, or the host is out of memory for a moment: then nobody is ready.
        let _ = poll(&mut waited, left.as_ref());
        waited
            .iter()
            .map(|waited| !waited.revents().is_empty())
            .collect()
    }

    /// Lets clients in. What they have asked already is answered at once.
    fn let_in(&mut self, now: Instant) {
        for _ in 0..MAX_NEW {
            if !self.make_room(now) {
                return;
            }
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    let mut client = Client::new(socket, now);
                    if client.turn(now, &mut self.resources) {
                        self.clients.push(client);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    self.shut_until = Some(now + GRACE);
                    return;
                }
            }
        }
    }

    /// Sees to it that there is room for one more client: the one of least worth goes, if it had its time.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.clients.len() < MAX_CLIENTS {
            return true;
        }
        let had_its_time = |client: &Client| client.since() + GRACE <= now;
        let candidates = self.clients.iter().enumerate();
        let least = candidates
            .filter(|(_, client)| had_its_time(client))
            .min_by_key(|(_, client)| client.worth());
        if let Some((index, _)) = least {
            self.clients.swap_remove(index);
            return true;
        }
        let oldest = self.clients.iter().map(Client::since).min();
        self.shut_until = oldest.map(|since| since + GRACE);
        false
    }
}
