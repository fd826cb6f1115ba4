//! What is measured with Linux guests where their kernels run: in the lab, whose clock counts instructions.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    cpio,
    elf::{self, INIT_LINE},
    launch::{Launch, Stamp, Wait},
    programs::{Absent, Guest, Kind, MEMORY_MIB, Program},
    results::Results,
    smaps,
    stats::Shuffler,
};

/// Of the lab's clock: several times the slowest launch. A guest that spins costs minutes of real time for each of these seconds.
const TIMEOUT: Duration = Duration::from_secs(8);
/// The same for a launch that may have to read what it needs.
const COLD_TIMEOUT: Duration = Duration::from_secs(100);

/// A kernel as we boot it, and as everyone does.
#[derive(Clone, Debug)]
pub struct KernelFiles {
    /// As shipped.
    pub image: PathBuf,
    /// Decompressed: what rivals' manuals ask for.
    pub elf: PathBuf,
}

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// Measured runs of each.
    pub rounds: usize,
    /// Of the orders.
    pub seed: u64,
    /// Made for guests like these.
    pub own: Option<KernelFiles>,
    /// A distribution's.
    pub stock: KernelFiles,
    /// Whether the clock counts instructions.
    pub counts_instructions: bool,
}

struct Case {
    program: Program,
    kernel: &'static str,
    guest: Guest,
}

impl Case {
    fn measure(&self) -> String {
        match self.guest.cpus {
            1 => format!("launch_{}", self.kernel),
            cpus => format!("launch_{}_{cpus}", self.kernel),
        }
    }
}

/// Measures every program with every kernel that it should be measured with.
///
/// # Errors
/// When the bench itself fails.
pub fn measure(
    plan: &Plan,
    programs: &[Program],
    absent: Vec<Absent>,
    work: &Path,
) -> io::Result<Results> {
    let mut results = Results::of(programs, absent);
    let plan = &warm(plan, programs, work)?;
    let stamp = Stamp::new()?;
    let idle = work.join("idle.cpio");
    fs::write(&idle, cpio::initrd(&elf::init(false)))?;
    let ends = work.join("ends.cpio");
    fs::write(&ends, cpio::initrd(&elf::init(true)))?;
    let cases = cases(plan, programs, &idle);
    let mut samples: BTreeMap<usize, [Vec<f64>; 4]> = BTreeMap::new();
    let mut failed = vec![0; cases.len()];
    let mut shuffler = Shuffler::new(plan.seed);
    // The first round reads what has to be read.
    for round in 0..=plan.rounds {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        shuffler.shuffle(&mut order);
        for index in order {
            // A launch may fail now and then; one that does so twice can only cost more time.
            if failed[index] >= 2 {
                continue;
            }
            let case = &cases[index];
            match launch(
                case,
                if round == 0 { COLD_TIMEOUT } else { TIMEOUT },
                &stamp,
                work,
            ) {
                Ok(values) if round > 0 => {
                    for (samples, value) in samples.entry(index).or_default().iter_mut().zip(values)
                    {
                        samples.push(value);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let name = format!(
                        "{} ({} kernel, {} vCPUs)",
                        case.program.name, case.kernel, case.guest.cpus
                    );
                    results.failures.push(format!("{name}: {error}"));
                    failed[index] += 1;
                }
            }
        }
    }
    let unit = if plan.counts_instructions {
        "M instructions"
    } else {
        "ms"
    };
    for (index, [time, touched, dirty, proportional]) in &samples {
        let case = &cases[*index];
        let (name, measure) = (&case.program.name, case.measure());
        results.row(5, &measure, unit, name, time);
        if case.guest.cpus == 1 {
            results.row(
                5,
                &measure.replace("launch", "touched"),
                "MiB",
                name,
                touched,
            );
            results.row(
                3,
                &measure.replace("launch", "lab_dirty"),
                "MiB",
                name,
                dirty,
            );
            results.row(
                3,
                &measure.replace("launch", "lab_pss"),
                "MiB",
                name,
                proportional,
            );
        }
    }
    for case in cases
        .iter()
        .filter(|case| case.program.kind == Kind::Ampoule && case.guest.cpus == 1)
    {
        exits(case, &ends, &stamp, work, &mut results)?;
    }
    Ok(results)
}

/// Brings into memory all that launches read. The lab's clock jumps ahead whenever nothing runs, so a wait for the host's
/// files would count as thousands of instructions. Guests' files are copied; programs stay where they are, as the pages of a copy in memory would count
/// as theirs.
fn warm(plan: &Plan, programs: &[Program], work: &Path) -> io::Result<Plan> {
    for program in programs {
        fs::read(&program.path)?;
        // Nothing comes of it for a static program.
        if let Ok(output) = Command::new("ldd").arg(&program.path).output() {
            for word in String::from_utf8_lossy(&output.stdout)
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
            {
                let _ = fs::read(word);
            }
        }
    }
    let copy = |file: &Path, name: &str| {
        let copy = work.join(name);
        fs::copy(file, &copy).map(|_| copy)
    };
    let copies = |files: &KernelFiles, kind: &str| {
        Ok::<_, io::Error>(KernelFiles {
            image: copy(&files.image, &format!("{kind}-image"))?,
            elf: copy(&files.elf, &format!("{kind}-elf"))?,
        })
    };
    Ok(Plan {
        own: plan
            .own
            .as_ref()
            .map(|files| copies(files, "own"))
            .transpose()?,
        stock: copies(&plan.stock, "stock")?,
        ..*plan
    })
}

fn cases(plan: &Plan, programs: &[Program], idle: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for program in programs {
        let ours = program.kind == Kind::Ampoule;
        let guest = |files: &KernelFiles, cpus| {
            let kernel = if ours { &files.image } else { &files.elf };
            Guest::new(kernel.clone(), Some(idle.into()), cpus)
        };
        if let Some(own) = &plan.own {
            for cpus in if ours { &[1, 2, 4][..] } else { &[1] } {
                cases.push(Case {
                    program: program.clone(),
                    kernel: "own",
                    guest: guest(own, *cpus),
                });
            }
        }
        // Rivals boot this one only where there is no other to compare by.
        if ours || plan.own.is_none() {
            cases.push(Case {
                program: program.clone(),
                kernel: "stock",
                guest: guest(&plan.stock, 1),
            });
        }
    }
    cases
}

/// One launch until the guest's init speaks: milliseconds of the lab's clock, and mebibytes of guest RAM touched, dirty and proportional
/// outside it.
fn launch(case: &Case, timeout: Duration, stamp: &Stamp, work: &Path) -> io::Result<[f64; 4]> {
    let errors_path = work.join("stderr");
    let errors = File::create(&errors_path)?;
    let mut launch = Launch::start(case.program.command(&case.guest, work)?, stamp, &errors)?;
    match launch.wait_for(INIT_LINE.trim_end().as_bytes(), timeout)? {
        Wait::At(at) => {
            // Until all that init's start has set going is over.
            std::thread::sleep(Duration::from_millis(500));
            let usage = smaps::usage(launch.pid(), MEMORY_MIB << 20)?;
            let time = Duration::from_nanos(at - launch.started).as_secs_f64() * 1e3;
            let mebibytes =
                |kibibytes: u64| f64::from(u32::try_from(kibibytes).unwrap_or(u32::MAX)) / 1024.0;
            launch.kill()?;
            Ok([
                time,
                mebibytes(usage.guest_touched),
                mebibytes(usage.private_dirty),
                mebibytes(usage.proportional),
            ])
        }
        other => {
            drop(launch);
            let words = fs::read_to_string(&errors_path).unwrap_or_default();
            Err(io::Error::other(format!(
                "init did not speak ({other:?}): {}",
                words.lines().next().unwrap_or_default()
            )))
        }
    }
}

/// A run of ours that ends by itself and writes its timeline.
fn exits(
    case: &Case,
    initrd: &Path,
    stamp: &Stamp,
    work: &Path,
    results: &mut Results,
) -> io::Result<()> {
    let file = work.join("timeline.json");
    let guest = Guest {
        initrd: Some(initrd.into()),
        ..case.guest.clone()
    };
    let mut command = case.program.command(&guest, work)?;
    command.arg(format!("--timeline={}", file.display()));
    let errors = File::create(work.join("stderr"))?;
    let mut launch = Launch::start(command, stamp, &errors)?;
    if launch.wait_gone(TIMEOUT)?.is_none() {
        results.failures.push(format!(
            "{} kernel: the guest does not power off",
            case.kernel
        ));
        return Ok(());
    }
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
    let devices = by_device(&report);
    if devices.is_empty() {
        results.skip(
            format!("exits with the {} kernel", case.kernel),
            "its init could not write the marker",
        );
        return Ok(());
    }
    let outside: u64 = devices
        .iter()
        .filter(|(device, _)| *device != "serial")
        .map(|(_, count)| count)
        .sum();
    let outside = f64::from(u32::try_from(outside).unwrap_or(u32::MAX));
    results.row(
        4,
        &format!("exits_{}", case.kernel),
        "exits",
        &case.program.name,
        &[outside],
    );
    results.exits.insert(case.kernel.into(), devices);
    Ok(())
}

fn by_device(report: &serde_json::Value) -> BTreeMap<String, u64> {
    let devices = report["exits_to_user_space"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    devices
        .iter()
        .filter_map(|entry| {
            let count = entry["reads"].as_u64()? + entry["writes"].as_u64()?;
            Some((entry["device"].as_str()?.to_owned(), count))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_summed_by_device_and_silent_devices_left_out() {
        let report = serde_json::json!({ "exits_to_user_space": [
            { "device": "serial", "reads": 3, "writes": 4 },
            { "device": "power", "reads": 0, "writes": 0 },
        ]});
        assert_eq!(
            by_device(&report),
            BTreeMap::from([("serial".to_owned(), 7)])
        );
        assert!(by_device(&serde_json::json!({})).is_empty());
    }

    #[test]
    fn rivals_boot_what_can_be_compared() {
        let files = |name: &str| KernelFiles {
            image: format!("/{name}").into(),
            elf: format!("/{name}.elf").into(),
        };
        let program = |kind| Program {
            name: format!("{kind:?}"),
            kind,
            path: "/p".into(),
            version: String::new(),
        };
        let programs = [program(Kind::Ampoule), program(Kind::Qemu)];
        let mut plan = Plan {
            rounds: 3,
            seed: 1,
            own: Some(files("own")),
            stock: files("stock"),
            counts_instructions: true,
        };
        let names = |plan: &Plan| {
            let cases = cases(plan, &programs, Path::new("/i"));
            cases
                .iter()
                .map(|case| format!("{} {}", case.program.name, case.measure()))
                .collect::<Vec<_>>()
        };
        let with_own = [
            "Ampoule launch_own",
            "Ampoule launch_own_2",
            "Ampoule launch_own_4",
            "Ampoule launch_stock",
            "Qemu launch_own",
        ];
        assert_eq!(names(&plan), with_own);
        plan.own = None;
        assert_eq!(names(&plan), ["Ampoule launch_stock", "Qemu launch_stock"]);
    }
}
