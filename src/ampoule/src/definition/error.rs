//! What a user reads when a definition is refused.
use super::excerpt::{Excerpt, Position};
use std::fmt;
use std::io;

/// Why there is no definition. Displayed, it starts with the file's name.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The file cannot be opened or read.
    #[error("{file}: cannot read the VM definition: {source}{}", read_hint(.source))]
    Read {
        /// The file's name.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is longer than any definition.
    #[error("{file}: too large for a VM definition: more than {} (hint: is it the right file?)", vmm::config::size::format(super::MAX_LEN as u64))]
    TooLarge {
        /// The file's name.
        file: String,
    },
    /// The file says something wrong.
    #[error(transparent)]
    Mistake(#[from] Box<Mistake>),
}

impl DefinitionError {
    /// Where the mistake is. An error that has a place starts with `FILE:LINE:COLUMN:`.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Mistake(mistake) => Some(mistake.position),
            _ => None,
        }
    }
}

fn read_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::IsADirectory => " (hint: name a file in it)",
        io::ErrorKind::NotFound => " (hint: a relative path starts at the working directory)",
        _ => "",
    }
}

impl From<Mistake> for DefinitionError {
    fn from(mistake: Mistake) -> Self {
        Self::Mistake(Box::new(mistake))
    }
}

/// Something wrong in a definition's text. Displayed: `FILE:LINE:COLUMN: WHAT: WHY (hint: …)`, then the line in question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistake {
    pub(super) file: String,
    pub(super) position: Position,
    /// The key, or the kind of thing, that is wrong.
    pub(super) what: String,
    pub(super) why: String,
    pub(super) hint: Option<String>,
    pub(super) excerpt: Excerpt,
    /// What else is wrong, in a line.
    pub(super) more: Option<String>,
}

impl Mistake {
    pub(super) fn new(
        file: &str,
        text: &str,
        offset: usize,
        what: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        let position = Position::of(text, offset);
        let excerpt = Excerpt::of(text, offset);
        Self {
            file: file.to_owned(),
            position,
            what: what.into(),
            why: why.into(),
            hint: None,
            excerpt,
            more: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}",
            self.file, self.position, self.what, self.why
        )?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        if !self.excerpt.is_blank() {
            write!(f, "\n{}", self.excerpt)?;
        }
        self.more
            .as_ref()
            .map_or(Ok(()), |more| write!(f, "\n{more}"))
    }
}
