//! The relay of names: the guest's questions go to the host's resolvers, if the guest may ask them, and their answers come back, if it
//! may know them.
mod datagrams;
mod streams;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use self::{datagrams::Question, streams::Session};
use super::{
    dns::{self, Answer, Query, Rcode},
    engine::Engine,
};

/// Questions on their way at once, each with a descriptor.
const QUESTIONS: usize = 128;
/// Streams of questions at once, each with two.
const SESSIONS: usize = 32;
/// How long a resolver has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// As [`PATIENCE`], over a stream.
const PATIENCE_OVER_STREAMS: Duration = Duration::from_secs(5);
/// How long a client may keep a stream without a question.
const IDLE: Duration = Duration::from_secs(10);
/// How often the resolvers are asked in turn.
const ROUNDS: usize = 2;
/// Resolvers that are asked, of those that there are: as many as a C library asks (resolv.conf(5), `MAXNS`).
const MOST_RESOLVERS: usize = 3;
/// Longer questions are nobody's.
const LONGEST_QUESTION: usize = 4096;
/// Codes by which a resolver says that another may know.
const SERVER_FAILED: u8 = 2;
const REFUSED: u8 = 5;

/// Questions on their way.
#[derive(Debug)]
pub(super) struct Relay {
    resolvers: Vec<SocketAddr>,
    questions: Vec<Option<Box<Question>>>,
    sessions: Vec<Option<Box<Session>>>,
    /// No earlier than this something is due.
    alarm: Option<Instant>,
}

impl Relay {
    pub(super) fn new(mut resolvers: Vec<SocketAddr>) -> Self {
        resolvers.truncate(MOST_RESOLVERS);
        Self {
            resolvers,
            questions: std::iter::repeat_with(|| None).take(QUESTIONS).collect(),
            sessions: std::iter::repeat_with(|| None).take(SESSIONS).collect(),
            alarm: None,
        }
    }

    pub(super) fn first_alarm(&self) -> Option<Instant> {
        self.alarm
    }

    fn set_alarm(&mut self, due: Instant) {
        self.alarm = Some(self.alarm.map_or(due, |alarm| alarm.min(due)));
    }

    /// Whom to ask at the attempt `number`, if there is still somebody.
    fn resolver(&self, number: usize) -> Option<SocketAddr> {
        let count = self.resolvers.len();
        (number < count * ROUNDS).then(|| self.resolvers[number % count])
    }
}

/// What comes of an answer.
enum Judgement {
    /// This goes to the guest.
    Reply(Vec<u8>),
    /// Another resolver may know.
    NextResolver,
    /// It is none.
    NoAnswer,
}

impl Engine {
    /// Reads a question. If it is not passed on, the reply to it.
    fn judge_question(&mut self, message: &[u8]) -> Result<Query, Vec<u8>> {
        self.counters.names_asked.count();
        let query = Query::parse(message).filter(|_| message.len() <= LONGEST_QUESTION);
        let query = query.ok_or_else(|| dns::refuse(message, Rcode::FormErr))?;
        if !self.policy.may_resolve(&query.name) {
            self.say_denied(&query.name);
            return Err(dns::refuse(message, Rcode::NxDomain));
        }
        Ok(query)
    }

    /// Judges what a resolver said to `query`, which the guest had asked as `question`.
    fn judge_answer(&mut self, query: &Query, question: &[u8], mut message: Vec<u8>) -> Judgement {
        let Some(answer) = Answer::parse(&message, query) else {
            return Judgement::NoAnswer;
        };
        if matches!(answer.rcode, SERVER_FAILED | REFUSED) {
            return Judgement::NextResolver;
        }
        let denied = answer
            .names
            .iter()
            .any(|name| self.policy.denies_name(name));
        if denied || self.policy.only_denied(&answer.addresses) {
            self.say_denied(&query.name);
            return Judgement::Reply(dns::refuse(question, Rcode::NxDomain));
        }
        for (address, seconds) in answer.addresses {
            let holds = Duration::from_secs(seconds.into());
            self.policy
                .learn(&query.name, std::iter::once(address), holds, self.now);
        }
        if let (Some(id), Some(own)) = (message.get_mut(..2), question.get(..2)) {
            id.copy_from_slice(own);
        }
        Judgement::Reply(message)
    }

    /// No resolver answered.
    fn no_answer(&mut self, question: &[u8]) -> Vec<u8> {
        self.counters.names_failed.count();
        dns::refuse(question, Rcode::ServFail)
    }

    /// What is asked of a resolver instead of what the guest asked: it has a number that nobody can guess.
    fn disguise(&mut self, query: &mut Query, question: &[u8]) -> Vec<u8> {
        let [a, b, ..] = self.table.random().to_le_bytes();
        query.id = u16::from_be_bytes([a, b]);
        let mut message = question.to_vec();
        if let Some(id) = message.get_mut(..2) {
            id.copy_from_slice(&[a, b]);
        }
        message
    }

    /// Something has come from a resolver, or from who asks over a stream.
    pub(super) fn resolver_answers(&mut self, number: usize) {
        match number.checked_sub(QUESTIONS) {
            None => self.take_answers(number),
            Some(session) => self.drive(session / 2),
        }
    }

    /// Does what is due.
    pub(super) fn expire_questions(&mut self) {
        if self.relay.alarm.is_none_or(|alarm| alarm > self.now) {
            return;
        }
        self.relay.alarm = None;
        for number in 0..QUESTIONS {
            let due = self.relay.questions[number]
                .as_ref()
                .map(|question| question.due());
            match due {
                Some(due) if due <= self.now => self.ask_next(number),
                Some(due) => self.relay.set_alarm(due),
                None => {}
            }
        }
        for number in 0..SESSIONS {
            let due = self.relay.sessions[number]
                .as_ref()
                .map(|session| session.due());
            match due {
                Some(due) if due <= self.now => self.session_is_late(number),
                Some(due) => self.relay.set_alarm(due),
                None => {}
            }
        }
    }
}
