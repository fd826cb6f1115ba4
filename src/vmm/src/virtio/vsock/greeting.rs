//! What a client on the host says first: `CONNECT PORT`, and for how long it would wait for somebody to listen there.
use std::time::Duration;

/// Most bytes of that line, with its end.
pub(super) const LONGEST: usize = 64;
/// Most that a client can wait.
const MOST_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// A client's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The port in the guest.
    pub(super) port: u32,
    /// How long it waits for a guest that does not listen there yet.
    pub(super) patience: Option<Duration>,
}

/// Reads the line, without its end.
pub(super) fn parse(line: &[u8]) -> Option<Greeting> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_suffix('\r').unwrap_or(line).split(' ');
    if !words.next()?.eq_ignore_ascii_case("connect") {
        return None;
    }
    let port = number(words.next()?)?;
    let patience = match words.next() {
        None => None,
        Some(word) => Some(Duration::from_millis(
            number(word.strip_prefix("wait=")?)?.into(),
        )),
    };
    words.next().is_none().then_some(Greeting {
        port,
        patience: patience.map(|patience| patience.min(MOST_PATIENCE)),
    })
}

/// Digits and nothing else.
fn number(word: &str) -> Option<u32> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| word.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn port(port: u32) -> Option<Greeting> {
        Some(Greeting {
            port,
            patience: None,
        })
    }

    #[test]
    fn a_port_in_any_spelling_of_the_word() {
        assert_eq!(parse(b"CONNECT 52"), port(52));
        assert_eq!(parse(b"connect 4294967295"), port(u32::MAX));
        assert_eq!(parse(b"CONNECT 0\r"), port(0));
    }

    #[test]
    fn a_client_may_wait() {
        let patience = Some(Duration::from_millis(1500));
        let port = 7;
        assert_eq!(
            parse(b"CONNECT 7 wait=1500"),
            Some(Greeting { port, patience })
        );
        let longest = parse(b"CONNECT 7 wait=4294967295").unwrap().patience;
        assert_eq!(longest, Some(MOST_PATIENCE));
    }

    #[test]
    fn anything_else_is_no_greeting() {
        let lines: [&[u8]; 12] = [
            b"",
            b"CONNECT",
            b"CONNECT ",
            b"CONNECT x",
            b"CONNECT -1",
            b"CONNECT +1",
            b"CONNECT 4294967296",
            b"CONNECT 1 ",
            b"CONNECT 1 wait",
            b"CONNECT 1 wait=",
            b"CONNECT 1 wait=1 2",
            b"LISTEN 1",
        ];
        for line in lines {
            assert_eq!(parse(line), None, "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..LONGEST)) {
            let _ = parse(&line);
        }
    }
}
