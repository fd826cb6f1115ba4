//! Questions over streams, each behind its length (RFC 7766 §8): one after the other, and each asked over a stream of its own.
use std::{os::fd::OwnedFd, time::Instant};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketType},
};

use super::{IDLE, Judgement, LONGEST_QUESTION, PATIENCE_OVER_STREAMS, QUESTIONS};
use crate::usernet::{
    dns::Query,
    engine::{Engine, question, watch},
    host,
};

/// Steps that are done for one session before others have their turn.
const TURN: usize = 16;

/// What is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A question.
    Question,
    /// That a resolver takes it.
    Asking,
    /// The answer.
    Answer,
    /// That the client takes it.
    Replying,
}

/// A message behind its length, on its way in or out.
#[derive(Debug, Default)]
struct Framed {
    bytes: Vec<u8>,
    /// So much has gone out.
    done: usize,
}

/// How far one got.
enum Progress {
    Done,
    Waiting,
    /// The other end is gone, or says what nobody says.
    Ended,
}

impl Framed {
    fn new(message: &[u8]) -> Option<Self> {
        let length = u16::try_from(message.len()).ok()?;
        let bytes = [&length.to_be_bytes()[..], message].concat();
        Some(Self { bytes, done: 0 })
    }

    fn message(&self) -> &[u8] {
        self.bytes.get(2..).unwrap_or_default()
    }

    /// How long it will be, as far as is known.
    fn length(&self) -> usize {
        match self.bytes[..] {
            [a, b, ..] => 2 + usize::from(u16::from_be_bytes([a, b])),
            _ => 2,
        }
    }

    fn read(&mut self, socket: &OwnedFd, longest: usize) -> Progress {
        loop {
            let (have, length) = (self.bytes.len(), self.length());
            if length > longest + 2 {
                return Progress::Ended;
            }
            if have >= 2 && have == length {
                return Progress::Done;
            }
            self.bytes.resize(length, 0);
            let read = rustix::net::recv(socket, &mut self.bytes[have..], RecvFlags::DONTWAIT);
            let more = read.as_ref().map_or(0, |(_, more)| *more);
            self.bytes.truncate(have + more);
            match read {
                Ok((_, 0)) => return Progress::Ended,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(_) => return Progress::Ended,
            }
        }
    }

    fn write(&mut self, socket: &OwnedFd) -> Progress {
        while self.done < self.bytes.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(socket, &self.bytes[self.done..], flags) {
                Ok(sent) => self.done += sent,
                Err(Errno::INTR) => {}
                // It is still being connected, or has no room.
                Err(Errno::AGAIN | Errno::NOTCONN) => return Progress::Waiting,
                Err(_) => return Progress::Ended,
            }
        }
        Progress::Done
    }
}

/// A client's stream.
#[derive(Debug)]
pub(super) struct Session {
    client: OwnedFd,
    step: Step,
    question: Framed,
    query: Option<Query>,
    resolver: Option<OwnedFd>,
    asked: Framed,
    answer: Framed,
    reply: Framed,
    attempt: usize,
    due: Instant,
    /// Whether it is not over what it can do by itself.
    busy: bool,
}

impl Session {
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    fn next_question(&mut self, due: Instant) {
        self.step = Step::Question;
        self.question = Framed::default();
        self.reply = Framed::default();
        self.attempt = 0;
        self.due = due;
    }
}

/// What becomes of a session after a step.
enum Next {
    Go,
    Wait,
    Over,
}

impl Engine {
    /// A stream of the guest's begins. Where there are too many, the one that would end first does.
    ///
    /// # Errors
    /// When the host has no room for it.
    pub(in crate::usernet) fn serve_names(&mut self, client: OwnedFd) -> rustix::io::Result<()> {
        let sessions = &self.relay.sessions;
        let due = |number: &usize| sessions[*number].as_ref().map(|session| session.due);
        let number = (0..sessions.len()).min_by_key(due).ok_or(Errno::MFILE)?;
        watch(&self.poll, &client, question(QUESTIONS + 2 * number))?;
        let due = self.now + IDLE;
        self.relay.set_alarm(due);
        self.relay.sessions[number] = Some(Box::new(Session {
            client,
            step: Step::Question,
            question: Framed::default(),
            query: None,
            resolver: None,
            asked: Framed::default(),
            answer: Framed::default(),
            reply: Framed::default(),
            attempt: 0,
            due,
            busy: false,
        }));
        Ok(())
    }

    /// Does what can be done for a session.
    pub(super) fn drive(&mut self, number: usize) {
        let Some(mut session) = self.relay.sessions.get_mut(number).and_then(Option::take) else {
            return;
        };
        for _ in 0..TURN {
            match self.step(number, &mut session) {
                Next::Go => {}
                Next::Wait => {
                    self.relay.set_alarm(session.due);
                    self.relay.sessions[number] = Some(session);
                    return;
                }
                Next::Over => return,
            }
        }
        // Others have their turn; then it goes on.
        session.busy = true;
        session.due = self.now;
        self.relay.set_alarm(session.due);
        self.relay.sessions[number] = Some(session);
    }

    /// A session has taken its time.
    pub(super) fn session_is_late(&mut self, number: usize) {
        let Some(mut session) = self.relay.sessions[number].take() else {
            return;
        };
        let next = match session.step {
            _ if std::mem::take(&mut session.busy) => {
                session.due = self.now + IDLE;
                Next::Go
            }
            Step::Asking | Step::Answer => self.ask_over_stream(number, &mut session),
            Step::Question | Step::Replying => Next::Over,
        };
        if !matches!(next, Next::Over) {
            self.relay.sessions[number] = Some(session);
            self.drive(number);
        }
    }

    fn step(&mut self, number: usize, session: &mut Session) -> Next {
        match session.step {
            Step::Question => match session.question.read(&session.client, LONGEST_QUESTION) {
                Progress::Done => self.take_question(number, session),
                Progress::Waiting => Next::Wait,
                Progress::Ended => Next::Over,
            },
            Step::Asking => match write_to(&mut session.asked, session.resolver.as_ref()) {
                Progress::Done => {
                    session.step = Step::Answer;
                    Next::Go
                }
                Progress::Waiting => Next::Wait,
                Progress::Ended => self.ask_over_stream(number, session),
            },
            Step::Answer => {
                let Some(resolver) = &session.resolver else {
                    return self.ask_over_stream(number, session);
                };
                match session.answer.read(resolver, usize::from(u16::MAX)) {
                    Progress::Done => self.take_stream_answer(number, session),
                    Progress::Waiting => Next::Wait,
                    Progress::Ended => self.ask_over_stream(number, session),
                }
            }
            Step::Replying => match session.reply.write(&session.client) {
                Progress::Done => {
                    session.next_question(self.now + IDLE);
                    Next::Go
                }
                Progress::Waiting => Next::Wait,
                Progress::Ended => Next::Over,
            },
        }
    }

    fn take_question(&mut self, number: usize, session: &mut Session) -> Next {
        match self.judge_question(session.question.message()) {
            Ok(query) => {
                session.query = Some(query);
                self.ask_over_stream(number, session)
            }
            Err(reply) => self.reply_over_stream(session, &reply),
        }
    }

    /// Asks the next resolver, if there is one.
    fn ask_over_stream(&mut self, number: usize, session: &mut Session) -> Next {
        session.resolver = None;
        session.answer = Framed::default();
        while let (Some(query), Some(resolver)) =
            (&mut session.query, self.relay.resolver(session.attempt))
        {
            session.attempt += 1;
            let message = self.disguise(query, session.question.message());
            let (Some(asked), Ok(socket)) = (
                Framed::new(&message),
                host::socket(&resolver, SocketType::STREAM, None),
            ) else {
                continue;
            };
            let connecting = match rustix::net::connect(&socket, &resolver) {
                Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => true,
                Err(_) => false,
            };
            let about = question(QUESTIONS + 2 * number + 1);
            if connecting && watch(&self.poll, &socket, about).is_ok() {
                session.resolver = Some(socket);
                session.asked = asked;
                session.step = Step::Asking;
                session.due = self.now + PATIENCE_OVER_STREAMS;
                return Next::Go;
            }
        }
        let reply = self.no_answer(session.question.message());
        self.reply_over_stream(session, &reply)
    }

    fn take_stream_answer(&mut self, number: usize, session: &mut Session) -> Next {
        let Some(query) = session.query.take() else {
            return Next::Over;
        };
        let answer = session.answer.message().to_vec();
        let judged = self.judge_answer(&query, session.question.message(), answer);
        session.query = Some(query);
        match judged {
            Judgement::Reply(reply) => self.reply_over_stream(session, &reply),
            Judgement::NextResolver | Judgement::NoAnswer => self.ask_over_stream(number, session),
        }
    }

    fn reply_over_stream(&mut self, session: &mut Session, reply: &[u8]) -> Next {
        // What is no question is not answered.
        let Some(framed) = Framed::new(reply).filter(|_| !reply.is_empty()) else {
            return Next::Over;
        };
        session.resolver = None;
        session.answer = Framed::default();
        session.reply = framed;
        session.step = Step::Replying;
        session.due = self.now + IDLE;
        Next::Go
    }
}

fn write_to(framed: &mut Framed, socket: Option<&OwnedFd>) -> Progress {
    socket.map_or(Progress::Ended, |socket| framed.write(socket))
}
