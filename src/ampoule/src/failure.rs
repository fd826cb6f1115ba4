//! What a user is told when something fails: one line that says what failed, on what, why, and what to try.
use std::fmt;

/// A refusal or failure. `Display` is the whole message: `ampoule: WHAT: WHY (hint: WHAT TO TRY)`, or, for a mistake in
/// a file, `FILE:LINE:COLUMN: …`.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// Something failed: what (and on what), and why.
    pub fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self(format!("ampoule: {what}: {why}"))
    }

    /// A message that is whole already: it names a file and a place in it.
    pub fn at_place(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        let end = self.0.find('\n').unwrap_or(self.0.len());
        self.0.insert_str(end, &format!(" (hint: {hint})"));
        self
    }

    /// Adds what to try, where something is known.
    #[must_use]
    pub fn hint_if(self, hint: Option<impl fmt::Display>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_at_the_end_of_the_first_line() {
        let failure = Failure::new("kernel /x", "is empty").hint("another");
        assert_eq!(
            failure.to_string(),
            "ampoule: kernel /x: is empty (hint: another)"
        );
        let failure = Failure::new("a", "b\n more").hint_if(Some("c"));
        assert_eq!(failure.to_string(), "ampoule: a: b (hint: c)\n more");
    }
}
