//! HTTP/1.1 (RFC 9112) as far as the control socket speaks it: requests, out of bytes that come in any pieces.
use std::mem;

use super::response::Status;

/// Bytes of a request line and headers.
pub const MAX_HEAD: usize = 8 << 10;
/// Bytes of a body: as many as Firecracker takes unless told otherwise.
pub const MAX_BODY: usize = 51_200;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// What is wanted of a resource. [`Other`](Self::Other) stands for methods that none has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// To be told.
    Get,
    /// As `Get`, but the answer has no body: no resource has it.
    Head,
    /// To set or to do.
    Put,
    /// To change.
    Patch,
    /// Any other.
    Other,
}

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its method and target, for messages: with nothing in them but visible ASCII.
    pub line: String,
    /// The path of its target.
    pub path: String,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether the client has more to ask.
    pub keep_alive: bool,
}

/// Why the bytes of a client are no request. Where the next one would begin is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is answered with.
    pub status: Status,
    /// Why.
    pub message: String,
}

impl Refusal {
    fn bad(message: impl Into<String>) -> Self {
        Self {
            status: Status::BadRequest,
            message: message.into(),
        }
    }
}

/// What there is to be done about the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To wait for more.
    Incomplete,
    /// To tell the client that its body is welcome (RFC 9110 §10.1.1), and to wait for it. Said once for a request.
    Continue,
    /// To answer.
    Request(Request),
}

/// Takes the bytes of one client. What it holds is bounded by [`room`](Self::room).
#[derive(Debug, Default)]
pub struct Decoder {
    input: Vec<u8>,
    /// Where there is no need to look for the end of the head any more.
    searched: usize,
    /// Of the request whose body is still to come.
    head: Option<Head>,
}

#[derive(Clone, Debug)]
struct Head {
    method: Method,
    line: String,
    path: String,
    length: usize,
    keep_alive: bool,
    expects_continue: bool,
}

impl Decoder {
    /// How many more bytes it takes: none only when there is a request, or a refusal, to be had.
    pub fn room(&self) -> usize {
        (MAX_HEAD + MAX_BODY).saturating_sub(self.input.len())
    }

    /// Takes bytes, at most [`room`](Self::room).
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether a request has begun.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty() && self.head.is_none()
    }

    /// What the bytes so far come to. A request is taken out by that.
    ///
    /// # Errors
    /// When they are no request: then there will never be one.
    pub fn advance(&mut self) -> Result<Progress, Refusal> {
        let mut welcome = false;
        if self.head.is_none() {
            let Some((head, bytes)) = self.take_head()? else {
                return Ok(Progress::Incomplete);
            };
            self.input.drain(..bytes);
            self.searched = 0;
            welcome = head.expects_continue;
            self.head = Some(head);
        }
        match self.head.take() {
            Some(head) if self.input.len() >= head.length => {
                let rest = self.input.split_off(head.length);
                let body = mem::replace(&mut self.input, rest);
                Ok(Progress::Request(Request {
                    method: head.method,
                    line: head.line,
                    path: head.path,
                    body,
                    keep_alive: head.keep_alive,
                }))
            }
            head => {
                self.head = head;
                Ok(match welcome && self.input.is_empty() {
                    true => Progress::Continue,
                    false => Progress::Incomplete,
                })
            }
        }
    }

    /// The head, if it is whole, and its bytes.
    fn take_head(&mut self) -> Result<Option<(Head, usize)>, Refusal> {
        let head = &self.input[..self.input.len().min(MAX_HEAD)];
        // Only whole lines are looked at, so that it does not matter in which pieces they come.
        let new = head[self.searched..]
            .iter()
            .rposition(|&byte| byte == b'\n');
        if let Some(end) = new.map(|at| self.searched + at + 1) {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut request = httparse::Request::new(&mut headers);
            let parsed = request.parse(&head[..end]);
            if let httparse::Status::Complete(bytes) = parsed.map_err(|error| no_http(&error))? {
                return Ok(Some((Head::of(&request)?, bytes)));
            }
        }
        self.searched = head.len();
        match head.len() {
            MAX_HEAD => Err(Refusal::bad(format!(
                "the request's line and headers are longer than {MAX_HEAD} bytes"
            ))),
            _ => Ok(None),
        }
    }
}

fn no_http(error: &httparse::Error) -> Refusal {
    Refusal::bad(match error {
        httparse::Error::TooManyHeaders => {
            format!("the request has more than {MAX_HEADERS} headers")
        }
        other => format!("this is not HTTP/1.1: {other}"),
    })
}

impl Head {
    fn of(request: &httparse::Request<'_, '_>) -> Result<Self, Refusal> {
        let method = request.method.unwrap_or_default();
        let target = request.path.unwrap_or_default();
        let mut head = Self {
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "PUT" => Method::Put,
                "PATCH" => Method::Patch,
                _ => Method::Other,
            },
            line: line(method, target),
            path: path(target).to_owned(),
            length: 0,
            keep_alive: request.version == Some(1),
            expects_continue: false,
        };
        let mut length = None;
        for header in request.headers.iter() {
            head.take(header, &mut length)?;
        }
        head.length = length.unwrap_or(0);
        // A client of HTTP/1.0 does not know of it.
        head.expects_continue &= request.version == Some(1);
        Ok(head)
    }

    fn take(
        &mut self,
        header: &httparse::Header<'_>,
        length: &mut Option<usize>,
    ) -> Result<(), Refusal> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = header.value.trim_ascii();
        if is("content-length") {
            if length.is_some() {
                return Err(Refusal::bad("the request has two headers Content-Length"));
            }
            *length = Some(content_length(value)?);
        } else if is("transfer-encoding") {
            return Err(Refusal::bad(
                "Transfer-Encoding is not supported: send the body whole, with Content-Length",
            ));
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal::bad("of Expect only 100-continue is supported"));
            }
            self.expects_continue = true;
        } else if is("connection") {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.keep_alive = false;
                    break;
                }
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }
}

/// Digits and nothing but digits: no sign, no list.
fn content_length(value: &[u8]) -> Result<usize, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::bad("Content-Length is not a number"));
    }
    let length = std::str::from_utf8(value).unwrap_or_default().parse();
    // What does not fit a number is too long as well.
    match length {
        Ok(length) if length <= MAX_BODY => Ok(length),
        _ => Err(Refusal {
            status: Status::PayloadTooLarge,
            message: format!("the request's body is longer than {MAX_BODY} bytes"),
        }),
    }
}

/// Of an absolute target (RFC 9112 §3.2.2) what follows the host; of others all.
fn path(target: &str) -> &str {
    let after_scheme = target.strip_prefix("http://");
    after_scheme.map_or(target, |rest| rest.find('/').map_or("/", |at| &rest[at..]))
}

/// The request's line for a message, cut where it gets long.
fn line(method: &str, target: &str) -> String {
    const SHOWN: usize = 100;
    let visible = |text: &str| -> String {
        let characters = text.chars().take(SHOWN);
        characters
            .map(|character| match character.is_ascii_graphic() {
                true => character,
                false => '?',
            })
            .collect()
    };
    format!("{} {}", visible(method), visible(target))
}
#[cfg(test)]
mod tests;
