//! The programs that are measured, each at its documented best, and how each is asked for the same guest.
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::elf::Then;

/// Bytes of RAM of every guest here.
pub const MEMORY_MIB: u64 = 128;

/// Whose command line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The program that this is all about.
    Ampoule,
    /// The bare ioctls: no monitor, a bound.
    Floor,
    /// <https://firecracker-microvm.github.io>
    Firecracker,
    /// <https://www.cloudhypervisor.org>
    CloudHypervisor,
    /// QEMU's machine for micro-VMs.
    Qemu,
}

/// A program to measure.
#[derive(Clone, Debug)]
pub struct Program {
    /// As tables call it.
    pub name: String,
    /// Whose command line it takes.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
    /// What it says of its version.
    pub version: String,
}

/// What a network card is on.
#[derive(Clone, Debug)]
pub enum Net {
    /// A TAP interface.
    Tap {
        /// Its name.
        name: String,
        /// Whether the host's kernel moves the frames, for those that can leave it to that.
        vhost: bool,
    },
    /// A network of the monitor's own, with this host's loopback behind its gateway.
    User,
    /// A passt that waits at this socket.
    Passt(PathBuf),
}

impl Net {
    fn tap(&self) -> Option<&str> {
        match self {
            Self::Tap { name, .. } => Some(name),
            Self::User | Self::Passt(_) => None,
        }
    }
}

/// Has QEMU name its threads, so that its vCPUs can be told from the others.
const NAMED_THREADS: [&str; 2] = ["-name", "guest,debug-threads=on"];
/// The address of every guest's card.
const MAC: &str = "06:00:0a:09:00:02";
/// Every guest's context id.
pub const CID: u32 = 3;

/// A guest to ask for.
#[derive(Clone, Debug)]
pub struct Guest {
    /// An ELF image; for us also a bzImage.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// vCPUs.
    pub cpus: u32,
    /// A raw image, for it to write to.
    pub disk: Option<PathBuf>,
    /// A network card.
    pub net: Option<Net>,
    /// A socket to the host: where the unix socket is made, for those that have one.
    pub vsock: Option<PathBuf>,
    /// Whether it has a balloon, of no size.
    pub balloon: bool,
    /// How it finds its devices, where that can be chosen.
    pub transport: Option<&'static str>,
    /// A script for its init to run (`ampoule.run=`).
    pub script: Option<String>,
}

impl Guest {
    /// A guest without more.
    pub fn new(kernel: PathBuf, initrd: Option<PathBuf>, cpus: u32) -> Self {
        Self {
            kernel,
            initrd,
            cpus,
            disk: None,
            net: None,
            vsock: None,
            balloon: false,
            transport: None,
            script: None,
        }
    }

    fn parameters(&self, kind: Kind) -> String {
        let mut parameters = kind.linux_parameters();
        if let Some(script) = &self.script {
            parameters.push_str(&format!(" ampoule.run={}", base64(script.as_bytes())));
        }
        parameters
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = [0, 1, 2].map(|index| u32::from(chunk.get(index).copied().unwrap_or(0)));
        let word = word[0] << 16 | word[1] << 8 | word[2];
        for (digit, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let value = usize::try_from(word >> shift & 63).unwrap_or(0);
            text.push(if digit <= chunk.len() {
                char::from(DIGITS[value])
            } else {
                '='
            });
        }
    }
    text
}

/// Linux's parameters, the same for everyone: what is ours by default. Each monitor's own manual adds to it, below.
const LINUX: &str = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on 8250.nr_uarts=1";

impl Kind {
    /// How a guest ends this monitor's process at once.
    pub fn ends_by(self) -> Then {
        match self {
            Self::Ampoule | Self::Firecracker | Self::Floor => Then::KeyboardReset,
            // A reset makes it start the guest again.
            Self::CloudHypervisor => Then::PowerOff,
            // A microvm has no keyboard controller; with -no-reboot a triple fault ends it.
            Self::Qemu => Then::TripleFault,
        }
    }

    fn linux_parameters(self) -> String {
        let own = match self {
            Self::Ampoule | Self::Floor => return "quiet".into(),
            // docs/getting-started.md, and the keyboard's parameters of the default command line.
            Self::Firecracker => "reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd",
            Self::CloudHypervisor => "reboot=a",
            // docs/system/i386/microvm: there is no keyboard controller to reset by.
            Self::Qemu => "reboot=t",
        };
        format!("{LINUX} {own}")
    }
}

impl Program {
    /// The command that starts `guest`, its serial port on standard output, its sandbox as strict as its manual has it.
    ///
    /// # Errors
    /// When a configuration file cannot be written below `work`.
    pub fn command(&self, guest: &Guest, work: &Path) -> io::Result<Command> {
        let mut command = Command::new(&self.path);
        let memory = MEMORY_MIB.to_string();
        let cpus = guest.cpus.to_string();
        match self.kind {
            Kind::Floor => {}
            Kind::Ampoule => {
                // The sandbox is on by default.
                command
                    .arg("run")
                    .arg("--kernel")
                    .arg(&guest.kernel)
                    .args(["--memory", &memory, "--cpus", &cpus]);
                if let Some(initrd) = &guest.initrd {
                    command
                        .arg("--initrd")
                        .arg(initrd)
                        .args(["--cmdline", &guest.parameters(self.kind)]);
                }
                if let Some(disk) = &guest.disk {
                    command.arg("--disk").arg(disk);
                }
                let net = match &guest.net {
                    None | Some(Net::Passt(_)) => "none".into(),
                    Some(Net::User) => format!("user,mac={MAC}"),
                    Some(Net::Tap { name, .. }) => format!("tap={name},mac={MAC}"),
                };
                command.args(["--net", &net]);
                if matches!(guest.net, Some(Net::User)) {
                    command.args(["--egress", "allow", "--egress", "allow=127.0.0.0/8"]);
                }
                if let Some(vsock) = &guest.vsock {
                    command.args(["--vsock", &format!("{CID},{}", vsock.display())]);
                }
                if guest.balloon {
                    command.args(["--balloon", "0"]);
                }
                if let Some(transport) = guest.transport {
                    command.args(["--transport", transport]);
                }
            }
            Kind::Firecracker => {
                // Its seccomp filters are on by default.
                command
                    .arg("--no-api")
                    .arg("--config-file")
                    .arg(self.firecracker_definition(guest, work)?);
            }
            Kind::CloudHypervisor => {
                // Its seccomp filters are on by default.
                command.arg("--kernel").arg(&guest.kernel);
                command.args([
                    "--cpus",
                    &format!("boot={cpus}"),
                    "--memory",
                    &format!("size={memory}M"),
                ]);
                command.args(["--serial", "tty", "--console", "off"]);
                if let Some(initrd) = &guest.initrd {
                    command
                        .arg("--initramfs")
                        .arg(initrd)
                        .args(["--cmdline", &guest.parameters(self.kind)]);
                }
                if let Some(disk) = &guest.disk {
                    // It uses io_uring where the host has it.
                    command
                        .arg("--disk")
                        .arg(format!("path={}", disk.display()));
                }
                if let Some(tap) = guest.net.as_ref().and_then(Net::tap) {
                    command.args(["--net", &format!("tap={tap},mac={MAC}")]);
                }
                if let Some(vsock) = &guest.vsock {
                    command.args(["--vsock", &format!("cid={CID},socket={}", vsock.display())]);
                }
                if guest.balloon {
                    command.args(["--balloon", "size=0"]);
                }
            }
            Kind::Qemu => {
                command.args([
                    "-M",
                    "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on",
                ]);
                command.args(["-cpu", "host", "-smp", &cpus, "-m", &memory]);
                command.args([
                    "-nodefaults",
                    "-no-user-config",
                    "-display",
                    "none",
                    "-no-reboot",
                    "-serial",
                    "stdio",
                ]);
                command.args([
                    "-sandbox",
                    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                ]);
                command.arg("-kernel").arg(&guest.kernel);
                if let Some(initrd) = &guest.initrd {
                    command
                        .arg("-initrd")
                        .arg(initrd)
                        .args(["-append", &guest.parameters(self.kind)]);
                }
                if let Some(disk) = &guest.disk {
                    command.args(["-object", "iothread,id=io", "-drive"]);
                    command.arg(format!(
                        "id=disk,if=none,format=raw,aio=io_uring,cache=writeback,file={}",
                        disk.display()
                    ));
                    command.args(["-device", "virtio-blk-device,drive=disk,iothread=io"]);
                }
                if let Some(net) = &guest.net {
                    command.args(NAMED_THREADS);
                    let behind = match net {
                        Net::Tap { name, vhost } => {
                            let vhost = if *vhost { "on" } else { "off" };
                            format!(
                                "tap,id=net,ifname={name},script=no,downscript=no,vhost={vhost}"
                            )
                        }
                        Net::User => "user,id=net".into(),
                        Net::Passt(socket) => format!(
                            "stream,id=net,server=off,addr.type=unix,addr.path={}",
                            socket.display()
                        ),
                    };
                    command.arg("-netdev").arg(behind);
                    command.args([
                        "-device",
                        &format!("virtio-net-device,netdev=net,mac={MAC}"),
                    ]);
                }
                if guest.vsock.is_some() {
                    command.args(NAMED_THREADS);
                    // It has no other than the host's kernel's, which wants a device of virtio 1.
                    command.args(["-global", "virtio-mmio.force-legacy=false"]);
                    command.args(["-device", &format!("vhost-vsock-device,guest-cid={CID}")]);
                }
                if guest.balloon {
                    command.args(["-device", "virtio-balloon-device"]);
                }
            }
        }
        Ok(command)
    }

    fn firecracker_definition(&self, guest: &Guest, work: &Path) -> io::Result<PathBuf> {
        let mut boot = json!({ "kernel_image_path": guest.kernel });
        if let Some(initrd) = &guest.initrd {
            boot["initrd_path"] = json!(initrd);
            boot["boot_args"] = json!(guest.parameters(self.kind));
        }
        let drives: Vec<_> = (guest.disk.iter())
            .map(|disk| {
                json!({
                    "drive_id": "disk", "path_on_host": disk, "is_root_device": false, "is_read_only": false,
                    "cache_type": "Writeback", "io_engine": "Async",
                })
            })
            .collect();
        let mut definition = json!({
            "boot-source": boot,
            "drives": drives,
            "machine-config": { "vcpu_count": guest.cpus, "mem_size_mib": MEMORY_MIB },
        });
        if let Some(tap) = guest.net.as_ref().and_then(Net::tap) {
            let card = json!({ "iface_id": "net", "host_dev_name": tap, "guest_mac": MAC });
            definition["network-interfaces"] = json!([card]);
        }
        if let Some(vsock) = &guest.vsock {
            definition["vsock"] = json!({ "guest_cid": CID, "uds_path": vsock });
        }
        if guest.balloon {
            definition["balloon"] = json!({ "amount_mib": 0, "deflate_on_oom": false });
        }
        let kernel = guest
            .kernel
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let path = work.join(format!(
            "firecracker-{kernel}-{}-{}.json",
            guest.initrd.is_some(),
            guest.cpus
        ));
        let definition = definition.to_string();
        // Written once: fifty launches read it while the next is prepared.
        if fs::read_to_string(&path).ok().as_ref() != Some(&definition) {
            fs::write(&path, definition)?;
        }
        Ok(path)
    }
}

/// What was looked for and is not here, or cannot do it: name and reason.
pub type Absent = (String, String);

/// Us, and the rivals on PATH.
///
/// # Errors
/// When our own program does not run.
pub fn find(ampoule: &Path) -> io::Result<(Vec<Program>, Vec<Absent>)> {
    let program = |name: &str, kind, path: PathBuf| {
        let version = version(&path)?;
        Ok::<_, io::Error>(Program {
            name: name.into(),
            kind,
            path,
            version,
        })
    };
    let mut found = vec![
        program("ampoule", Kind::Ampoule, ampoule.into())
            .map_err(|error| io::Error::other(format!("{}: {error}", ampoule.display())))?,
    ];
    let mut absent = Vec::new();
    for (name, file, kind) in [
        ("firecracker", "firecracker", Kind::Firecracker),
        (
            "cloud-hypervisor",
            "cloud-hypervisor",
            Kind::CloudHypervisor,
        ),
        ("qemu microvm", "qemu-system-x86_64", Kind::Qemu),
    ] {
        match on_path(file).map(|path| program(name, kind, path)) {
            Some(Ok(program)) => found.push(program),
            Some(Err(error)) => absent.push((name.into(), format!("it does not run: {error}"))),
            None => absent.push((name.into(), "not on PATH".into())),
        }
    }
    let reason = "it boots only the kernel that it carries, with an OCI image: none of the guests measured here";
    absent.push(("msb".into(), reason.into()));
    Ok((found, absent))
}

fn version(path: &Path) -> io::Result<String> {
    let output = Command::new(path).arg("--version").output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("--version: {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The program of that name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(kind: Kind, initrd: bool) -> String {
        let program = Program {
            name: String::new(),
            kind,
            path: "monitor".into(),
            version: String::new(),
        };
        let guest = Guest {
            disk: initrd.then(|| "/disk".into()),
            net: initrd.then(|| Net::Tap {
                name: "tap7".into(),
                vhost: false,
            }),
            vsock: initrd.then(|| "/vsock".into()),
            balloon: initrd,
            ..Guest::new("/k".into(), initrd.then(|| "/i".into()), 2)
        };
        let directory = tempfile::tempdir().unwrap();
        let command = program.command(&guest, directory.path()).unwrap();
        let mut text = String::new();
        for word in command.get_args() {
            let word = word.to_str().unwrap();
            text.push_str(word);
            text.push(' ');
            if word.ends_with(".json") {
                text.push_str(&fs::read_to_string(word).unwrap());
            }
        }
        text
    }

    #[test]
    fn everybody_gets_the_same_guest() {
        for kind in [
            Kind::Ampoule,
            Kind::Firecracker,
            Kind::CloudHypervisor,
            Kind::Qemu,
        ] {
            let line = words(kind, true);
            for part in [
                "/k", "/i", "128", "quiet", "/disk", "tap7", MAC, "vsock", "balloon",
            ] {
                assert!(line.contains(part), "{kind:?}: {part} in {line}");
            }
            assert!(line.contains('2'), "{line}");
            assert!(!words(kind, false).contains("/i"));
        }
    }

    #[test]
    fn scripts_travel_in_base64() {
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!(base64(b"\xff"), "/w==");
    }

    #[test]
    fn nobody_is_measured_without_a_sandbox() {
        assert!(words(Kind::Qemu, false).contains("-sandbox on"));
        for kind in [Kind::Ampoule, Kind::Firecracker, Kind::CloudHypervisor] {
            let line = words(kind, false);
            assert!(
                !line.contains("seccomp") && !line.contains("--sandbox"),
                "{line}"
            );
        }
    }
}
