//! Questions in datagrams: each is asked from a port of its own, with a number of its own.
use std::{os::fd::OwnedFd, time::Instant};

use rustix::net::SendFlags;

use super::{Judgement, PATIENCE};
use crate::usernet::{
    dns::{self, Query},
    engine::{Engine, question, watch},
    host,
    table::Key,
};

/// Datagrams that are looked at for one answer, before others have their turn: the rest is another's forgery.
const TURN: usize = 8;

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    key: Key,
    /// As the guest asked it.
    message: Vec<u8>,
    /// As the resolver is asked.
    query: Query,
    socket: Option<OwnedFd>,
    attempt: usize,
    due: Instant,
}

impl Question {
    pub(super) fn due(&self) -> Instant {
        self.due
    }
}

impl Engine {
    /// The guest asks.
    pub(in crate::usernet) fn ask(&mut self, key: Key, message: &[u8]) {
        let query = match self.judge_question(message) {
            Ok(query) => query,
            Err(reply) => return self.reply(&key, message, &reply),
        };
        let free = self.relay.questions.iter().position(Option::is_none);
        let Some(number) = free.filter(|_| !self.relay.resolvers.is_empty()) else {
            let reply = self.no_answer(message);
            return self.reply(&key, message, &reply);
        };
        self.relay.questions[number] = Some(Box::new(Question {
            key,
            message: message.to_vec(),
            query,
            socket: None,
            attempt: 0,
            due: self.now,
        }));
        self.ask_next(number);
    }

    /// Asks the next resolver, if there is one.
    pub(super) fn ask_next(&mut self, number: usize) {
        let Some(mut asked) = self.relay.questions[number].take() else {
            return;
        };
        // What comes from the one before has come too late.
        asked.socket = None;
        while let Some(resolver) = self.relay.resolver(asked.attempt) {
            asked.attempt += 1;
            let message = self.disguise(&mut asked.query, &asked.message);
            let Ok(socket) = host::connect_udp(&resolver) else {
                continue;
            };
            let sent = rustix::net::send(&socket, &message, SendFlags::NOSIGNAL);
            let watched = watch(&self.poll, &socket, question(number));
            if sent.is_ok() && watched.is_ok() {
                asked.socket = Some(socket);
                asked.due = self.now + PATIENCE;
                self.relay.set_alarm(asked.due);
                self.relay.questions[number] = Some(asked);
                return;
            }
        }
        let reply = self.no_answer(&asked.message);
        self.reply(&asked.key, &asked.message, &reply);
    }

    /// Looks at what has come for a question.
    pub(super) fn take_answers(&mut self, number: usize) {
        for _ in 0..TURN {
            let Some(asked) = self.relay.questions.get(number).and_then(Option::as_ref) else {
                return;
            };
            let Some(socket) = &asked.socket else {
                return;
            };
            let answer = match host::receive(socket, &mut self.datagram) {
                Ok(Some(answer)) => answer.to_vec(),
                Ok(None) => return,
                // Nobody is there.
                Err(_) => return self.ask_next(number),
            };
            let (query, message, key) = (asked.query.clone(), asked.message.clone(), asked.key);
            match self.judge_answer(&query, &message, answer) {
                Judgement::NoAnswer => {}
                Judgement::NextResolver => return self.ask_next(number),
                Judgement::Reply(reply) => {
                    self.relay.questions[number] = None;
                    return self.reply(&key, &message, &reply);
                }
            }
        }
        // There is more, of which no event will tell: whoever sends so much is no resolver.
        self.ask_next(number);
    }

    /// Sends a reply to the guest, as long as it takes it.
    fn reply(&mut self, key: &Key, message: &[u8], reply: &[u8]) {
        if reply.len() > dns::udp_limit(message) {
            self.give_datagram(key, &dns::truncated(message));
        } else if !reply.is_empty() {
            self.give_datagram(key, reply);
        }
    }
}
