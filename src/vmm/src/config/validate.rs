//! What must hold of a definition beyond its types.
use super::fields::whole_from;
use super::{
    BootSource, Definition, Drive, HugePages, MAX_DRIVES, MAX_MEM_SIZE_MIB, MAX_SERIAL, MAX_VCPUS,
    MIN_MEM_SIZE_MIB, MachineConfig, boot_args,
};
use std::path::Path;

/// A value that cannot be, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}`: {reason}", .path.join("."))]
pub struct ValueError {
    /// The keys that lead to the value, outermost first: `["machine-config", "vcpu_count"]`.
    pub path: &'static [&'static str],
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a value. Reads well after a key's name, or a flag's, and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Something else was expected.
    #[error("found {found}, expected {expected}")]
    Unfit {
        /// The value, as it would be written in JSON.
        found: String,
        /// What would have been taken.
        expected: String,
    },
    /// The key is Firecracker's, but what it asks for does not exist here.
    #[error("not supported yet")]
    NotYet,
    /// The kernel's command line cannot be made.
    #[error(transparent)]
    BootArgs(#[from] boot_args::BootArgsError),
}

impl Definition {
    /// Checks what the types cannot: ranges (of values that no file gave), keys that depend on each other, and parts that
    /// do not exist yet.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the keys.
    pub fn validate(&self) -> Result<(), Vec<ValueError>> {
        let mut errors = Vec::new();
        check_boot_source(&self.boot_source, &mut errors);
        check_machine_config(&self.machine_config, &mut errors);
        check_drives(&self.disks, &mut errors);
        self.check_not_yet(&mut errors);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn check_not_yet(&self, errors: &mut Vec<ValueError>) {
        let parts: [(&'static [&'static str], bool); 13] = [
            (
                &["machine-config", "track_dirty_pages"],
                self.machine_config.track_dirty_pages,
            ),
            (&["drives"], self.drives.used),
            (&["network-interfaces"], self.network_interfaces.used),
            (&["pmem"], self.pmem.used),
            (&["vsock"], self.vsock.used),
            (&["balloon"], self.balloon.used),
            (&["entropy"], self.entropy.used),
            (&["memory-hotplug"], self.memory_hotplug.used),
            (&["cpu-config"], self.cpu_config.used),
            (&["logger"], self.logger.used),
            (&["metrics"], self.metrics.used),
            (&["mmds-config"], self.mmds_config.used),
            (&["serial"], self.serial.used),
        ];
        let used = parts.into_iter().filter(|(_, used)| *used);
        errors.extend(used.map(|(path, _)| ValueError {
            path,
            reason: Reason::NotYet,
        }));
    }
}

fn check_boot_source(boot: &BootSource, errors: &mut Vec<ValueError>) {
    check_path(
        &["boot-source", "kernel_image_path"],
        &boot.kernel_image_path,
        errors,
    );
    if let Some(initrd) = &boot.initrd_path {
        check_path(&["boot-source", "initrd_path"], initrd, errors);
    }
    if let Err(error) = boot_args::merge(boot.boot_args.as_deref().unwrap_or_default()) {
        errors.push(ValueError {
            path: &["boot-source", "boot_args"],
            reason: error.into(),
        });
    }
}

fn check_path(path: &'static [&'static str], value: &Path, errors: &mut Vec<ValueError>) {
    let bytes = value.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        errors.push(unfit(
            path,
            format!("{value:?}"),
            "the path of a file".into(),
        ));
    }
}

fn check_machine_config(machine: &MachineConfig, errors: &mut Vec<ValueError>) {
    let cpus = u64::from(machine.vcpu_count);
    let vcpu_count = &["machine-config", "vcpu_count"];
    if !(1..=MAX_VCPUS).contains(&cpus) {
        errors.push(unfit(
            vcpu_count,
            cpus.to_string(),
            whole_from(1, MAX_VCPUS),
        ));
    } else if machine.smt && cpus > 1 && !cpus.is_multiple_of(2) {
        errors.push(unfit(
            vcpu_count,
            cpus.to_string(),
            "1 or an even number, as `smt` is true".into(),
        ));
    }
    let memory = machine.mem_size_mib;
    let mem_size_mib = &["machine-config", "mem_size_mib"];
    if !(MIN_MEM_SIZE_MIB..=MAX_MEM_SIZE_MIB).contains(&memory) {
        errors.push(unfit(
            mem_size_mib,
            memory.to_string(),
            whole_from(MIN_MEM_SIZE_MIB, MAX_MEM_SIZE_MIB),
        ));
    } else if machine.huge_pages == HugePages::Huge2M && !memory.is_multiple_of(2) {
        errors.push(unfit(
            mem_size_mib,
            memory.to_string(),
            "a multiple of 2, as `huge_pages` is `2M`".into(),
        ));
    }
}

fn check_drives(drives: &[Drive], errors: &mut Vec<ValueError>) {
    // A definition has no key for them yet.
    let path = &["--disk"];
    if drives.len() > MAX_DRIVES {
        let found = format!("{} disks", drives.len());
        errors.push(unfit(path, found, format!("at most {MAX_DRIVES}")));
    }
    for (index, drive) in drives.iter().enumerate() {
        check_path(path, &drive.path_on_host, errors);
        let id = &drive.drive_id;
        if drives[..index].iter().any(|other| other.drive_id == *id) {
            let found = format!("two disks called `{id}`");
            errors.push(unfit(path, found, "an id for each".into()));
        }
        let serial = drive.serial.as_deref().unwrap_or(id);
        if serial.len() > MAX_SERIAL || !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
            let expected = format!("a serial number of 1 to {MAX_SERIAL} printable characters");
            errors.push(unfit(path, format!("`{serial}`"), expected));
        }
    }
}

fn unfit(path: &'static [&'static str], found: String, expected: String) -> ValueError {
    ValueError {
        path,
        reason: Reason::Unfit { found, expected },
    }
}
