//! What is said on stderr while a guest runs: one line at a time, and not more often than a guest can be allowed to make us.
use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long nothing more is said after a line.
const PAUSE: Duration = Duration::from_secs(5);

/// Something that now and then has something to say.
#[derive(Debug)]
pub struct Notices {
    name: String,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    left_out: u64,
}

impl Notices {
    /// Lines that begin with `ampoule: NAME: `.
    pub fn of(name: String) -> Self {
        Self {
            name,
            said: Mutex::default(),
        }
    }

    /// Says `what`, unless something was said just before: then the next line tells how much was left out.
    pub fn say(&self, what: impl fmt::Display) {
        if let Some(line) = self.line(what, Instant::now()) {
            // Nobody is there to be told that nobody listens.
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn line(&self, what: impl fmt::Display, now: Instant) -> Option<String> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |last: Instant| now.saturating_duration_since(last) < PAUSE;
        if said.last.is_some_and(recent) {
            said.left_out += 1;
            return None;
        }
        said.last = Some(now);
        let name = &self.name;
        Some(match std::mem::take(&mut said.left_out) {
            0 => format!("ampoule: {name}: {what}\n"),
            left_out => {
                format!("ampoule: {name}: {what} (and {left_out} more since the last line)\n")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_line_now_and_then() {
        let notices = Notices::of("disk a".into());
        let start = Instant::now();
        let lines = (0..100_000).filter_map(|_| notices.line("broken", start));
        assert_eq!(lines.collect::<Vec<_>>(), ["ampoule: disk a: broken\n"]);
        let next = notices.line("broken", start + PAUSE);
        assert_eq!(
            next.as_deref(),
            Some("ampoule: disk a: broken (and 99999 more since the last line)\n")
        );
        let later = notices.line("mended", start + 2 * PAUSE);
        assert_eq!(later.as_deref(), Some("ampoule: disk a: mended\n"));
    }
}
