//! Answers: a status, and JSON.
use std::fmt;

use serde::Serialize;

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// What was asked for follows.
    Ok,
    /// It is done.
    NoContent,
    /// It cannot be done, for the reason that follows.
    BadRequest,
    /// Its body is longer than any that is read.
    PayloadTooLarge,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::NoContent => "204 No Content",
            Self::BadRequest => "400 Bad Request",
            Self::PayloadTooLarge => "413 Payload Too Large",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// How it went.
    pub status: Status,
    /// JSON; empty where there is nothing to say.
    pub body: String,
}

/// The body of an answer to what failed: Firecracker's.
#[derive(Serialize)]
struct Fault {
    fault_message: String,
}

impl Response {
    /// It is done.
    pub fn done() -> Self {
        Self {
            status: Status::NoContent,
            body: String::new(),
        }
    }

    /// What was asked for.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self {
                status: Status::Ok,
                body,
            },
            Err(error) => Self::fault(format_args!("this cannot be told in JSON: {error}")),
        }
    }

    /// It cannot be done.
    pub fn fault(why: impl fmt::Display) -> Self {
        Self::refused(Status::BadRequest, why)
    }

    /// It cannot be done, with this status.
    pub fn refused(status: Status, why: impl fmt::Display) -> Self {
        let fault = Fault {
            fault_message: why.to_string(),
        };
        Self {
            status,
            // A structure of one string has a form in JSON.
            body: serde_json::to_string(&fault).unwrap_or_default(),
        }
    }

    /// Its bytes (RFC 9112 §4, RFC 9110 §8.6: 204 has no length), for a client that is not listened to any more unless `keep_alive`.
    pub fn bytes(&self, keep_alive: bool, with_body: bool) -> Vec<u8> {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let mut text = format!(
            "HTTP/1.1 {}\r\nServer: ampoule\r\nConnection: {connection}\r\n",
            self.status.line()
        );
        if self.status != Status::NoContent {
            let length = self.body.len();
            text += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        }
        text += "\r\n";
        if with_body {
            text += &self.body;
        }
        text.into_bytes()
    }
}

/// Told to a client whose request's body is welcome.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
