//! Hosts made of fixture files and chosen answers.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::examine;
use super::host::Host;
use super::kvm::{API_VERSION, KvmFacts};
use super::report::{Check, Report};
use super::system::System;
use crate::paths::{Environment, Paths};

/// What the system calls answer; an error is an `errno`.
#[derive(Clone)]
pub(super) struct FakeSystem {
    pub(super) uid: u32,
    pub(super) machine: &'static str,
    pub(super) release: &'static str,
    pub(super) kvm: Result<KvmFacts, i32>,
    pub(super) landlock_abi: Result<u32, i32>,
    pub(super) user_namespace: Result<(), i32>,
    pub(super) io_uring: Result<(), i32>,
    /// Devices that do not open.
    pub(super) forbidden: Vec<String>,
    /// Files and directories that this user may write.
    pub(super) writable: Vec<String>,
    root: PathBuf,
}

impl FakeSystem {
    fn contains(&self, list: &[String], path: &Path) -> bool {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        list.iter()
            .any(|entry| Path::new(entry.trim_start_matches('/')) == inside)
    }
}

fn answer<T: Clone>(answer: &Result<T, i32>) -> io::Result<T> {
    answer.clone().map_err(io::Error::from_raw_os_error)
}

impl System for FakeSystem {
    fn uid(&self) -> u32 {
        self.uid
    }

    fn machine(&self) -> String {
        self.machine.to_owned()
    }

    fn release(&self) -> String {
        self.release.to_owned()
    }

    fn open_device(&self, path: &Path) -> io::Result<()> {
        if self.contains(&self.forbidden, path) {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        fs::metadata(path).map(drop)
    }

    fn is_writable(&self, path: &Path) -> bool {
        self.contains(&self.writable, path)
    }

    fn kvm(&self, device: &Path) -> io::Result<KvmFacts> {
        fs::metadata(device)?;
        answer(&self.kvm)
    }

    fn landlock_abi(&self) -> io::Result<u32> {
        answer(&self.landlock_abi)
    }

    fn user_namespace(&self) -> io::Result<()> {
        answer(&self.user_namespace)
    }

    fn io_uring(&self) -> io::Result<()> {
        answer(&self.io_uring)
    }
}

pub(super) struct FakeHost {
    directory: tempfile::TempDir,
    system: FakeSystem,
}

impl FakeHost {
    /// An x86-64 host where everything that guests need works, used by user 1000.
    fn with_cpu(vendor: &str, flags: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let system = FakeSystem {
            uid: 1000,
            machine: "x86_64",
            release: "6.12.30",
            kvm: Ok(KvmFacts {
                api_version: API_VERSION,
                missing: Vec::new(),
                lacking: Vec::new(),
                max_vcpus: 1024,
                memory_slots: 32764,
                create_vm: Ok(()),
            }),
            landlock_abi: Ok(4),
            user_namespace: Ok(()),
            io_uring: Ok(()),
            forbidden: Vec::new(),
            writable: Vec::new(),
            root: directory.path().to_owned(),
        };
        let cpuinfo = format!(
            "processor\t: 0\nvendor_id\t: {vendor}\nvmx flags\t: ept\nflags\t\t: fpu {flags} lm\n\n"
        );
        Self { directory, system }
            .with_file("/proc/cpuinfo", &cpuinfo)
            .with_file(
                "/proc/sys/kernel/seccomp/actions_avail",
                "kill_process kill_thread errno allow\n",
            )
            .with_file("/proc/modules", "")
            .with_file("/dev/kvm", "")
            .with_file("/dev/net/tun", "")
    }

    pub(super) fn intel() -> Self {
        Self::with_cpu("GenuineIntel", "vmx")
            .with_file("/sys/module/kvm_intel/parameters/ept", "Y\n")
    }

    pub(super) fn amd() -> Self {
        Self::with_cpu("AuthenticAMD", "svm").with_file("/sys/module/kvm_amd/parameters/npt", "1\n")
    }

    /// A virtual machine whose KVM makes do without hardware.
    pub(super) fn paravirtual() -> Self {
        Self::with_cpu("GenuineIntel", "hypervisor")
            .with_file("/sys/module/kvm_pvm/parameters/force", "N\n")
    }

    pub(super) fn with_file(self, path: &str, text: &str) -> Self {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(super) fn without(self, path: &str) -> Self {
        fs::remove_file(self.root().join(path.trim_start_matches('/'))).unwrap();
        self
    }

    pub(super) fn with_system(mut self, change: impl FnOnce(&mut FakeSystem)) -> Self {
        change(&mut self.system);
        self
    }

    pub(super) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn report(&self) -> Report {
        // The state directory belongs to whoever runs the test.
        let paths = Paths::new(&Environment {
            runtime_dir: Some(self.root().join("run").into_os_string()),
            home: Some(self.root().join("home").into_os_string()),
            uid: rustix::process::geteuid().as_raw(),
            in_user_namespace: true,
            ..Environment::default()
        });
        examine(&Host {
            root: self.root().to_owned(),
            system: Box::new(self.system.clone()),
            paths,
            kernel_variable: None,
        })
    }

    pub(super) fn check(&self, id: &str) -> Check {
        let report = self.report();
        report
            .checks
            .into_iter()
            .find(|check| check.id == id)
            .unwrap()
    }
}
