//! What measuring with guests that send and receive has in common, whatever they do it by: rounds, a guest that is started and asked, and
//! what came of it.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    counts::{self, Counted, Counter, Times},
    launch::{Launch, Stamp, Wait, now},
    programs::{Guest, MEMORY_MIB, Program},
    results::Results,
    smaps,
    stats::Shuffler,
};

/// Of the lab's clock: many times what the slowest takes.
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// What the guest says when its devices are there and nothing has been asked of them.
pub const READY: &str = "traffic-ready";
/// The unit in which streams are counted.
pub const FRAME: u64 = 64 << 10;

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// Which items.
    pub items: Vec<u8>,
    /// Measured runs of each.
    pub rounds: usize,
    /// Of the orders.
    pub seed: u64,
    /// A kernel with its drivers in modules, decompressed.
    pub kernel: PathBuf,
    /// An initial RAM disk with these modules and `guest-traffic`, which runs the script that a parameter carries.
    pub initrd: PathBuf,
}

impl Plan {
    /// A guest of this plan's.
    pub fn guest(&self, script: String) -> Guest {
        Guest {
            script: Some(script),
            ..Guest::new(self.kernel.clone(), Some(self.initrd.clone()), 1)
        }
    }
}

/// A program with one of its ways to do it.
#[derive(Debug)]
pub struct Case<'a> {
    /// As tables call it.
    pub name: String,
    /// Which program.
    pub program: &'a Program,
    /// What it is asked for.
    pub guest: Guest,
}

/// A quantity that a run gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// The item of the specification that it belongs to.
    pub item: u8,
    /// As programs know it.
    pub measure: String,
    /// Its unit.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
}

/// What one run found out.
#[derive(Debug, Default)]
pub struct Findings {
    /// The quantities.
    pub quantities: Vec<Quantity>,
    /// System calls of the program's for each unit of what was done, by what was done and by name.
    pub calls: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Findings {
    /// Adds a quantity.
    pub fn add(&mut self, item: u8, measure: impl Into<String>, unit: &'static str, value: f64) {
        self.quantities.push(Quantity {
            item,
            measure: measure.into(),
            unit,
            value,
        });
    }

    /// Adds how many frames something made.
    pub fn add_frames(&mut self, item: u8, measure: &str, frames: u64, units: u64) {
        self.add(item, measure, "frames", share(frames, units));
    }

    /// Adds what was timed: of the whole machine, and of the program's threads without its vCPUs.
    pub fn add_timed(&mut self, item: u8, measure: &str, timed: &Timed, units: u64) {
        let unit = "instructions";
        self.add(item, measure, unit, share(timed.elapsed, units));
        let threads = format!("{measure}_threads");
        self.add(item, threads, unit, share(timed.times.others, units));
    }

    /// Adds what was timed, of the whole machine alone: a program has others do its work.
    pub fn add_elapsed(&mut self, item: u8, measure: &str, timed: &Timed, units: u64) {
        self.add(item, measure, "instructions", share(timed.elapsed, units));
    }

    /// Adds what was counted.
    pub fn add_counted(&mut self, item: u8, what: &str, counted: &Counted, units: u64) {
        let calls = format!("calls_{what}");
        self.add(
            item,
            calls.as_str(),
            "calls",
            share(counted.all_calls(), units),
        );
        self.add(
            item,
            format!("exits_{what}"),
            "exits",
            share(counted.exits, units),
        );
        let by_name = counted.calls.iter();
        let by_name = by_name.map(|(name, count)| (name.clone(), share(*count, units)));
        self.calls.insert(calls, by_name.collect());
    }
}

/// So much for each of so many. Both are far below 2^53.
fn share(all: u64, units: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
    let share = all as f64 / units.max(1) as f64;
    share
}

/// Runs every case once in each round, in an order of that round's, and puts what `run` finds into the results.
pub fn measure(
    plan: &Plan,
    cases: &[Case<'_>],
    results: &mut Results,
    mut run: impl FnMut(&Case<'_>) -> io::Result<Findings>,
) {
    let mut samples: Vec<(&str, Quantity, Vec<f64>)> = Vec::new();
    let mut shuffler = Shuffler::new(plan.seed);
    for _ in 0..plan.rounds {
        let mut order: Vec<_> = cases.iter().collect();
        shuffler.shuffle(&mut order);
        for case in order {
            eprintln!("bench: {} …", case.name);
            let findings = match run(case) {
                Ok(findings) => findings,
                Err(error) => {
                    results.failures.push(format!("{}: {error}", case.name));
                    continue;
                }
            };
            for quantity in findings.quantities {
                let known = samples.iter_mut().find(|(name, known, _)| {
                    *name == case.name && known.measure == quantity.measure
                });
                match known {
                    Some((_, _, values)) => values.push(quantity.value),
                    None => {
                        let values = vec![quantity.value];
                        samples.push((&case.name, quantity, values));
                    }
                }
            }
            for (what, calls) in findings.calls {
                results
                    .calls
                    .entry(what)
                    .or_default()
                    .insert(case.name.clone(), calls);
            }
        }
    }
    // Ours first, as they are listed, and quantities in the order in which they were found.
    for case in cases {
        for (_, quantity, values) in samples.iter().filter(|(name, _, _)| *name == case.name) {
            let Quantity {
                item,
                measure,
                unit,
                ..
            } = quantity;
            results.row(*item, measure, unit, &case.name, values);
        }
    }
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// Nanoseconds of the clock, the whole machine's.
    pub elapsed: u64,
    /// Those of the program's threads.
    pub times: Times,
}

/// A guest that runs.
#[derive(Debug)]
pub struct Session {
    launch: Launch,
    errors: PathBuf,
}

impl Session {
    /// Starts a case's guest and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(case: &Case<'_>, stamp: &Stamp, work: &Path) -> io::Result<Self> {
        let errors = work.join("stderr");
        let command = case.program.command(&case.guest, work)?;
        let launch = Launch::start(command, stamp, &File::create(&errors)?)?;
        let mut session = Self { launch, errors };
        match session.launch.wait_for(READY.as_bytes(), TIMEOUT)? {
            Wait::At(_) => Ok(session),
            other => {
                Err(session.explain(&io::Error::other(format!("it is not ready ({other:?})"))))
            }
        }
    }

    /// Times a piece of work.
    ///
    /// # Errors
    /// Those of the work.
    pub fn time(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<Timed> {
        let pid = self.launch.pid();
        let (times, begun) = (counts::times(pid)?, now());
        work()?;
        let elapsed = now() - begun;
        let times = counts::times(pid)?.since(times);
        Ok(Timed { elapsed, times })
    }

    /// Counts what a piece of work takes.
    ///
    /// # Errors
    /// Those of the work, and when the kernel does not count.
    pub fn count(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<Counted> {
        let counter = Counter::start()?;
        work()?;
        counter.finish(self.launch.pid())
    }

    /// Mebibytes that are dirty outside the guest's RAM.
    ///
    /// # Errors
    /// When the process has gone.
    pub fn dirty(&self) -> io::Result<f64> {
        let kibibytes = smaps::usage(self.launch.pid(), MEMORY_MIB << 20)?.private_dirty;
        Ok(share(kibibytes, 1024))
    }

    /// An error with what the guest and its monitor said last.
    pub fn explain(&mut self, error: &io::Error) -> io::Error {
        // What is still to be read.
        let _ = self.launch.wait_for(b"\0", Duration::from_secs(1));
        let said = String::from_utf8_lossy(self.launch.said());
        let last = said.lines().last().unwrap_or_default().trim();
        let words = fs::read_to_string(&self.errors).unwrap_or_default();
        let first = words.lines().next().unwrap_or_default();
        io::Error::other(format!("{error}: {last} {first}"))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When there is nothing left to wait for.
    pub fn end(mut self) -> io::Result<()> {
        self.launch.kill().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_for_each_unit_of_what_was_done() {
        let mut findings = Findings::default();
        let times = Times {
            vcpus: 5000,
            others: 3000,
        };
        let timed = Timed {
            elapsed: 10_000,
            times,
        };
        findings.add_timed(1, "tcp_tx", &timed, 4);
        let calls = BTreeMap::from([("writev".to_owned(), 8), ("epoll_wait".to_owned(), 2)]);
        findings.add_counted(1, "tx", &Counted { calls, exits: 0 }, 8);
        let values = findings.quantities.iter();
        let values = values.map(|quantity| (quantity.measure.as_str(), quantity.value));
        let expected = [
            ("tcp_tx", 2500.0),
            ("tcp_tx_threads", 750.0),
            ("calls_tx", 1.25),
            ("exits_tx", 0.0),
        ];
        assert!(values.eq(expected));
        assert_eq!(findings.calls["calls_tx"]["epoll_wait"], 0.25);
    }

    #[test]
    fn a_case_that_fails_is_named_and_the_others_are_measured() {
        let plan = Plan {
            items: vec![1],
            rounds: 3,
            seed: 1,
            kernel: "/k".into(),
            initrd: "/i".into(),
        };
        let program = Program {
            name: "p".into(),
            kind: crate::programs::Kind::Qemu,
            path: "/p".into(),
            version: String::new(),
        };
        let case = |name: &str| Case {
            name: name.into(),
            program: &program,
            guest: plan.guest(String::new()),
        };
        let mut results = Results::default();
        measure(&plan, &[case("a"), case("b")], &mut results, |case| {
            if case.name == "b" {
                return Err(io::Error::other("no"));
            }
            let mut findings = Findings::default();
            findings.add(1, "m", "u", 2.0);
            Ok(findings)
        });
        assert_eq!(results.get("m", "a").unwrap().n, 3);
        assert_eq!(results.failures, ["b: no", "b: no", "b: no"]);
    }
}
