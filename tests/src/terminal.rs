use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, tcgetattr},
};

use crate::{guest::Streams, transcript::Transcript};

/// The user's side of a terminal that a guest was started on.
#[derive(Debug)]
pub struct Terminal {
    user: OwnedFd,
    /// How it was set before the program had it.
    pub before: Modes,
}

/// How a terminal is set: what `stty -a` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modes(String);

impl Modes {
    fn of(termios: &Termios) -> Self {
        Self(format!(
            "{:?} {:?} {:?} {:?} {:?}",
            termios.input_modes,
            termios.output_modes,
            termios.control_modes,
            termios.local_modes,
            termios.special_codes
        ))
    }
}

impl Terminal {
    /// How it is set now.
    ///
    /// # Panics
    /// Never: it is a terminal.
    pub fn modes(&self) -> Modes {
        Modes::of(&self.termios())
    }

    /// Whether bytes pass as they are: no echo, no lines, no signals.
    pub fn is_raw(&self) -> bool {
        use rustix::termios::LocalModes;
        let cooked = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        !self.termios().local_modes.intersects(cooked)
    }

    fn termios(&self) -> Termios {
        tcgetattr(&self.user).expect("it is a terminal")
    }

    /// Makes a terminal, and makes it the streams and the controlling terminal of what `command` starts.
    pub(crate) fn attach(command: &mut Command) -> (Self, Streams) {
        let (user, program) = pair().expect("the host has terminals");
        let before = Modes::of(&tcgetattr(&user).expect("it is a terminal"));
        let stream = || Stdio::from(program.try_clone().expect("a descriptor is free"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: between fork and exec it makes only system calls.
        unsafe { command.pre_exec(take_as_controlling_terminal) };
        let file = || File::from(user.try_clone().expect("a descriptor is free"));
        let errors = Transcript::default();
        errors.close();
        let streams = Streams {
            input: Some(file()),
            console: Transcript::of(file()),
            errors,
            unread: None,
        };
        (Self { user, before }, streams)
    }
}

/// Both sides: the user's, the program's.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&user)?;
    unlockpt(&user)?;
    let name = ptsname(&user, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let program = open(name, flags, Mode::empty())?;
    Ok((user, program))
}

fn take_as_controlling_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    Ok(())
}
