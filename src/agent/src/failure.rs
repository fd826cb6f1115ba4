//! What could not be done, in words.
use alloc::{format, string::String};
use core::fmt;

use syscalls::Errno;

/// Why there is no root file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self(format!("{text}"))
    }

    /// What the kernel says of `what`.
    pub(crate) fn on(what: impl fmt::Display) -> impl FnOnce(Errno) -> Self {
        move |error| Self(format!("{what}: {}", Said(error)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error of the kernel's, as a C library would say it.
pub(crate) struct Said(pub(crate) Errno);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.description() {
            Some(text) => f.write_str(text),
            None => write!(f, "error {}", self.0.into_raw()),
        }
    }
}
