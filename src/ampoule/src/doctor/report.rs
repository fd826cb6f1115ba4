//! What the doctor reports: checks and a verdict. The JSON form is an interface: add, never rename.
use std::fmt;

use serde::Serialize;

/// Everything the doctor found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this form of report.
    pub format: u32,
    /// The version of Ampoule.
    pub version: &'static str,
    /// Whether guests run here.
    pub verdict: Verdict,
    /// Every check, in the order of the groups.
    pub checks: Vec<Check>,
}

/// Whether guests run here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// For programs.
    pub state: State,
    /// For people, on one line.
    pub text: String,
}

/// The kinds of host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Unmodified kernels run here.
    Ready,
    /// KVM works, but has no hardware beneath it: only small hand-made guests run.
    StockKernelsWillNotRun,
    /// No guest runs here.
    NotReady,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Names the check to programs.
    pub id: &'static str,
    /// What it is about.
    pub group: Group,
    /// Names the check to people.
    pub title: &'static str,
    /// How it stands.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// The shell command that mends it.
    pub mend: Option<String>,
    /// What to do where no command does it, or beside the command.
    pub advice: Option<String>,
}

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The processor and KVM.
    Virtualisation,
    /// What confines the monitor.
    Sandbox,
    /// What connects guests.
    Networking,
    /// What disks and state need.
    Storage,
    /// Guest memory.
    Memory,
    /// Kernels to boot.
    GuestKernels,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Virtualisation => "Virtualisation",
            Self::Sandbox => "Sandbox",
            Self::Networking => "Networking",
            Self::Storage => "Storage",
            Self::Memory => "Memory",
            Self::GuestKernels => "Guest kernels",
        })
    }
}

/// How a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Guests run, with less.
    Warning,
    /// Guests cannot run without it.
    Missing,
    /// Neither good nor bad, or not known.
    Info,
}

/// A check before it was made.
pub(super) struct Topic {
    pub(super) group: Group,
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) why: &'static str,
}

impl Topic {
    fn check(&self, status: Status, found: impl Into<String>) -> Check {
        Check {
            id: self.id,
            group: self.group,
            title: self.title,
            status,
            found: found.into(),
            why: self.why,
            mend: None,
            advice: None,
        }
    }

    pub(super) fn ok(&self, found: impl Into<String>) -> Check {
        self.check(Status::Ok, found)
    }

    pub(super) fn warning(&self, found: impl Into<String>) -> Check {
        self.check(Status::Warning, found)
    }

    pub(super) fn missing(&self, found: impl Into<String>) -> Check {
        self.check(Status::Missing, found)
    }

    pub(super) fn info(&self, found: impl Into<String>) -> Check {
        self.check(Status::Info, found)
    }
}

impl Check {
    pub(super) fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend = Some(command.into());
        self
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// What guests would run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Virtualisation {
    /// VMX or SVM, in words.
    Hardware(String),
    /// A KVM that works without either, in words.
    Paravirtual(String),
    /// Nothing.
    None,
}

impl Report {
    pub(super) fn new(checks: Vec<Check>, virtualisation: &Virtualisation) -> Self {
        let missing: Vec<&Check> = checks
            .iter()
            .filter(|check| check.status == Status::Missing)
            .collect();
        let only_hardware_is_missing = missing.iter().all(|check| check.id == "hardware");
        let verdict = match virtualisation {
            Virtualisation::Hardware(what) if missing.is_empty() => Verdict {
                state: State::Ready,
                text: format!(
                    "Ready: stock kernels run here, on {what}{}.",
                    reservations(&checks)
                ),
            },
            Virtualisation::Paravirtual(what) if only_hardware_is_missing => Verdict {
                state: State::StockKernelsWillNotRun,
                text: format!("Stock kernels will not run here: {what}."),
            },
            _ => Verdict {
                state: State::NotReady,
                text: format!("Not ready: {}.", reasons(&missing)),
            },
        };
        Self {
            format: 1,
            version: env!("CARGO_PKG_VERSION"),
            verdict,
            checks,
        }
    }

    /// The report as JSON, indented, with a newline at its end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.expect("strings and numbers only, which always have a JSON form") + "\n"
    }
}

fn reservations(checks: &[Check]) -> String {
    let warnings = checks
        .iter()
        .filter(|check| check.status == Status::Warning)
        .count();
    let count = match warnings {
        0 => String::new(),
        1 => "; 1 warning above".to_owned(),
        more => format!("; {more} warnings above"),
    };
    let no_kernel = checks
        .iter()
        .any(|check| check.id == "guest-kernel" && check.status == Status::Warning);
    let kernel = if no_kernel {
        "; no guest kernel yet"
    } else {
        ""
    };
    format!("{kernel}{count}")
}

fn reasons(missing: &[&Check]) -> String {
    let reasons: Vec<String> = missing
        .iter()
        .map(|check| format!("{}: {}", check.title, check.found))
        .collect();
    if reasons.is_empty() {
        "no virtualisation was found".to_owned()
    } else {
        reasons.join("; ")
    }
}
