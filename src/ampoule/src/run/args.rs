//! The flags of `ampoule run`, and the definition that they make, alone or over a file.
use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use vmm::config::{
    BootSource, Definition, EgressRule, Entry, HugePages, MachineConfig, OnReboot, Publish,
    Transport, ValueError, size,
};

use super::{
    balloon::BalloonArg,
    disk::DiskArg,
    net::{CardArg, NetArg},
    vsock::VsockArg,
};
use crate::{definition, failure::Failure};

/// Boot a guest and attach to its serial console.
///
/// The guest runs in this process, inside a sandbox, until it powers off. What it prints goes to stdout; everything that
/// ampoule itself has to say goes to stderr.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = AFTER_HELP)]
pub struct RunArgs {
    /// Kernel to boot: a bzImage (/boot/vmlinuz-*) or an ELF vmlinux
    ///
    /// Without it: $AMPOULE_KERNEL, then the newest in $XDG_DATA_HOME/ampoule/kernel/, then the newest readable
    /// /boot/vmlinuz-*, cloud flavours first. -v prints the search.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk
    ///
    /// Without it, a machine with disks gets one that is made of the kernel's modules, if it has its drivers there.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Arguments for the kernel, merged over fast defaults; yours win
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// Number of virtual CPUs, 1 to 254 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub cpus: Option<u32>,

    /// Memory: 512, 512M, 2GiB; a bare number is MiB [default: 512M]
    #[arg(long, short, value_name = "SIZE", value_parser = memory, allow_negative_numbers = true)]
    pub memory: Option<u64>,

    /// Disk: a raw image or block device; may be repeated
    ///
    /// Options follow the path, after commas: ro, format=raw, cache=writeback, writethrough, none or unsafe, id=ID,
    /// serial=SERIAL, queues=N. The first disk is the root file system, unless --initrd, a root= in --cmdline or a root device
    /// in --config says otherwise.
    #[arg(long, value_name = "PATH[,OPTION…]")]
    pub disk: Vec<DiskArg>,

    /// Balloon: memory that the guest is asked to give back
    ///
    /// Options follow the size, after commas: deflate_on_oom (the guest may take it back before it kills a program),
    /// free_page_reporting (it gives back what becomes free, unasked; with a size of 0 that alone), free_page_hinting (it does so when
    /// asked to by --api-sock), stats_polling_interval_s=N.
    #[arg(long, value_name = "SIZE[,OPTION…]")]
    pub balloon: Option<BalloonArg>,

    /// Network card: user (what the guest sends becomes sockets of this user's), none, or on a TAP interface; may be repeated [default:
    /// user, without --config]
    ///
    /// Options follow, after commas: mac=ADDRESS, mtu=N, id=ID.
    /// user needs no privilege and no set-up: the guest gets its address by DHCP, reaches what --egress lets it, and is reached by
    /// --publish; with flows=N, connections at once. tap=NAME: with queues=N (pairs, each with a thread; the TAP must have
    /// multi_queue). A TAP that does not exist is made, with the privilege to do so, and is gone at the end; to make one for this
    /// user: sudo ip tuntap add dev tap0 mode tap user $USER && sudo ip link set tap0 up
    #[arg(
        long,
        visible_alias = "network",
        value_name = "user|none|tap=NAME[,OPTION…]"
    )]
    pub net: Vec<NetArg>,

    /// Port of this host that leads to one of the guest's, by --net user; may be repeated
    ///
    /// 2222:22 is TCP port 2222 of 127.0.0.1, for this host alone (Docker's is for everybody: 0.0.0.0:2222:22). 0:22 picks a port and
    /// prints it; 8000-8010:80-90 is a range; 53:53/udp are datagrams.
    #[arg(long, short, value_name = "[ADDRESS:]HOST:GUEST[/tcp|udp]", value_parser = named::<Publish>)]
    pub publish: Vec<Publish>,

    /// What the guest may reach by --net user; may be repeated
    ///
    /// allow (the default) or deny all; allow=TARGET alone denies all else; deny=TARGET; log shows what was denied. TARGET is a network
    /// (10.0.0.0/8), or a name (example.org, *.example.org), with :PORT, :FIRST-LAST, /tcp or /udp behind it. This host's
    /// loopback (10.0.2.2 in the guest), link-local and metadata addresses are denied unless a rule is about them:
    /// --egress allow --egress allow=127.0.0.1:5432.
    #[arg(long, value_name = "RULE", value_parser = named::<EgressRule>)]
    pub egress: Vec<EgressRule>,

    /// Who resolves names for the guest by --net user; may be repeated [default: this host's resolvers]
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,

    /// Socket between host and guest: the guest's context id, from 3 on, and where the unix socket is made
    ///
    /// A client on the host connects to PATH and says "CONNECT PORT"; "OK ..." is the guest's answer. What the guest connects to (host is
    /// 2) is the socket PATH_PORT. Without a PATH it is vsock-CID.sock in this user's directory for running guests.
    #[arg(long, value_name = "CID[,PATH]")]
    pub vsock: Option<VsockArg>,

    /// How the guest finds its devices: at addresses that ACPI tells, or on a PCI bus [default: auto]
    ///
    /// auto is pci where the kernel's modules have a driver for it, and the initial RAM disk is made of them. With pci=off in the
    /// kernel's arguments it is mmio.
    #[arg(long, value_name = "auto|mmio|pci", value_parser = named::<Transport>)]
    pub transport: Option<Transport>,

    /// VM definition (JSON, Firecracker's format and more); flags override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How the kernel is entered [default: auto]
    ///
    /// bzimage lets a bzImage unpack itself in the guest: slower, but the guest gets address space randomisation (KASLR)
    /// for its kernel.
    #[arg(long, value_name = "auto|linux64|pvh|bzimage", value_parser = named::<Entry>)]
    pub entry: Option<Entry>,

    /// Pages that back guest memory [default: None]
    #[arg(long, value_name = "None|Transparent|2M", value_parser = named::<HugePages>)]
    pub huge_pages: Option<HugePages>,

    /// Put guest memory into a memfd, which other processes can share
    #[arg(long)]
    pub shared_memory: bool,

    /// What to do when the guest reboots [default: exit]
    #[arg(long, value_name = "exit|restart", value_parser = named::<OnReboot>)]
    pub on_reboot: Option<OnReboot>,

    /// Seconds that a guest may take to power off when asked to, before it is killed [default: 10]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub stop_timeout: Option<u32>,

    /// Serve Firecracker's HTTP API on a unix socket at PATH, for this user alone
    ///
    /// curl --unix-socket PATH http://localhost/ tells the guest's state; with
    /// -X PATCH http://localhost/vm -d '{"state": "Paused"}' it stands still. Drives are resized, replaced and limited by
    /// PATCH /drives/ID. PATH is made; a socket that a guest before left there is replaced.
    #[arg(long, value_name = "PATH")]
    pub api_sock: Option<PathBuf>,

    /// Confine this process before the guest runs; off is for debugging ampoule itself
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = switch)]
    pub sandbox: Switch,

    /// Print where the launch's time went, or write it to FILE as JSON
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub timeline: Option<Option<PathBuf>>,

    /// Say what is found and done
    #[arg(long, short)]
    pub verbose: bool,
}

const AFTER_HELP: &str = "\
On a terminal: Ctrl-A x quits, Ctrl-A h helps, Ctrl-A Ctrl-A sends one Ctrl-A.
SIGTERM and SIGINT press the guest's power button; a second one, or the time-out, kills it.

Exit codes: 0 the guest powered off or rebooted; 125 ampoule refused or failed, or the guest
crashed; 137 the guest was killed.

Examples:
  ampoule run --initrd initrd.img                       newest kernel found
  ampoule run --kernel vmlinuz --initrd initrd.img --cpus 2 --memory 1G
  echo 'poweroff -f' | ampoule run --initrd initrd.img > boot.log
  ampoule run --config vm.json --cmdline 'debug'
  ampoule run --config vm.json --api-sock vm.sock       Firecracker's API, while it runs";

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// On.
    #[default]
    On,
    /// Off.
    Off,
}

fn switch(text: &str) -> Result<Switch, String> {
    match text {
        "on" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        _ => Err("expected on or off".into()),
    }
}

fn memory(text: &str) -> Result<u64, String> {
    size::parse_mib(text).map_err(|error| error.to_string())
}

fn named<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Memory of a guest that nobody gave any, in MiB. A definition without a size gets Firecracker's instead.
const DEFAULT_MEMORY_MIB: u64 = 512;

/// Stands for a kernel while all else is checked.
const TO_BE_FOUND: &str = "(to be found)";

impl RunArgs {
    /// The definition: the file's, or an empty one for the kernel that `find_kernel` gives; with the flags over it, and
    /// checked.
    ///
    /// # Errors
    /// Whatever the file or the values are refused for, and what `find_kernel` says.
    pub fn definition(
        &self,
        find_kernel: impl FnOnce() -> Result<PathBuf, Failure>,
    ) -> Result<Definition, Failure> {
        let mut definition = match &self.config {
            Some(path) => definition::read(path).map_err(|error| match error.position() {
                Some(_) => Failure::at_place(error),
                None => Failure::at_place(format_args!("ampoule: {error}")),
            })?,
            None => {
                let mut definition = Definition::new(BootSource::new(TO_BE_FOUND));
                definition.machine_config = MachineConfig {
                    mem_size_mib: DEFAULT_MEMORY_MIB,
                    ..MachineConfig::default()
                };
                definition
            }
        };
        self.override_in(&mut definition);
        self.check_network(&definition)?;
        definition.validate().map_err(|errors| refusal(&errors))?;
        // Looked for last: who mistyped a number should not be told to install a kernel first.
        if self.config.is_none() {
            definition.boot_source.kernel_image_path = find_kernel()?;
        }
        Ok(definition)
    }

    /// Flags that are about a network of the guest's own want one.
    fn check_network(&self, definition: &Definition) -> Result<(), Failure> {
        let flags = [
            ("--publish", self.publish.is_empty()),
            ("--egress", self.egress.is_empty()),
            ("--dns", self.dns.is_empty()),
        ];
        let given = flags.iter().find(|(_, absent)| !absent);
        let mut interfaces = definition.network_interfaces.iter();
        match given {
            Some((flag, _)) if !interfaces.any(|interface| interface.user.is_some()) => {
                let why = "there is no card with a network of its own for it";
                Err(Failure::new(flag, why).hint("--net user"))
            }
            _ => Ok(()),
        }
    }

    fn override_in(&self, definition: &mut Definition) {
        fn put<T: Clone>(value: &mut T, flag: Option<&T>) {
            if let Some(flag) = flag {
                *value = flag.clone();
            }
        }
        let boot = &mut definition.boot_source;
        put(&mut boot.kernel_image_path, self.kernel.as_ref());
        put(&mut boot.entry, self.entry.as_ref());
        if self.initrd.is_some() {
            boot.initrd_path.clone_from(&self.initrd);
        }
        if self.cmdline.is_some() {
            boot.boot_args.clone_from(&self.cmdline);
        }
        let machine = &mut definition.machine_config;
        put(&mut machine.vcpu_count, self.cpus.as_ref());
        put(&mut machine.mem_size_mib, self.memory.as_ref());
        put(&mut machine.huge_pages, self.huge_pages.as_ref());
        put(&mut machine.transport, self.transport.as_ref());
        machine.shared_memory |= self.shared_memory;
        self.add_disks(definition);
        self.add_cards(definition);
        if let Some(BalloonArg(balloon)) = self.balloon {
            definition.balloon = Some(balloon);
        }
        if let Some(vsock) = &self.vsock {
            definition.vsock = Some(vsock.definition());
        }
        put(&mut definition.lifecycle.on_reboot, self.on_reboot.as_ref());
        put(
            &mut definition.lifecycle.stop_timeout_s,
            self.stop_timeout.as_ref(),
        );
    }

    /// Whether a guest gets a network of its own though nobody asked for a card: unless a file says what it is, and no flag is about it.
    fn wants_network(&self, definition: &Definition) -> bool {
        let mut interfaces = definition.network_interfaces.iter();
        let there = interfaces.any(|interface| interface.user.is_some());
        let about_it = !(self.publish.is_empty() && self.egress.is_empty() && self.dns.is_empty());
        !there && (about_it || self.config.is_none())
    }

    /// Adds the cards to the definition's.
    fn add_cards(&self, definition: &mut Definition) {
        let first = definition.network_interfaces.len();
        let cards = self.net.iter().filter_map(|net| match net {
            NetArg::None => None,
            NetArg::Card(card) => Some(card),
        });
        let own = cards.zip(first..);
        (definition.network_interfaces).extend(own.map(|(card, index)| card.interface(index)));
        if self.net.is_empty() && self.wants_network(definition) {
            let index = definition.network_interfaces.len();
            let card = CardArg::default().interface(index);
            definition.network_interfaces.push(card);
        }
        let mut interfaces = definition.network_interfaces.iter_mut();
        if let Some(user) = interfaces.find_map(|interface| interface.user.as_mut()) {
            user.publish.extend(self.publish.iter().cloned());
            user.egress.extend(self.egress.iter().cloned());
            user.dns.extend(&self.dns);
        }
    }

    /// Adds the disks to the definition's. The first is the root where nothing else is.
    fn add_disks(&self, definition: &mut Definition) {
        let is_root =
            definition.boot_source.initrd_path.is_none() && definition.root_drive().is_none();
        let first = definition.drives.len();
        let own = self.disk.iter().zip(first..);
        (definition.drives).extend(own.map(|(disk, index)| disk.drive(index)));
        if let Some(drive) = definition.drives.get_mut(first) {
            drive.is_root_device = is_root;
        }
    }
}

/// A file's values were checked with their places before flags came over them: what is wrong now came by a flag.
fn refusal(errors: &[ValueError]) -> Failure {
    match errors.first() {
        Some(error) => {
            let keys = error.path.keys();
            let what = definition::flag_of(&keys).unwrap_or_else(|| error.path.to_string());
            Failure::new(what, &error.reason)
        }
        None => Failure::new("the definition", "it is refused"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(clap::Parser, Debug)]
    struct Program {
        #[command(flatten)]
        run: RunArgs,
    }

    fn definition(flags: &[&str]) -> Result<Definition, String> {
        let parsed = <Program as clap::Parser>::try_parse_from([&["run"], flags].concat());
        let args = parsed.map_err(|error| error.to_string())?.run;
        args.definition(|| Ok("/found".into()))
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn without_flags_there_is_one_cpu_and_half_a_gibibyte() {
        let definition = definition(&[]).unwrap();
        assert_eq!(
            definition.boot_source.kernel_image_path,
            PathBuf::from("/found")
        );
        assert_eq!(definition.machine_config.vcpu_count, 1);
        assert_eq!(definition.machine_config.mem_size_mib, 512);
    }

    #[test]
    fn a_network_is_there_unless_somebody_says_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            r#"{"boot-source": {"kernel_image_path": "k"}}"#,
        )
        .unwrap();
        let config = file.path().to_str().unwrap();
        let cards = |flags: &[&str]| {
            let definition = definition(flags)?;
            let cards = definition.network_interfaces.into_iter();
            Ok::<_, String>(cards.map(|card| card.user.is_some()).collect::<Vec<_>>())
        };
        assert_eq!(cards(&[]), Ok(vec![true]));
        assert_eq!(cards(&["--net", "none"]), Ok(vec![]));
        assert_eq!(cards(&["--net", "tap=t"]), Ok(vec![false]));
        assert_eq!(
            cards(&["--net", "tap=t", "--net", "user"]),
            Ok(vec![false, true])
        );
        assert_eq!(cards(&["--config", config]), Ok(vec![]));
        assert_eq!(
            cards(&["--config", config, "-p", "2222:22"]),
            Ok(vec![true])
        );
        for net in ["none", "tap=t"] {
            let refused = cards(&["--net", net, "--egress", "deny"]).unwrap_err();
            assert!(refused.contains("(hint: --net user)"), "{refused}");
        }
        let two = cards(&["--net", "user", "--net", "user"]).unwrap_err();
        assert!(two.contains("one card with `user`"), "{two}");
    }

    #[test]
    fn flags_override_the_file_and_leave_the_rest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"boot-source": {"kernel_image_path": "k", "boot_args": "quiet"}, "machine-config": {"vcpu_count": 4, "mem_size_mib": 64}}"#;
        std::fs::write(file.path(), text).unwrap();
        let config = file.path().to_str().unwrap();
        let definition =
            definition(&["--config", config, "--cpus", "2", "--kernel", "other"]).unwrap();
        assert_eq!(definition.machine_config.vcpu_count, 2);
        assert_eq!(definition.machine_config.mem_size_mib, 64);
        assert_eq!(
            definition.boot_source.kernel_image_path,
            PathBuf::from("other")
        );
        assert_eq!(definition.boot_source.boot_args.as_deref(), Some("quiet"));
    }

    #[test]
    fn impossible_values_are_refused_by_the_flag_that_gave_them() {
        for (flags, start) in [
            (["--cpus", "0"], "ampoule: --cpus: "),
            (["--cpus", "255"], "ampoule: --cpus: "),
            (["--memory", "31"], "ampoule: --memory: "),
            (["--memory", "1000T"], "ampoule: --memory: "),
        ] {
            let error = definition(&flags).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
        assert!(
            definition(&["--memory", "lots"])
                .unwrap_err()
                .contains("--memory")
        );
    }

    #[test]
    fn a_wrong_number_is_told_before_a_missing_kernel() {
        let args = RunArgs {
            cpus: Some(0),
            ..RunArgs::default()
        };
        let error = args.definition(|| Err(Failure::new("no guest kernel", "none")));
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("ampoule: --cpus: "), "{error}");
    }

    #[test]
    fn every_flag_that_the_reference_names_exists() {
        let command = Program::command();
        let known: Vec<_> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .collect();
        for line in definition::SCHEMA.lines() {
            if let Some(flag) = line.trim().strip_prefix(r#""x-flag": "--"#) {
                let flag = flag.trim_end_matches(['"', ',']);
                assert!(known.contains(&flag), "--{flag} is in the schema only");
            }
        }
    }
}
