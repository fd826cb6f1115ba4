//! What the parts of a bench hand to its report.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    programs::{Absent, Program},
    stats::Summary,
};

/// One quantity of one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The item of the specification that it belongs to.
    pub item: u8,
    /// The quantity, as programs know it.
    pub measure: String,
    /// Its unit.
    pub unit: String,
    /// Whose it is.
    pub program: String,
    /// What was measured.
    pub summary: Summary,
}

/// A moment of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// What had happened by then.
    pub name: String,
    /// Milliseconds since `exec`.
    pub at: f64,
}

/// Where one program's launch went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Whose launch.
    pub program: String,
    /// In order; the last is the first byte.
    pub marks: Vec<Mark>,
}

/// What was to be measured and was not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// A program as reports name it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a bench is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Launching guests.
    #[default]
    Boot,
    /// Their disks.
    Block,
    /// Their network cards.
    Net,
    /// Their sockets.
    Vsock,
}

/// Everything that a part found out. A part leaves out what it does not know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    /// What it is about.
    pub subject: Subject,
    /// Who was measured.
    pub programs: Vec<Named>,
    /// The quantities.
    pub rows: Vec<Row>,
    /// Seen from outside, the same way for everyone.
    pub timelines: Vec<Timeline>,
    /// Our own stamps.
    pub own_phases: Vec<Mark>,
    /// Exits to user space until init by device, by kernel.
    pub exits: BTreeMap<String, BTreeMap<String, u64>>,
    /// System calls for each unit of what was done: by what was done, by program, by name.
    pub calls: BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>,
    /// What was not measured.
    pub skipped: Vec<Skipped>,
    /// Runs that went wrong: they are in no summary.
    pub failures: Vec<String>,
    /// How it was measured: seed, rounds, host.
    pub setting: BTreeMap<String, String>,
}

impl Results {
    /// Nothing yet, of these programs.
    pub fn of(programs: &[Program], absent: Vec<Absent>) -> Self {
        let mut results = Self::default();
        for (name, reason) in absent {
            results.skip(name, reason);
        }
        let named = programs.iter().map(|program| Named {
            name: program.name.clone(),
            version: program.version.clone(),
        });
        results.programs.extend(named);
        results
    }

    /// Adds a quantity; without samples there is nothing to add.
    pub fn row(&mut self, item: u8, measure: &str, unit: &str, program: &str, samples: &[f64]) {
        if let Some(summary) = Summary::of(samples) {
            self.rows.push(Row {
                item,
                measure: measure.into(),
                unit: unit.into(),
                program: program.into(),
                summary,
            });
        }
    }

    /// Notes that something was not measured.
    pub fn skip(&mut self, what: impl Into<String>, reason: impl Into<String>) {
        self.skipped.push(Skipped {
            what: what.into(),
            reason: reason.into(),
        });
    }

    /// The quantity of a program.
    pub fn get(&self, measure: &str, program: &str) -> Option<&Summary> {
        self.rows
            .iter()
            .find(|row| row.measure == measure && row.program == program)
            .map(|row| &row.summary)
    }

    /// Takes over what another part found out.
    pub fn merge(&mut self, other: Self) {
        for program in other.programs {
            if self.programs.iter().all(|known| known.name != program.name) {
                self.programs.push(program);
            }
        }
        for skip in other.skipped {
            if self
                .skipped
                .iter()
                .all(|known| known.what != skip.what || known.reason != skip.reason)
            {
                self.skipped.push(skip);
            }
        }
        self.rows.extend(other.rows);
        self.timelines.extend(other.timelines);
        self.own_phases.extend(other.own_phases);
        self.exits.extend(other.exits);
        self.calls.extend(other.calls);
        self.failures.extend(other.failures);
        self.setting.extend(other.setting);
    }
}
