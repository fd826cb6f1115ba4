use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::Arc,
};

use tempfile::NamedTempFile;

use crate::{
    Guest, ampoule, deadline::Deadline, guest::Streams, lacking, terminal::Terminal,
    transcript::Transcript,
};

/// A guest about to be started: `ampoule run ARGUMENTS`, by default with a pipe to each of its three streams.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    input: Input,
    output: Output,
    files: Vec<Arc<NamedTempFile>>,
}

#[derive(Debug)]
enum Input {
    Piped,
    From(Stdio),
}

#[derive(Debug)]
enum Output {
    Collected,
    Held,
    To(Stdio),
}

impl Launch {
    /// `ampoule run` with these arguments, and without a network where they say nothing of one.
    pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let rest = arguments.into_iter().map(|a| a.as_ref().to_owned());
        let mut words: Vec<_> = std::iter::once(OsString::from("run")).chain(rest).collect();
        let about_it = ["--net", "--publish", "--config"].map(OsStr::new);
        if !words
            .iter()
            .any(|word| about_it.contains(&word.as_os_str()))
        {
            words.extend(["--net".into(), "none".into()]);
        }
        Self::ampoule(words)
    }

    /// `ampoule` with these arguments.
    pub fn ampoule<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(ampoule());
        command.args(arguments);
        Self::command(command)
    }

    /// Another program that starts `ampoule` in its turn: a shell, say.
    pub fn command(command: Command) -> Self {
        Self {
            command,
            input: Input::Piped,
            output: Output::Collected,
            files: Vec::new(),
        }
    }

    /// Keeps a file for as long as the guest may want it.
    #[must_use]
    pub fn keeping(mut self, file: Arc<NamedTempFile>) -> Self {
        self.files.push(file);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable out of its environment.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it on a host that has no io_uring.
    #[must_use]
    pub fn without_io_uring(mut self) -> Self {
        // SAFETY: between fork and exec it makes only system calls.
        unsafe { self.command.pre_exec(lacking::io_uring) };
        self
    }

    /// Input comes from there, not from the test.
    #[must_use]
    pub fn input(mut self, input: impl Into<Stdio>) -> Self {
        self.input = Input::From(input.into());
        self
    }

    /// Output goes there, not to the test.
    #[must_use]
    pub fn output(mut self, output: impl Into<Stdio>) -> Self {
        self.output = Output::To(output.into());
        self
    }

    /// Nobody reads the guest's output until [`Guest::read_output`], or until it has ended.
    #[must_use]
    pub fn output_unread(mut self) -> Self {
        self.output = Output::Held;
        self
    }

    /// Starts it.
    pub fn start(self) -> Guest {
        let Self {
            mut command,
            input,
            output,
            files,
        } = self;
        command.stderr(Stdio::piped());
        command.stdin(match input {
            Input::Piped => Stdio::piped(),
            Input::From(input) => input,
        });
        let held = matches!(output, Output::Held);
        command.stdout(match output {
            Output::Collected | Output::Held => Stdio::piped(),
            Output::To(output) => output,
        });
        let mut child = command.spawn().expect("the program starts");
        let errors = Transcript::of(child.stderr.take().expect("it is piped"));
        let (console, unread) = match child.stdout.take() {
            Some(stdout) if held => (Transcript::default(), Some(File::from(owned(stdout)))),
            Some(stdout) => (Transcript::of(stdout), None),
            None => {
                let console = Transcript::default();
                console.close();
                (console, None)
            }
        };
        let input = child.stdin.take().map(|stdin| File::from(owned(stdin)));
        let streams = Streams {
            input,
            console,
            errors,
            unread,
        };
        Guest::of(child, streams, Deadline::from_now(), files)
    }

    /// Starts it on a terminal of its own: its three streams, and the one that controls its session.
    pub fn on_terminal(self) -> (Guest, Terminal) {
        let (mut command, files) = (self.command, self.files);
        let (terminal, streams) = Terminal::attach(&mut command);
        let child = command.spawn().expect("the program starts");
        // The command holds the terminal's other end open; with it gone, the guest's end is the terminal's.
        drop(command);
        (
            Guest::of(child, streams, Deadline::from_now(), files),
            terminal,
        )
    }
}

fn owned(stream: impl Into<std::os::fd::OwnedFd>) -> std::os::fd::OwnedFd {
    stream.into()
}
