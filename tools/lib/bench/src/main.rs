//! The parts of `tools/bench`. Each prints its results as JSON: `host` runs on the host, `lab` in the lab; `report` reads what they printed.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ampoule_bench::{
    disk_lab, disk_path, host, lab, net_lab, programs, report,
    results::{Results, Subject},
    sessions, svg, vsock_lab,
};

const USAGE: &str = "\
ampoule-bench host --ampoule FILE --work DIRECTORY --items 1,2,3,6 --rounds N --seed N
ampoule-bench disk-path --work DIRECTORY --rounds N --seed N
ampoule-bench disk-lab --ampoule FILE --work DIRECTORY --rounds N --seed N --kernel FILE --initrd FILE
ampoule-bench net-lab|vsock-lab --ampoule FILE --work DIRECTORY --items 1,3 --rounds N --seed N --kernel FILE --initrd FILE
ampoule-bench lab --ampoule FILE --work DIRECTORY --rounds N --seed N --clock instructions|time
                  --stock-image FILE --stock-elf FILE [--own-image FILE --own-elf FILE]
ampoule-bench report [--subject boot|block|net|vsock] [--json yes] [--svg FILE] [--save FILE] RESULTS…";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let part = arguments.next().unwrap_or_default();
    let done = Options::parse(arguments).and_then(|options| match part.as_str() {
        "host" => host_part(&options),
        "disk-path" => disk_path_part(&options),
        "disk-lab" => disk_lab_part(&options),
        "net-lab" => traffic_lab_part(&options, net_lab::measure),
        "vsock-lab" => traffic_lab_part(&options, vsock_lab::measure),
        "lab" => lab_part(&options),
        "report" => report_part(&options),
        _ => Err(io::Error::other(USAGE)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `--name value` pairs, and files.
struct Options {
    named: HashMap<String, String>,
    files: Vec<PathBuf>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut options = Self {
            named: HashMap::new(),
            files: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix("--") {
                Some(name) => {
                    let value = arguments
                        .next()
                        .ok_or_else(|| io::Error::other(format!("--{name}: a value is missing")))?;
                    options.named.insert(name.into(), value);
                }
                None => options.files.push(argument.into()),
            }
        }
        Ok(options)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    fn need(&self, name: &str) -> io::Result<&str> {
        self.get(name)
            .ok_or_else(|| io::Error::other(format!("--{name} is missing")))
    }

    fn items<T: FromIterator<u8>>(&self) -> io::Result<T> {
        let items = self.need("items")?.split(',');
        Ok(items.filter_map(|item| item.parse().ok()).collect())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> io::Result<T> {
        let text = self.need(name)?;
        text.parse()
            .map_err(|_| io::Error::other(format!("--{name} {text}: not a number")))
    }
}

fn host_part(options: &Options) -> io::Result<()> {
    let (programs, absent) = programs::find(Path::new(options.need("ampoule")?))?;
    let plan = host::Plan {
        items: options.items()?,
        rounds: options.number("rounds")?,
        seed: options.number("seed")?,
    };
    print(&host::measure(
        &plan,
        programs,
        absent,
        Path::new(options.need("work")?),
    )?)
}

fn disk_path_part(options: &Options) -> io::Result<()> {
    print(&disk_path::measure(
        options.number("rounds")?,
        options.number("seed")?,
        Path::new(options.need("work")?),
    )?)
}

fn disk_lab_part(options: &Options) -> io::Result<()> {
    let (programs, absent) = programs::find(Path::new(options.need("ampoule")?))?;
    let plan = disk_lab::Plan {
        rounds: options.number("rounds")?,
        seed: options.number("seed")?,
        kernel: options.need("kernel")?.into(),
        initrd: options.need("initrd")?.into(),
    };
    let work = Path::new(options.need("work")?);
    print(&disk_lab::measure(&plan, &programs, absent, work)?)
}

/// Measures guests that send and receive.
type MeasureTraffic =
    fn(&sessions::Plan, &[programs::Program], Vec<programs::Absent>, &Path) -> io::Result<Results>;

fn traffic_lab_part(options: &Options, measure: MeasureTraffic) -> io::Result<()> {
    let (programs, absent) = programs::find(Path::new(options.need("ampoule")?))?;
    let plan = sessions::Plan {
        items: options.items()?,
        rounds: options.number("rounds")?,
        seed: options.number("seed")?,
        kernel: options.need("kernel")?.into(),
        initrd: options.need("initrd")?.into(),
    };
    let work = Path::new(options.need("work")?);
    print(&measure(&plan, &programs, absent, work)?)
}

fn lab_part(options: &Options) -> io::Result<()> {
    let (programs, absent) = programs::find(Path::new(options.need("ampoule")?))?;
    let files = |kind: &str| {
        let part = |part: &str| options.get(&format!("{kind}-{part}")).map(PathBuf::from);
        part("image")
            .zip(part("elf"))
            .map(|(image, elf)| lab::KernelFiles { image, elf })
    };
    let plan = lab::Plan {
        rounds: options.number("rounds")?,
        seed: options.number("seed")?,
        own: files("own"),
        stock: files("stock")
            .ok_or_else(|| io::Error::other("--stock-image and --stock-elf are missing"))?,
        counts_instructions: options.need("clock")? == "instructions",
    };
    print(&lab::measure(
        &plan,
        &programs,
        absent,
        Path::new(options.need("work")?),
    )?)
}

fn report_part(options: &Options) -> io::Result<()> {
    let mut results = Results::default();
    for file in &options.files {
        let part = serde_json::from_slice(&fs::read(file)?)
            .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        results.merge(part);
    }
    results.subject = match options.get("subject") {
        Some("block") => Subject::Block,
        Some("net") => Subject::Net,
        Some("vsock") => Subject::Vsock,
        _ => Subject::Boot,
    };
    let object = serde_json::to_string_pretty(&report::object(&results))?;
    if let Some(path) = options.get("save") {
        fs::write(path, format!("{object}\n"))?;
    }
    if let Some((path, chart)) = options
        .get("svg")
        .zip(svg::chart(&results.timelines, &results.own_phases))
    {
        fs::write(path, chart)?;
    }
    if options.get("json").is_some() {
        println!("{object}");
    } else {
        print!("{}", report::table(&results));
    }
    Ok(())
}

fn print(results: &Results) -> io::Result<()> {
    println!("{}", serde_json::to_string(results)?);
    Ok(())
}
