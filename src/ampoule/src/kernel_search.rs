//! Which kernel to boot when nobody says: the search, and the trail it leaves.
//!
//! In this order: `--kernel`, `$AMPOULE_KERNEL`, the data directory's `kernel/`, `/boot`. What is named outright is used or refused,
//! never replaced by something else. In the directories the newest usable file wins, in `/boot` cloud flavours first.
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::paths::Paths;

mod inspect;
mod supply;
mod trail;
pub mod version;

use inspect::inspect;
pub use supply::Distribution;
pub use trail::{Candidate, Origin, Place, Rejection, State, Trail};

/// The variable that names a guest kernel.
pub const VARIABLE: &str = "AMPOULE_KERNEL";

/// Where to look for kernels that nobody named.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Where guest kernels are installed for this user; `None` when no home directory is known.
    pub data: Option<PathBuf>,
    /// The host's own kernels.
    pub boot: PathBuf,
    /// What the host runs: it decides which command supplies a kernel.
    pub distribution: Distribution,
}

impl Roots {
    /// The places on this host.
    #[must_use]
    pub fn current(paths: &Paths) -> Self {
        Self::below(Path::new("/"), paths)
    }

    /// The places of the host whose root directory is `root`; the data directory is taken as it is.
    #[must_use]
    pub fn below(root: &Path, paths: &Paths) -> Self {
        Self {
            data: paths.kernels(),
            boot: root.join("boot"),
            distribution: Distribution::of(root),
        }
    }
}

/// A kernel to boot, and how it was chosen.
#[derive(Clone, Debug)]
pub struct Found {
    /// The kernel.
    pub path: PathBuf,
    /// Which rule chose it.
    pub origin: Origin,
    /// Everything that was looked at.
    pub trail: Trail,
}

/// No kernel to boot. `Display` says what was found instead, [`NotFound::hint`] what supplies one.
#[derive(Clone, Debug)]
pub struct NotFound {
    /// Everything that was looked at.
    pub trail: Trail,
    supply: supply::Supply,
}

impl NotFound {
    /// The command, or failing that the advice, that supplies a kernel.
    #[must_use]
    pub fn hint(&self) -> String {
        let supply = &self.supply;
        supply
            .command
            .clone()
            .unwrap_or_else(|| supply.advice.clone())
    }

    /// The command that supplies a kernel, where there is one.
    #[must_use]
    pub fn command(&self) -> Option<&str> {
        self.supply.command.as_deref()
    }

    /// What to do, in words.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.supply.advice
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no guest kernel: {}", self.trail.shortcomings())
    }
}

impl std::error::Error for NotFound {}

/// Finds the kernel to boot.
///
/// `explicit` is `--kernel`, `variable` the value of `$AMPOULE_KERNEL` (empty counts as unset).
///
/// # Errors
/// When what was named cannot be used, or nothing was named and no place has a usable kernel.
pub fn find(
    explicit: Option<&Path>,
    variable: Option<&OsStr>,
    roots: &Roots,
) -> Result<Found, NotFound> {
    find_with(explicit, variable, roots, &inspect)
}

/// Says why a file cannot be booted, if it cannot. The second argument is whether the file was found by its name alone, so that its contents
/// should be looked at too.
type Inspect<'a> = &'a dyn Fn(&Path, bool) -> Result<(), Rejection>;

fn find_with(
    explicit: Option<&Path>,
    variable: Option<&OsStr>,
    roots: &Roots,
    inspect: Inspect<'_>,
) -> Result<Found, NotFound> {
    let variable = variable.filter(|value| !value.is_empty()).map(Path::new);
    let mut trail = Trail::default();
    let mut chosen = None;
    for (origin, named) in [(Origin::Option, explicit), (Origin::Variable, variable)] {
        let place = match named {
            Some(path) => named_place(origin, path, inspect),
            None => Place::empty(origin, None, State::NotGiven),
        };
        chosen = place.chosen().map(|path| (origin, path.to_owned()));
        trail.places.push(place);
        if named.is_some() {
            return finish(chosen, trail, roots);
        }
    }
    for origin in [Origin::Data, Origin::Boot] {
        let place = match (origin, &roots.data) {
            (Origin::Data, Some(data)) => directory_place(origin, data, inspect),
            (Origin::Data, None) => Place::empty(origin, None, State::NoHome),
            _ => directory_place(origin, &roots.boot, inspect),
        };
        chosen = place.chosen().map(|path| (origin, path.to_owned()));
        trail.places.push(place);
        if chosen.is_some() {
            break;
        }
    }
    finish(chosen, trail, roots)
}

fn finish(
    chosen: Option<(Origin, PathBuf)>,
    trail: Trail,
    roots: &Roots,
) -> Result<Found, NotFound> {
    match chosen {
        Some((origin, path)) => Ok(Found {
            path,
            origin,
            trail,
        }),
        None => Err(NotFound {
            supply: supply::supply(&trail, roots),
            trail,
        }),
    }
}

fn named_place(origin: Origin, path: &Path, inspect: Inspect<'_>) -> Place {
    let candidate = Candidate {
        path: path.to_owned(),
        rejected: inspect(path, false).err(),
    };
    Place {
        candidates: vec![candidate],
        ..Place::empty(origin, Some(path.to_owned()), State::Searched)
    }
}

fn directory_place(origin: Origin, directory: &Path, inspect: Inspect<'_>) -> Place {
    let mut place = Place::empty(origin, Some(directory.to_owned()), State::Searched);
    let mut names = match kernel_names(origin, directory) {
        Ok(names) => names,
        Err(error) => {
            place.state = match error.kind() {
                io::ErrorKind::NotFound => State::Missing,
                _ => State::Unreadable(error.to_string()),
            };
            return place;
        }
    };
    names.sort_by(|a, b| {
        rank(origin, b)
            .cmp(&rank(origin, a))
            .then_with(|| newer_first(a, b))
    });
    let mut found = false;
    for name in names {
        let path = directory.join(&name);
        let rejected = if is_left_over(&name) {
            Some(Rejection::LeftOver)
        } else if found {
            Some(Rejection::Outranked)
        } else {
            inspect(&path, true).err()
        };
        found |= rejected.is_none();
        place.candidates.push(Candidate { path, rejected });
    }
    place
}

fn kernel_names(origin: Origin, directory: &Path) -> io::Result<Vec<OsString>> {
    let prefixes: &[&[u8]] = match origin {
        Origin::Boot => &[b"vmlinuz-"],
        _ => &[b"vmlinuz", b"vmlinux", b"bzImage"],
    };
    let is_kernel = |name: &OsString| {
        prefixes
            .iter()
            .any(|prefix| name.as_bytes().starts_with(prefix))
    };
    std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .filter(|name| name.as_ref().map_or(true, is_kernel))
        .collect()
}

/// In `/boot`, kernels built for virtual machines come first: smaller, quicker to boot, with what a guest needs.
fn rank(origin: Origin, name: &OsStr) -> bool {
    let is_cloud = |part: &[u8]| part == b"cloud" || part == b"kvm";
    origin == Origin::Boot && name.as_bytes().split(|&byte| byte == b'-').any(is_cloud)
}

/// By what follows the first `-`, so that `vmlinux-6.12` is newer than `vmlinuz-6.1`; a name without a version is oldest.
fn newer_first(a: &OsStr, b: &OsStr) -> std::cmp::Ordering {
    let release = |name: &[u8]| -> Vec<u8> {
        name.splitn(2, |&byte| byte == b'-')
            .nth(1)
            .unwrap_or_default()
            .to_vec()
    };
    let (a, b) = (a.as_bytes(), b.as_bytes());
    version::compare(&release(b), &release(a)).then_with(|| version::compare(b, a))
}

/// What upgrades and signing leave beside a kernel.
fn is_left_over(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let endings = [
        ".old", ".bak", ".sig", ".hmac", ".config", ".map", ".sha256", ".tmp", ".part", "~",
    ];
    name.contains(".dpkg-") || endings.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests;
