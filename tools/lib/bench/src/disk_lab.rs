//! What a request to a disk costs where the clock counts instructions: all that the machine does for it, guest included, while fio in the guest
//! keeps one or 32 of them under way. The image lies in the page cache, so that nobody waits for a device.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    disk_path::fill,
    launch::{Launch, Stamp, Wait},
    programs::{Absent, Guest, Kind, MEMORY_MIB, Program},
    results::Results,
    smaps,
    stats::Shuffler,
};

/// Of the lab's clock: many times what the slowest takes.
const TIMEOUT: Duration = Duration::from_secs(120);
/// What the guest says when its disk is there and nothing is asked of it, for a second.
const IDLE: &str = "disk-idle";
/// What it says when it has done all.
const DONE: &str = "ampoule-guest: script ended with 0";

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// Measured runs of each.
    pub rounds: usize,
    /// Of the orders.
    pub seed: u64,
    /// A kernel with its drivers in modules, decompressed.
    pub kernel: PathBuf,
    /// An initial RAM disk with these modules and fio, which runs the script that a parameter carries.
    pub initrd: PathBuf,
}

/// What fio does: as the quantity is called, its options, and its requests.
const JOBS: [(&str, &str); 5] = [
    ("read_4k_1", "--rw=randread --bs=4k --number_ios=1500"),
    ("write_4k_1", "--rw=randwrite --bs=4k --number_ios=1500"),
    (
        "read_4k_32",
        "--rw=randread --bs=4k --iodepth=32 --iodepth_batch=32 --iodepth_batch_complete_max=32 --number_ios=3000",
    ),
    (
        "write_4k_32",
        "--rw=randwrite --bs=4k --iodepth=32 --iodepth_batch=32 --iodepth_batch_complete_max=32 --number_ios=3000",
    ),
    ("read_128k_1", "--rw=randread --bs=128k --number_ios=300"),
];

/// The guest's script: a line for each job, with the requests per second that fio counted (terse format 3, fields 8 and 49).
fn script() -> String {
    // fio divides by the size of a cache line, of which not every monitor's guest knows.
    let line = "/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size";
    let mut script = format!("echo 64 >/l; mount --bind /l {line}; echo {IDLE}; sleep 1\n");
    script.push_str(
        "j() { n=$1; shift; echo \"job $n $(fio --name=j --filename=/dev/vda --ioengine=io_uring --direct=1 --norandommap --gtod_reduce=1 --minimal \"$@\" | cut -d';' -f8,49)\"; }\n",
    );
    for (name, options) in JOBS {
        script.push_str(&format!("j {name} {options}\n"));
    }
    script
}

/// Measures every program.
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
    let cases = cases(plan, programs, work)?;
    let stamp = Stamp::new()?;
    let mut shuffler = Shuffler::new(plan.seed);
    let mut samples: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut dirty: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..plan.rounds {
        let mut order: Vec<_> = cases.iter().collect();
        shuffler.shuffle(&mut order);
        for (name, program, guest) in order {
            eprintln!("bench: {name} …");
            match run(program, guest, &stamp, work) {
                Ok((costs, mebibytes)) => {
                    dirty.entry(name).or_default().push(mebibytes);
                    for (job, cost) in costs {
                        samples.entry((name, job)).or_default().push(cost);
                    }
                }
                Err(error) => results.failures.push(format!("{name}: {error}")),
            }
        }
    }
    for ((name, job), samples) in samples {
        results.row(2, job, "instructions", name, &samples);
    }
    for (name, samples) in dirty {
        results.row(4, "disk_dirty", "MiB", name, &samples);
    }
    Ok(results)
}

/// Everybody, and us by our other transport as well. Each has an image of its own: some monitors' locks outlive them for a moment.
fn cases<'a>(
    plan: &Plan,
    programs: &'a [Program],
    work: &Path,
) -> io::Result<Vec<(String, &'a Program, Guest)>> {
    let mut cases = Vec::new();
    for (program, index) in programs.iter().zip(0..) {
        let disk = work.join(format!("disk{index}.raw"));
        fill(&disk, 64)?;
        let guest = |transport| Guest {
            disk: Some(disk.clone()),
            transport,
            script: Some(script()),
            ..Guest::new(plan.kernel.clone(), Some(plan.initrd.clone()), 1)
        };
        if program.kind == Kind::Ampoule {
            cases.push((program.name.clone(), program, guest(Some("pci"))));
            let mmio = format!("{} mmio", program.name);
            cases.push((mmio, program, guest(Some("mmio"))));
        } else {
            cases.push((program.name.clone(), program, guest(None)));
        }
    }
    Ok(cases)
}

/// One guest: instructions of each of its jobs' requests, and mebibytes that are dirty outside its RAM while it is idle.
fn run(
    program: &Program,
    guest: &Guest,
    stamp: &Stamp,
    work: &Path,
) -> io::Result<(Vec<(&'static str, f64)>, f64)> {
    let errors_path = work.join("stderr");
    let errors = File::create(&errors_path)?;
    let mut launch = Launch::start(program.command(guest, work)?, stamp, &errors)?;
    let mut dirty = 0;
    if let Wait::At(_) = launch.wait_for(IDLE.as_bytes(), TIMEOUT)? {
        std::thread::sleep(Duration::from_millis(500));
        dirty = smaps::usage(launch.pid(), MEMORY_MIB << 20)?.private_dirty;
    }
    let outcome = launch.wait_for(DONE.as_bytes(), TIMEOUT)?;
    let said = String::from_utf8_lossy(launch.said()).into_owned();
    launch.kill()?;
    if !matches!(outcome, Wait::At(_)) {
        let words = fs::read_to_string(&errors_path).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        return Err(io::Error::other(format!(
            "the guest did not finish ({outcome:?}): {last} {}",
            words.lines().next().unwrap_or_default()
        )));
    }
    let dirty = f64::from(u32::try_from(dirty).unwrap_or(u32::MAX)) / 1024.0;
    Ok((costs(&said)?, dirty))
}

/// Nanoseconds of the lab's clock, each of which is an instruction.
fn costs(said: &str) -> io::Result<Vec<(&'static str, f64)>> {
    JOBS.iter()
        .map(|&(job, _)| {
            let rate = said.lines().find_map(|line| {
                let (_, rest) = line.split_once("job ")?;
                let (name, rates) = rest.trim().split_once(' ')?;
                let rates = rates.split(';').filter_map(|rate| rate.parse().ok());
                (name == job).then(|| rates.fold(0.0, f64::max))
            });
            match rate {
                Some(rate) if rate > 0.0 => Ok((job, 1e9 / rate)),
                _ => Err(io::Error::other(format!("fio said nothing of {job}"))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_costs_what_fios_rate_says() {
        let mut said = String::from("noise\r\n");
        for (job, _) in JOBS {
            said.push_str(&format!("job {job} 0;20000\r\n"));
        }
        let costs = costs(&said).unwrap();
        assert_eq!(costs.len(), JOBS.len());
        assert_eq!(costs[0], ("read_4k_1", 50_000.0));
        assert!(super::costs("job read_4k_1 ;\r\n").is_err());
    }

    #[test]
    fn the_script_fits_a_command_line() {
        // In base64, beside everybody's own parameters.
        assert!(script().len() * 4 / 3 < 1500, "{}", script().len());
    }
}
