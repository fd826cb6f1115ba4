//! What is measured on the host's own KVM, with hand-made guests: host code at its full speed.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    elf::{self, GUEST_BYTE, Then},
    floor,
    launch::{Launch, Stamp, Wait, ending, now, real_time},
    programs::{Absent, Guest, Kind, MEMORY_MIB, Program},
    results::{Mark, Named, Results, Timeline},
    smaps,
    stats::{Shuffler, Summary},
    trace,
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Launches at once, and in turn.
const CROWD: usize = 50;
/// How failures among them are told from others.
const CROWD_FAILED: &str = "one of fifty";
/// Guests that idle side by side.
const NEIGHBOURS: usize = 10;
/// Runs under strace, which repeat well.
const TRACES: usize = 11;
/// Between launches: what the kernel puts off when a machine goes would be the next launch's otherwise.
const SETTLE: Duration = Duration::from_millis(20);

/// What to measure, and how often.
#[derive(Debug)]
pub struct Plan {
    /// Items of the specification.
    pub items: Vec<u8>,
    /// Rounds of what is timed.
    pub rounds: usize,
    /// Of the orders.
    pub seed: u64,
}

/// The guests that a program is given.
struct Guests {
    idle: Guest,
    ends: Guest,
    says_and_ends: Guest,
}

struct Bench<'a> {
    programs: Vec<Program>,
    guests: Vec<Guests>,
    stamp: Stamp,
    work: &'a Path,
    shuffler: Shuffler,
    results: Results,
}

/// Measures `programs` and the floor.
///
/// # Errors
/// When the bench itself fails; a program's failures are results.
pub fn measure(
    plan: &Plan,
    mut programs: Vec<Program>,
    absent: Vec<Absent>,
    work: &Path,
) -> io::Result<Results> {
    let mut results = Results::default();
    for (name, reason) in absent {
        results.skip(name, reason);
    }
    // What else this machine does should not count; everything that is measured inherits it.
    let raised = rustix::process::setpriority_process(None, -15).is_ok();
    results.setting.insert(
        "priority".into(),
        if raised {
            "raised (nice -15)"
        } else {
            "ordinary"
        }
        .into(),
    );
    let stamp = Stamp::new()?;
    programs.extend(cheaper_floors(&stamp, work)?);
    for program in &programs {
        results.programs.push(Named {
            name: program.name.clone(),
            version: program.version.clone(),
        });
    }
    let guests = programs
        .iter()
        .map(|program| write_guests(program.kind, work))
        .collect::<io::Result<_>>()?;
    let mut bench = Bench {
        programs,
        guests,
        stamp,
        work,
        shuffler: Shuffler::new(plan.seed),
        results,
    };
    let wants = |item| plan.items.contains(&item);
    if wants(1) || wants(2) {
        bench.warm_up()?;
        bench.times(plan)?;
    }
    if wants(1) {
        bench.system_calls()?;
        bench.timelines()?;
    }
    if wants(3) {
        bench.memory()?;
    }
    if wants(6) {
        bench.crowds(plan.rounds.div_ceil(8))?;
    }
    Ok(bench.results)
}

/// Of the two interrupt controllers the one that makes the floor lower on this host.
fn cheaper_floors(stamp: &Stamp, work: &Path) -> io::Result<[Program; 2]> {
    let floors = floor::build(work)?;
    let errors = File::create(work.join("floor.stderr"))?;
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..10 {
        for (floor, times) in floors.iter().zip(&mut times) {
            let mut launch = Launch::start(Command::new(&floor.path), stamp, &errors)?;
            match launch.wait_for(&[GUEST_BYTE], TIMEOUT)? {
                Wait::At(at) => times.push(milliseconds(launch.started, at)),
                other => {
                    return Err(io::Error::other(format!(
                        "the floor does not run: {other:?}"
                    )));
                }
            }
            launch.kill()?;
        }
    }
    let [split, all, bare_split, bare_all] = floors;
    let median = |samples: &[f64]| Summary::of(samples).map_or(f64::MAX, |summary| summary.p50);
    let pick = |a: Program, b: Program, at: usize| {
        if median(&times[at]) <= median(&times[at + 1]) {
            a
        } else {
            b
        }
    };
    Ok([pick(split, all, 0), pick(bare_split, bare_all, 2)])
}

fn write_guests(kind: Kind, work: &Path) -> io::Result<Guests> {
    let write = |name: &str, says_byte, then| {
        let kernel: PathBuf = work.join(format!("guest-{name}-{then:?}"));
        fs::write(&kernel, elf::guest(says_byte, then))?;
        Ok::<_, io::Error>(Guest::new(kernel, None, 1))
    };
    Ok(Guests {
        idle: write("says", true, Then::Idle)?,
        ends: write("silent", false, kind.ends_by())?,
        says_and_ends: write("says", true, kind.ends_by())?,
    })
}

/// What one launch is about.
#[derive(Clone, Copy, Debug)]
enum Task {
    FirstByte,
    Gone,
    /// Our own stamps, in runs of their own: writing them is no part of what is timed.
    Phases,
}

fn milliseconds(from: u64, to: u64) -> f64 {
    Duration::from_nanos(to.saturating_sub(from)).as_secs_f64() * 1e3
}

impl Bench<'_> {
    fn errors_path(&self, program: &Program) -> PathBuf {
        self.work.join(format!("{}.stderr", program.name))
    }

    fn start(&self, index: usize, guest: &Guest) -> io::Result<Launch> {
        let program = &self.programs[index];
        let errors = File::create(self.errors_path(program))?;
        Launch::start(program.command(guest, self.work)?, &self.stamp, &errors)
    }

    fn fail(&mut self, index: usize, what: &str) {
        let program = &self.programs[index];
        let words = fs::read(self.errors_path(program)).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let first = words.lines().next().unwrap_or_default();
        self.results
            .failures
            .push(format!("{}: {what}: {first}", program.name));
    }

    /// Every file read and every program run once: all that follows is warm.
    fn warm_up(&mut self) -> io::Result<()> {
        for (index, task) in self.order() {
            self.time(index, task)?;
        }
        if self.results.failures.is_empty() {
            return Ok(());
        }
        // A rival that cannot do this guest at all would only fill the list of failures.
        let failures = std::mem::take(&mut self.results.failures);
        for failure in failures {
            let name = failure.split(':').next().unwrap_or_default().to_owned();
            if name == self.programs[0].name || name.starts_with(floor::FLOOR) {
                return Err(io::Error::other(failure));
            }
            if let Some(index) = self
                .programs
                .iter()
                .position(|program| program.name == name)
            {
                self.programs.remove(index);
                self.guests.remove(index);
                self.results.skip(name, failure);
            }
        }
        Ok(())
    }

    fn times(&mut self, plan: &Plan) -> io::Result<()> {
        let mut first_byte = vec![Vec::new(); self.programs.len()];
        let mut gone = vec![Vec::new(); self.programs.len()];
        let mut phases = Phases::default();
        for _ in 0..plan.rounds {
            for (index, task) in self.order() {
                match task {
                    Task::FirstByte => first_byte[index].extend(self.time(index, task)?),
                    Task::Gone => gone[index].extend(self.time(index, task)?),
                    Task::Phases => phases.add(self.phases(index)?),
                }
            }
        }
        for (index, program) in self.programs.iter().enumerate() {
            let name = &program.name;
            self.results
                .row(1, "first_byte", "ms", name, &first_byte[index]);
            self.results.row(2, "gone", "ms", name, &gone[index]);
        }
        self.results.own_phases = phases.medians();
        Ok(())
    }

    /// What a round consists of, in an order of its own.
    fn order(&mut self) -> Vec<(usize, Task)> {
        let tasks = |(index, program): (usize, &Program)| {
            let tasks: &[Task] = match program.kind {
                Kind::Ampoule => &[Task::FirstByte, Task::Gone, Task::Phases],
                // It has no end of its own.
                Kind::Floor => &[Task::FirstByte],
                _ => &[Task::FirstByte, Task::Gone],
            };
            tasks.iter().map(move |task| (index, *task))
        };
        let mut order: Vec<_> = self.programs.iter().enumerate().flat_map(tasks).collect();
        self.shuffler.shuffle(&mut order);
        order
    }

    /// One launch, in milliseconds from `exec`.
    fn time(&mut self, index: usize, task: Task) -> io::Result<Option<f64>> {
        std::thread::sleep(SETTLE);
        let guests = &self.guests[index];
        match task {
            Task::FirstByte => {
                let mut launch = self.start(index, &guests.idle)?;
                let wait = launch.wait_for(&[GUEST_BYTE], TIMEOUT)?;
                launch.kill()?;
                if let Wait::At(at) = wait {
                    return Ok(Some(milliseconds(launch.started, at)));
                }
                self.fail(index, "no byte from the guest");
            }
            Task::Gone | Task::Phases => {
                let mut launch = self.start(index, &guests.ends)?;
                match launch.wait_gone(TIMEOUT)? {
                    Some((at, status)) if status.success() => {
                        return Ok(Some(milliseconds(launch.started, at)));
                    }
                    Some((_, status)) => self.fail(index, &ending(status)),
                    None => self.fail(index, "the guest's end did not end it"),
                }
            }
        }
        Ok(None)
    }

    /// One run under strace; what was said in time, and the trace.
    fn trace(&mut self, index: usize, landmarks_only: bool) -> io::Result<Option<(u64, String)>> {
        let file = self.work.join("trace");
        let program = &self.programs[index];
        // The floor cannot end by itself: it is left at the first exit that is not the serial port's.
        let command = program.command(&self.guests[index].says_and_ends, self.work)?;
        let errors = File::create(self.errors_path(program))?;
        let mut launch = Launch::start(
            trace::traced(&command, &file, landmarks_only),
            &self.stamp,
            &errors,
        )?;
        let wait = launch.wait_for(&[GUEST_BYTE], TIMEOUT)?;
        let at = real_time();
        let traced = fs::read_to_string(format!("/proc/{0}/task/{0}/children", launch.pid()))
            .unwrap_or_default();
        // Killing strace would leave what it traces.
        let patience = if program.kind == Kind::Floor {
            Duration::ZERO
        } else {
            TIMEOUT
        };
        if launch.wait_gone(patience)?.is_none() {
            for pid in traced.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            launch.wait_gone(TIMEOUT)?;
        }
        match wait {
            Wait::At(_) => Ok(Some((at, trace::read(&file)?))),
            _ => {
                self.fail(index, "no byte from the guest under strace");
                Ok(None)
            }
        }
    }

    fn system_calls(&mut self) -> io::Result<()> {
        for index in 0..self.programs.len() {
            let mut counts = Vec::new();
            for _ in 0..3 {
                let trace = self.trace(index, false)?;
                counts.extend(
                    trace
                        .and_then(|(_, trace)| trace::calls_before_run(&trace))
                        .map(f64::from),
                );
            }
            let name = self.programs[index].name.clone();
            self.results.row(1, "system_calls", "calls", &name, &counts);
        }
        Ok(())
    }

    /// Where launches went, seen from outside: landmarks of traced runs, less what tracing cost.
    fn timelines(&mut self) -> io::Result<()> {
        for index in 0..self.programs.len() {
            let name = self.programs[index].name.clone();
            let Some(total) = self
                .results
                .get("first_byte", &name)
                .map(|summary| summary.p50)
            else {
                continue;
            };
            let mut times: [Vec<f64>; 3] = Default::default();
            for _ in 0..TRACES {
                let Some((at, trace)) = self.trace(index, true)? else {
                    continue;
                };
                let Some(marks) = trace::landmarks(&trace) else {
                    continue;
                };
                let traced = Duration::from_nanos(at).as_secs_f64() - marks.exec.at;
                for (times, mark) in times.iter_mut().zip([marks.open, marks.create, marks.run]) {
                    times.push(trace::untraced(&marks, mark, traced, total / 1e3) * 1e3);
                }
            }
            let names = ["/dev/kvm opened", "VM asked for", "guest entered"];
            let mark = |(name, times): (&&str, &Vec<f64>)| {
                Summary::of(times).map(|summary| Mark {
                    name: (*name).into(),
                    at: summary.p50,
                })
            };
            let mut marks: Vec<Mark> = names.iter().zip(&times).filter_map(mark).collect();
            marks.push(Mark {
                name: "first byte".into(),
                at: total,
            });
            self.results.timelines.push(Timeline {
                program: name,
                marks,
            });
        }
        Ok(())
    }

    /// One launch of ours that writes its timeline.
    fn phases(&mut self, index: usize) -> io::Result<Vec<(String, f64)>> {
        std::thread::sleep(SETTLE);
        let file = self.work.join("timeline.json");
        let mut command =
            self.programs[index].command(&self.guests[index].says_and_ends, self.work)?;
        command.arg(format!("--timeline={}", file.display()));
        let errors = File::create(self.errors_path(&self.programs[index]))?;
        let mut launch = Launch::start(command, &self.stamp, &errors)?;
        match launch.wait_gone(TIMEOUT)? {
            Some((_, status)) if status.success() => read_phases(&file),
            _ => {
                self.fail(index, "no timeline");
                Ok(Vec::new())
            }
        }
    }

    fn memory(&mut self) -> io::Result<()> {
        for program in &self.programs {
            // Pages of a file that was just built count as dirty until they are written back.
            File::open(&program.path)?.sync_all()?;
        }
        for index in 0..self.programs.len() {
            for (count, dirty, proportional) in [
                (1, "host_dirty", "host_pss"),
                (NEIGHBOURS, "host_dirty_ten", "host_pss_ten"),
            ] {
                let Some(usages) = self.idle_usage(index, count)? else {
                    continue;
                };
                let name = self.programs[index].name.clone();
                let of = |part: fn(&smaps::Usage) -> u64| {
                    usages
                        .iter()
                        .map(|usage| mebibytes(part(usage)))
                        .collect::<Vec<_>>()
                };
                self.results
                    .row(3, dirty, "MiB", &name, &of(|usage| usage.private_dirty));
                self.results.row(
                    3,
                    proportional,
                    "MiB",
                    &name,
                    &of(|usage| usage.proportional),
                );
            }
        }
        Ok(())
    }

    /// What `count` processes use that idle side by side.
    fn idle_usage(&mut self, index: usize, count: usize) -> io::Result<Option<Vec<smaps::Usage>>> {
        let mut launches = Vec::new();
        for _ in 0..count {
            let mut launch = self.start(index, &self.guests[index].idle)?;
            if !matches!(launch.wait_for(&[GUEST_BYTE], TIMEOUT)?, Wait::At(_)) {
                self.fail(index, "no byte from the guest");
                return Ok(None);
            }
            launches.push(launch);
        }
        std::thread::sleep(Duration::from_millis(300));
        let usages = launches
            .iter()
            .map(|launch| smaps::usage(launch.pid(), MEMORY_MIB << 20))
            .collect::<io::Result<_>>();
        match usages {
            Ok(usages) => Ok(Some(usages)),
            Err(error) => {
                self.fail(index, &error.to_string());
                Ok(None)
            }
        }
    }

    /// Fifty launches at once, and in turn, on two processors.
    fn crowds(&mut self, rounds: usize) -> io::Result<()> {
        two_processors()?;
        let monitors: Vec<usize> = (0..self.programs.len())
            .filter(|index| self.programs[*index].kind != Kind::Floor)
            .collect();
        let mut times: BTreeMap<(usize, bool), Vec<f64>> = BTreeMap::new();
        for _ in 0..rounds {
            let mut order: Vec<_> = monitors
                .iter()
                .flat_map(|index| [(*index, false), (*index, true)])
                .collect();
            self.shuffler.shuffle(&mut order);
            for (index, at_once) in order {
                let begin = now();
                let mut launches = Vec::new();
                let mut good = true;
                for _ in 0..CROWD {
                    let launch = self.start(index, &self.guests[index].says_and_ends)?;
                    launches.push(launch);
                    if !at_once {
                        good &= self.all_end_well(index, &mut launches)?;
                    }
                }
                good &= self.all_end_well(index, &mut launches)?;
                if good {
                    times
                        .entry((index, at_once))
                        .or_default()
                        .push(milliseconds(begin, now()));
                }
            }
        }
        for ((index, at_once), samples) in &times {
            let measure = if *at_once {
                "fifty_at_once"
            } else {
                "fifty_in_turn"
            };
            let name = self.programs[*index].name.clone();
            self.results.row(6, measure, "ms", &name, samples);
        }
        for index in monitors {
            let name = self.programs[index].name.clone();
            let own = format!("{name}: {CROWD_FAILED}");
            let failures = &self.results.failures;
            let failed = failures
                .iter()
                .filter(|failure| failure.starts_with(&own))
                .count();
            let failed = f64::from(u32::try_from(failed).unwrap_or(u32::MAX));
            self.results
                .row(6, "fifty_failures", "failed", &name, &[failed]);
        }
        Ok(())
    }

    fn all_end_well(&mut self, index: usize, launches: &mut Vec<Launch>) -> io::Result<bool> {
        let mut good = true;
        for mut launch in launches.drain(..) {
            let end = launch.wait_gone(TIMEOUT)?;
            let complaint = match end {
                None => Some("it did not end".to_owned()),
                Some((_, status)) if !status.success() => Some(ending(status)),
                Some(_) if !launch.said().contains(&GUEST_BYTE) => {
                    Some("no byte from the guest".to_owned())
                }
                Some(_) => None,
            };
            if let Some(complaint) = complaint {
                good = false;
                // Some say it on standard output, behind the time of day.
                let words = String::from_utf8_lossy(launch.said());
                let last = words.trim_end().lines().last().unwrap_or_default();
                let last = last.split_once(' ').map_or(last, |(_, rest)| rest);
                self.fail(index, &format!("{CROWD_FAILED}: {complaint}: {last}"));
            }
        }
        Ok(good)
    }
}

/// Stamps of many runs, in the order in which they come.
#[derive(Default)]
struct Phases {
    order: Vec<String>,
    stamps: BTreeMap<String, Vec<f64>>,
}

impl Phases {
    fn add(&mut self, run: Vec<(String, f64)>) {
        for (name, at) in run {
            if !self.order.contains(&name) {
                self.order.push(name.clone());
            }
            self.stamps.entry(name).or_default().push(at);
        }
    }

    fn medians(&self) -> Vec<Mark> {
        let mark = |name: &String| {
            Summary::of(self.stamps.get(name)?).map(|summary| Mark {
                name: name.clone(),
                at: summary.p50,
            })
        };
        self.order.iter().filter_map(mark).collect()
    }
}

/// This process and what it starts keep to the first two processors that it may use.
fn two_processors() -> io::Result<()> {
    let all = rustix::thread::sched_getaffinity(None)?;
    let mut two = rustix::thread::CpuSet::new();
    for cpu in (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| all.is_set(*cpu))
        .take(2)
    {
        two.set(cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &two)?)
}

fn mebibytes(kibibytes: u64) -> f64 {
    f64::from(u32::try_from(kibibytes).unwrap_or(u32::MAX)) / 1024.0
}

/// Names and milliseconds of the phases that passed.
///
/// # Errors
/// When the file is not what `ampoule run --timeline=FILE` writes.
pub fn read_phases(file: &Path) -> io::Result<Vec<(String, f64)>> {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(file)?)?;
    let phases = report["phases"].as_array().cloned().unwrap_or_default();
    Ok(phases
        .iter()
        .filter_map(|phase| {
            Some((
                phase["phase"].as_str()?.to_owned(),
                phase["microseconds"].as_f64()? / 1e3,
            ))
        })
        .collect())
}
