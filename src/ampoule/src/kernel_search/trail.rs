//! What the search looked at and what it made of it: for `-v`, and for the error when nothing was found.
use std::fmt;
use std::path::{Path, PathBuf};

/// A rule of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--kernel`
    Option,
    /// `$AMPOULE_KERNEL`
    Variable,
    /// The data directory's `kernel/`.
    Data,
    /// `/boot`
    Boot,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "--kernel",
            Self::Variable => "$AMPOULE_KERNEL",
            Self::Data => "data directory",
            Self::Boot => "host's kernels",
        })
    }
}

/// What became of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The option or variable was not given.
    NotGiven,
    /// Nobody knows where this user's data directory is.
    NoHome,
    /// There is no such directory.
    Missing,
    /// The directory could not be listed.
    Unreadable(String),
    /// Its candidates were looked at.
    Searched,
}

/// Why a file was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// There is no such file.
    Missing,
    /// This user may not read it.
    PermissionDenied,
    /// A directory, a device, …: which.
    NotAFile(&'static str),
    /// It has no bytes.
    Empty,
    /// It starts like neither a bzImage nor an ELF file.
    NotAKernel,
    /// What an upgrade left behind, by its name.
    LeftOver,
    /// Usable for all we know, but another one comes first. It was not opened.
    Outranked,
    /// Reading failed: why.
    Unreadable(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no such file"),
            Self::PermissionDenied => f.write_str("permission denied"),
            Self::NotAFile(what) => write!(f, "{what}, not a file"),
            Self::Empty => f.write_str("empty"),
            Self::NotAKernel => f.write_str("neither a bzImage nor an ELF file"),
            Self::LeftOver => f.write_str("left over by an upgrade"),
            Self::Outranked => f.write_str("comes after the chosen one"),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

/// A file that might have been the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file.
    pub path: PathBuf,
    /// Why it was not chosen; `None` for the chosen one.
    pub rejected: Option<Rejection>,
}

/// One place of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// By which rule it was looked at.
    pub origin: Origin,
    /// The file or directory; `None` when the place is not known.
    pub path: Option<PathBuf>,
    /// What became of it.
    pub state: State,
    /// What was there, best first.
    pub candidates: Vec<Candidate>,
}

impl Place {
    pub(super) fn empty(origin: Origin, path: Option<PathBuf>, state: State) -> Self {
        Self {
            origin,
            path,
            state,
            candidates: Vec::new(),
        }
    }

    /// The candidate that was chosen.
    #[must_use]
    pub fn chosen(&self) -> Option<&Path> {
        self.candidates
            .iter()
            .find(|candidate| candidate.rejected.is_none())
            .map(|candidate| candidate.path.as_path())
    }

    /// One line for an error: what is wrong with this place.
    pub(super) fn summary(&self) -> String {
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        match &self.state {
            State::NotGiven => format!("{} is not given", self.origin),
            State::NoHome => "neither XDG_DATA_HOME nor HOME is set".to_owned(),
            State::Missing => format!("{} does not exist", path.display()),
            State::Unreadable(why) => format!("{}: {why}", path.display()),
            State::Searched => self.summary_of_candidates(path),
        }
    }

    fn summary_of_candidates(&self, path: &Path) -> String {
        let Some(first) = self.candidates.first() else {
            return format!("{} has no kernel", path.display());
        };
        let reason = first
            .rejected
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let source = match self.origin {
            Origin::Option | Origin::Variable => format!("{} ", self.origin),
            Origin::Data | Origin::Boot => String::new(),
        };
        let others = match self.candidates.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more not usable)"),
        };
        format!("{source}{}: {reason}{others}", first.path.display())
    }
}

/// Everything the search looked at, in order. `Display` is what `-v` prints: a line for each place and candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// The places, as far as the search went.
    pub places: Vec<Place>,
}

impl Trail {
    /// What is wrong with every place that was looked at, on one line.
    #[must_use]
    pub fn shortcomings(&self) -> String {
        let given = |place: &&Place| place.state != State::NotGiven;
        let places: Vec<String> = self
            .places
            .iter()
            .filter(given)
            .map(Place::summary)
            .collect();
        places.join("; ")
    }

    /// Every candidate of every place, best first.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.places.iter().flat_map(|place| &place.candidates)
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.places {
            if place.state == State::NotGiven {
                writeln!(f, "kernel search: {}: not given", place.origin)?;
            } else if place.candidates.is_empty() {
                writeln!(f, "kernel search: {}: {}", place.origin, place.summary())?;
            }
            for candidate in &place.candidates {
                let path = candidate.path.display();
                match &candidate.rejected {
                    None => writeln!(f, "kernel search: {}: {path}: chosen", place.origin)?,
                    Some(reason) => {
                        writeln!(f, "kernel search: {}: {path}: {reason}", place.origin)?
                    }
                }
            }
        }
        Ok(())
    }
}
