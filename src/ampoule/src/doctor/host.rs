//! The host as the probes see it: files below a root directory, and system calls behind a trait.
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::report::Check;
use super::system::{RealSystem, System};
use crate::kernel_search;
use crate::paths::Paths;

pub(super) struct Host {
    /// What `/proc`, `/sys`, `/dev`, `/etc` and `/boot` are looked for below.
    pub(super) root: PathBuf,
    pub(super) system: Box<dyn System>,
    pub(super) paths: Paths,
    /// `$AMPOULE_KERNEL`
    pub(super) kernel_variable: Option<OsString>,
}

impl Host {
    pub(super) fn current() -> Self {
        Self {
            root: PathBuf::from("/"),
            system: Box::new(RealSystem),
            paths: Paths::current(),
            kernel_variable: std::env::var_os(kernel_search::VARIABLE),
        }
    }

    /// `path` is absolute.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// A file's text without the white space around it; `None` when it cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Opens a device to read and write, which is all that most of them ask for.
    pub(super) fn open_device(&self, path: &str) -> io::Result<()> {
        self.system.open_device(&self.path(path))
    }

    /// Whether this kernel takes modules at all.
    pub(super) fn takes_modules(&self) -> bool {
        self.exists("/proc/modules")
    }

    /// Adds the cure for a part of the kernel that is not there.
    pub(super) fn load(&self, check: Check, module: &str) -> Check {
        if self.takes_modules() {
            check.mend(format!("sudo modprobe {module}"))
        } else {
            check.advise(format!(
                "this kernel takes no modules: boot one that has {module}"
            ))
        }
    }

    pub(super) fn cpu(&self) -> Cpu {
        let text = self.read("/proc/cpuinfo").unwrap_or_default();
        let value = |key: &str| {
            let line = text
                .lines()
                .find(|line| line.split(':').next().map(str::trim) == Some(key));
            line.and_then(|line| line.split_once(':'))
                .map_or("", |(_, value)| value.trim())
        };
        let flags: Vec<&str> = value("flags").split_whitespace().collect();
        Cpu {
            vmx: flags.contains(&"vmx"),
            svm: flags.contains(&"svm"),
            is_virtual: flags.contains(&"hypervisor"),
            is_amd: ["AuthenticAMD", "HygonGenuine"].contains(&value("vendor_id")),
        }
    }

    /// The name of the group with this ID.
    pub(super) fn group_name(&self, gid: u32) -> Option<String> {
        let text = self.read("/etc/group")?;
        let line = text.lines().find(|line| {
            line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(gid)
        })?;
        line.split(':').next().map(ToOwned::to_owned)
    }

    pub(super) fn has_group(&self, name: &str) -> bool {
        self.read("/etc/group").is_some_and(|text| {
            text.lines()
                .any(|line| line.split(':').next() == Some(name))
        })
    }

    /// Whether the group database lists this user as a member of `group`.
    pub(super) fn user_is_listed_in(&self, group: &str) -> bool {
        let (Some(passwd), Some(groups)) = (self.read("/etc/passwd"), self.read("/etc/group"))
        else {
            return false;
        };
        let uid = self.system.uid().to_string();
        let Some(user) = passwd
            .lines()
            .find(|line| line.split(':').nth(2) == Some(&uid))
            .and_then(|line| line.split(':').next())
        else {
            return false;
        };
        groups
            .lines()
            .filter(|line| line.split(':').next() == Some(group))
            .filter_map(|line| line.split(':').nth(3))
            .any(|members| members.split(',').any(|member| member == user))
    }
}

/// What `/proc/cpuinfo` says of the first processor. The kernel leaves `vmx` out when the firmware has turned it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) vmx: bool,
    pub(super) svm: bool,
    /// It runs in a virtual machine itself.
    pub(super) is_virtual: bool,
    pub(super) is_amd: bool,
}

impl Cpu {
    pub(super) fn has_hardware(self) -> bool {
        self.vmx || self.svm
    }

    /// The KVM module that goes with this processor.
    pub(super) fn module(self) -> &'static str {
        if self.svm || (self.is_amd && !self.vmx) {
            "kvm_amd"
        } else {
            "kvm_intel"
        }
    }
}

/// An error's text without the number that Rust appends.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// How to reach a file from a shell.
pub(super) fn word(path: &Path) -> String {
    crate::paths::shell_word(path)
}
