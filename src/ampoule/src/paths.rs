//! Where Ampoule keeps things on the host, by the XDG Base Directory Specification 0.8.
//!
//! | what  | where |
//! |-------|-------|
//! | state | root: `/run/ampoule`; else `$XDG_RUNTIME_DIR/ampoule`; else `/tmp/ampoule-UID` |
//! | data  | `$XDG_DATA_HOME/ampoule`, by default `~/.local/share/ampoule` |
//! | cache | `$XDG_CACHE_HOME/ampoule`, by default `~/.cache/ampoule` |
//!
//! Root's state does not follow `XDG_RUNTIME_DIR`, so that a root shell (which may have one) and a system service (which
//! has none) see the same guests. Root of a user namespace is not that root: its `/run` is not its own.
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// What the directories are derived from. A plain value, so that tests need not touch the process's environment.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<OsString>,
    /// `$XDG_DATA_HOME`.
    pub data_home: Option<OsString>,
    /// `$XDG_CACHE_HOME`.
    pub cache_home: Option<OsString>,
    /// `$HOME`, or when that is unset the user's home directory from the user database.
    pub home: Option<OsString>,
    /// Effective user ID.
    pub uid: u32,
    /// Whether `uid` is counted in a user namespace other than the machine's first.
    pub in_user_namespace: bool,
}

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    pub fn current() -> Self {
        Self {
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            data_home: std::env::var_os("XDG_DATA_HOME"),
            cache_home: std::env::var_os("XDG_CACHE_HOME"),
            home: std::env::home_dir().map(PathBuf::into_os_string),
            uid: rustix::process::geteuid().as_raw(),
            in_user_namespace: rustix::fs::stat("/proc/self/ns/user")
                .is_ok_and(|namespace| namespace.st_ino != FIRST_USER_NAMESPACE),
        }
    }
}

/// The inode number of the machine's first user namespace: `PROC_USER_INIT_INO` of `linux/proc_ns.h`, the same since
/// Linux 3.8.
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Ampoule's directories. None need exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Sockets, pid files and logs of running guests. Gone after a reboot.
    pub state: PathBuf,
    /// Guest kernels and images. `None` when neither `$XDG_DATA_HOME` nor a home directory is known.
    pub data: Option<PathBuf>,
    /// What can be made again. `None` when neither `$XDG_CACHE_HOME` nor a home directory is known.
    pub cache: Option<PathBuf>,
    uid: u32,
    state_is_in_tmp: bool,
}

impl Paths {
    /// The directories of this process.
    #[must_use]
    pub fn current() -> Self {
        Self::new(&Environment::current())
    }

    /// The directories that follow from `environment`.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let home = absolute(environment.home.as_ref());
        let below_home = |variable: Option<&OsString>, default: &str| {
            absolute(variable)
                .or_else(|| home.as_ref().map(|home| home.join(default)))
                .map(|base| base.join("ampoule"))
        };
        let runtime_dir = absolute(environment.runtime_dir.as_ref());
        let state_is_in_tmp;
        let state = if environment.uid == 0 && !environment.in_user_namespace {
            state_is_in_tmp = false;
            PathBuf::from("/run/ampoule")
        } else if let Some(runtime_dir) = runtime_dir {
            state_is_in_tmp = false;
            runtime_dir.join("ampoule")
        } else {
            state_is_in_tmp = true;
            PathBuf::from(format!("/tmp/ampoule-{}", environment.uid))
        };
        Self {
            state,
            data: below_home(environment.data_home.as_ref(), ".local/share"),
            cache: below_home(environment.cache_home.as_ref(), ".cache"),
            uid: environment.uid,
            state_is_in_tmp,
        }
    }

    /// Where guest kernels are installed: `kernel/` in the data directory.
    #[must_use]
    pub fn kernels(&self) -> Option<PathBuf> {
        self.data.as_ref().map(|data| data.join("kernel"))
    }

    /// Creates the state directory if need be (mode 0700) and opens it, following no link in its last component.
    ///
    /// Hold the descriptor and open what is below it with `openat`: the checks are about what was opened, not about
    /// whatever the name means later.
    ///
    /// # Errors
    /// When it cannot be created, or is somebody else's, or others may write in it. In `/tmp`, where anyone may
    /// have made it first, others may not even look.
    pub fn open_state(&self) -> Result<OwnedFd, StateError> {
        match fs::DirBuilder::new().mode(0o700).create(&self.state) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(StateError::Create {
                    path: self.state.clone(),
                    source,
                });
            }
        }
        self.open_existing_state()
    }

    /// Like [`Paths::open_state`], but creates nothing.
    ///
    /// # Errors
    /// As [`Paths::open_state`]; a directory that is not there is [`StateError::Open`] with `NotFound`.
    pub fn open_existing_state(&self) -> Result<OwnedFd, StateError> {
        let path = || self.state.clone();
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.state, flags, Mode::empty()).map_err(|error| {
            StateError::Open {
                path: path(),
                source: error.into(),
            }
        })?;
        let file = fs::File::from(directory);
        let metadata = file.metadata().map_err(|source| StateError::Open {
            path: path(),
            source,
        })?;
        if metadata.uid() != self.uid {
            return Err(StateError::Owner {
                path: path(),
                owner: metadata.uid(),
                uid: self.uid,
            });
        }
        let mode = metadata.mode() & 0o7777;
        let forbidden = if self.state_is_in_tmp { 0o077 } else { 0o022 };
        if mode & forbidden != 0 {
            return Err(StateError::Mode { path: path(), mode });
        }
        Ok(file.into())
    }
}

/// The XDG specification: "all paths must be absolute; if an implementation encounters a relative path it should consider
/// the path invalid and ignore it". An empty value counts as unset.
fn absolute(value: Option<&OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// cannot create the state directory {path}: {source}
    #[error("cannot create the state directory {}: {source}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot open the state directory {path}: {source}
    #[error("cannot open the state directory {}: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// the state directory {path} belongs to user {owner}, not to user {uid}
    #[error("the state directory {} belongs to user {owner}, not to user {uid}", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// the state directory {path} is open to other users (mode {mode:04o})
    #[error("the state directory {} is open to other users (mode {mode:04o})", path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl StateError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Mode { path, .. } => format!("chmod 700 {}", shell_word(path)),
            Self::Create { .. } | Self::Open { .. } | Self::Owner { .. } => {
                "set XDG_RUNTIME_DIR to a directory that is yours alone".to_owned()
            }
        }
    }
}

/// `path` as one word of a shell command line, quoted only where it must be.
#[must_use]
pub fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
