//! Linux guests: kernels as distributions ship them, with a user space that runs a script.
//!
//! `tools/lib/guest-tests` provides kernels and RAM disks by environment variables, and runs these tests where KVM
//! boots stock kernels.
use std::{env, ffi::OsString, path::PathBuf};

use crate::{Finished, Guest, Launch, Terminal};

/// A kernel to boot, or a RAM disk to boot it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The kernel that this run of the tests is about: the own one, or the first of those below.
    Given,
    /// Debian 12's cloud kernel, a bzImage with an LZ4 payload.
    Cloud,
    /// Debian 12's generic kernel, a bzImage with an XZ payload.
    Generic,
    /// Debian 12's newer cloud kernel, a bzImage with a zstd payload.
    Newer,
    /// The cloud kernel's `vmlinux`.
    Elf,
    /// Runs a script of the command line, or a shell.
    Initrd,
    /// The same, after loading the given kernel's drivers for the power button, input devices and disks, where it has none.
    DriversInitrd,
    /// The same with fio.
    FioInitrd,
    /// The same with iperf3 and nginx.
    NetInitrd,
    /// As the one with drivers, of sockets between host and guest, and with socat.
    SocatInitrd,
}

impl Image {
    /// Its file.
    ///
    /// # Panics
    /// When the environment names none.
    pub fn path(self) -> PathBuf {
        let variable = match self {
            Self::Given => "AMPOULE_TEST_KERNEL",
            Self::Cloud => "AMPOULE_TEST_KERNEL_CLOUD",
            Self::Generic => "AMPOULE_TEST_KERNEL_GENERIC",
            Self::Newer => "AMPOULE_TEST_KERNEL_6_12",
            Self::Elf => "AMPOULE_TEST_ELF",
            Self::Initrd => "AMPOULE_TEST_INITRD",
            Self::DriversInitrd => "AMPOULE_TEST_INITRD_DRIVERS",
            Self::FioInitrd => "AMPOULE_TEST_INITRD_FIO",
            Self::NetInitrd => "AMPOULE_TEST_INITRD_NET",
            Self::SocatInitrd => "AMPOULE_TEST_INITRD_SOCAT",
        };
        match env::var_os(variable) {
            Some(path) => path.into(),
            None => panic!("{variable} is not set: run these tests with `tools/test guests`"),
        }
    }
}

/// A Linux guest about to be started. Its kernel is quiet: what it has to say is read from its log.
#[derive(Clone, Debug)]
pub struct Linux {
    kernel: Image,
    initrd: Image,
    parameters: String,
    arguments: Vec<OsString>,
}

/// The given kernel with 256 MiB, and a shell.
pub fn linux() -> Linux {
    Linux {
        kernel: Image::Given,
        initrd: Image::Initrd,
        parameters: "quiet".into(),
        arguments: ["--memory", "256M"].map(OsString::from).into(),
    }
}

impl Linux {
    /// Another kernel.
    #[must_use]
    pub fn kernel(self, kernel: Image) -> Self {
        Self { kernel, ..self }
    }

    /// Another RAM disk.
    #[must_use]
    pub fn initrd(self, initrd: Image) -> Self {
        Self { initrd, ..self }
    }

    /// More arguments for `ampoule run`, separated by blanks. They may come again: the last one counts.
    #[must_use]
    pub fn with(mut self, arguments: &str) -> Self {
        for argument in arguments.split_whitespace() {
            // A flag that is given again replaces the one before.
            let before = self
                .arguments
                .iter()
                .position(|given| argument.starts_with("--") && given == argument);
            if let Some(at) = before {
                self.arguments.drain(at..at + 2);
            }
            self.arguments.push(argument.into());
        }
        self
    }

    /// More arguments, which may be given more than once.
    #[must_use]
    pub fn with_more(mut self, arguments: &str) -> Self {
        self.arguments
            .extend(arguments.split_whitespace().map(OsString::from));
        self
    }

    /// More kernel parameters.
    #[must_use]
    pub fn parameters(mut self, parameters: &str) -> Self {
        self.parameters = format!("{} {parameters}", self.parameters);
        self
    }

    /// A script for init to run instead of a shell; the guest powers off behind it. Short, as it travels on the kernel's
    /// command line.
    #[must_use]
    pub fn script(self, script: &str) -> Self {
        self.parameters(&format!("ampoule.run={}", base64(script.as_bytes())))
    }

    /// The launch, for tests that want more of it.
    pub fn launch(self) -> Launch {
        Launch::run(self.command_line())
    }

    /// What `ampoule run` is given.
    pub fn command_line(self) -> Vec<OsString> {
        let options = [
            ("--kernel", self.kernel.path().into_os_string()),
            ("--initrd", self.initrd.path().into_os_string()),
            ("--cmdline", self.parameters.into()),
        ];
        let options = options
            .into_iter()
            .flat_map(|(flag, value)| [flag.into(), value]);
        self.arguments.into_iter().chain(options).collect()
    }

    /// Starts it.
    pub fn start(self) -> Guest {
        self.launch().start()
    }

    /// Starts it on a terminal.
    pub fn on_terminal(self) -> (Guest, Terminal) {
        self.launch().on_terminal()
    }

    /// Starts it and waits for its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }

    /// Runs it to a power-off, and gives what it printed.
    ///
    /// # Panics
    /// When it ends in another way.
    pub fn report(self) -> Report {
        let finished = self.run();
        let report = Report::of(&finished);
        assert_eq!(
            finished.code, 0,
            "{}\n---\n{}",
            report.text, finished.stderr
        );
        report
    }
}

/// What a script printed.
#[derive(Debug)]
pub struct Report {
    text: String,
    /// What `ampoule` said.
    pub stderr: String,
}

impl Report {
    /// That of a guest that has ended.
    pub fn of(finished: &Finished) -> Self {
        Self {
            // The console's terminal ends lines as terminals do.
            text: finished.console().replace('\r', ""),
            stderr: finished.stderr.clone(),
        }
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What follows `KEY=` at the start of a line.
    ///
    /// # Panics
    /// When there is no such line.
    pub fn value(&self, key: &str) -> &str {
        let found = self
            .text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("the guest told no {key}:\n{}", self.text))
    }

    /// What follows `KEY=` as a number.
    ///
    /// # Panics
    /// When there is no such line, or no number in it.
    pub fn number(&self, key: &str) -> u64 {
        let value = self.value(key);
        let number = value.parse();
        number.unwrap_or_else(|_| panic!("{key} is {value}, no number"))
    }

    /// The lines between `<NAME` and `>NAME`.
    ///
    /// # Panics
    /// When there are no such lines.
    pub fn section(&self, name: &str) -> Vec<&str> {
        let mut lines = self
            .text
            .lines()
            .skip_while(|line| *line != format!("<{name}"));
        assert!(
            lines.next().is_some(),
            "the guest told no {name}:\n{}",
            self.text
        );
        let end = format!(">{name}");
        lines.take_while(|line| **line != end).collect()
    }
}

/// Prints the whole machine as the kernel sees it, for [`Report`].
pub const MACHINE: &str = "\
echo release=$(uname -r)
echo cpus=$(nproc)
echo total=$(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)
echo clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo \"<iomem\"; cat /proc/iomem; echo \">iomem\"
echo \"<dmesg\"; dmesg; echo \">dmesg\"";

/// A parameter for guests whose kernel's log shall hold no complaint: the lab's emulated processor does not tell KVM when
/// a guest enables parts of its extended state, so that the kernel finds their size inconsistent.
pub const WITHOUT_THE_LABS_QUIRK: &str = "noxsave";

impl Report {
    /// What the kernel's log, printed by [`MACHINE`], complains of.
    pub fn complaints(&self) -> Vec<&str> {
        const COMPLAINTS: [&str; 8] = [
            "BUG:",
            "WARNING:",
            "ACPI Error",
            "ACPI Warning",
            "ACPI BIOS",
            "Call Trace",
            "timer doesn't work",
            "soft lockup",
        ];
        let log = self.section("dmesg").into_iter();
        log.filter(|line| COMPLAINTS.iter().any(|words| line.contains(words)))
            .collect()
    }

    /// Where there is RAM, as (first, last) address, by `/proc/iomem`.
    pub fn ram(&self) -> Vec<(u64, u64)> {
        let parse = |text| u64::from_str_radix(text, 16).ok();
        let ram = self.section("iomem").into_iter();
        ram.filter_map(|line| line.strip_suffix(" : System RAM"))
            .map(|range| {
                let ends = range.split_once('-');
                let ends = ends.and_then(|(first, last)| Some((parse(first)?, parse(last)?)));
                ends.unwrap_or_else(|| panic!("{range} is no range"))
            })
            .collect()
    }

    /// Checks that the kernel found `mib` MiB of RAM: in one range up to 3 GiB, and what is more from 4 GiB on.
    ///
    /// # Panics
    /// When it did not.
    pub fn assert_has_memory(&self, mib: u64) {
        const MIB: u64 = 1 << 20;
        let low = mib.min(3 << 10);
        // The first page is where the kernel keeps what firmware left; the end of the first MiB is what firmware keeps.
        let mut ranges = vec![(0x1000, 0x9_fbff), (MIB, low * MIB - 1)];
        if mib > low {
            ranges.push((4096 * MIB, (4096 + mib - low) * MIB - 1));
        }
        assert_eq!(self.ram(), ranges);
        // It takes 50 to 250 MiB for itself.
        let total = self.number("total") / 1024;
        assert!(
            total < mib && total >= mib - mib / 20 - 60,
            "{total} of {mib} MiB"
        );
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        (0..4)
            .map(move |place| match place <= chunk.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]),
                false => '=',
            })
            .collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_travel_as_base64() {
        for (text, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("\u{ff}~", "w79+"),
        ] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }

    #[test]
    fn a_flag_given_again_replaces_the_first() {
        let arguments = linux().with("--cpus 2 --memory 1G").arguments;
        assert_eq!(arguments, ["--cpus", "2", "--memory", "1G"]);
    }

    #[test]
    fn a_report_has_values_and_sections() {
        let finished = Finished {
            code: 0,
            stdout: b"a=1\r\n<s\r\nx\r\n>s\r\n".into(),
            stderr: String::new(),
        };
        let report = Report::of(&finished);
        assert_eq!((report.number("a"), report.section("s")), (1, vec!["x"]));
    }
}
