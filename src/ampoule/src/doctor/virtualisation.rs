//! The processor and KVM: without these no guest runs.
use std::io;
use std::os::unix::fs::MetadataExt;

use super::host::{Cpu, Host, reason};
use super::kvm::{API_VERSION, KvmFacts};
use super::report::{Check, Group, Topic, Virtualisation};

const GROUP: Group = Group::Virtualisation;
const DEVICE: &str = "/dev/kvm";

const ARCHITECTURE: Topic = Topic {
    group: GROUP,
    id: "architecture",
    title: "Architecture",
    why: "Ampoule is written for 64-bit x86",
};
const HARDWARE: Topic = Topic {
    group: GROUP,
    id: "hardware",
    title: "Hardware",
    why: "without VMX or SVM, KVM emulates a kernel's code and stops at what it cannot emulate",
};
const NESTED_PAGING: Topic = Topic {
    group: GROUP,
    id: "nested-paging",
    title: "Nested paging",
    why: "without it every change of a guest's page tables stops the guest",
};
const PRESENT: Topic = Topic {
    group: GROUP,
    id: "kvm-device",
    title: "KVM device",
    why: "guests run on KVM, through this device",
};
const ACCESS: Topic = Topic {
    group: GROUP,
    id: "kvm-access",
    title: "KVM access",
    why: "whoever starts a guest must be able to open /dev/kvm to read and write; root is not needed",
};
const API: Topic = Topic {
    group: GROUP,
    id: "kvm-api",
    title: "KVM interface",
    why: "every Linux since 2.6.22 has version 12; anything else is not KVM as we know it",
};
const CAPABILITIES: Topic = Topic {
    group: GROUP,
    id: "kvm-capabilities",
    title: "KVM capabilities",
    why: "interrupts, memory and notifications of guests are built on these",
};
const CREATE_VM: Topic = Topic {
    group: GROUP,
    id: "kvm-create-vm",
    title: "Creating a VM",
    why: "another hypervisor, or the host's own, may hold the processor's virtualisation",
};

pub(super) fn examine(host: &Host) -> (Vec<Check>, Virtualisation) {
    let cpu = host.cpu();
    let kvm = host.system.kvm(&host.path(DEVICE));
    let (hardware, virtualisation) = hardware(host, cpu, kvm.is_ok());
    let facts = kvm.as_ref().ok();
    let checks = vec![
        architecture(host),
        hardware,
        nested_paging(host, cpu),
        device(host, cpu),
        access(host, cpu, kvm.as_ref().err()),
        api(facts),
        capabilities(facts),
        create_vm(facts),
    ];
    (checks, virtualisation)
}

fn architecture(host: &Host) -> Check {
    let machine = host.system.machine();
    let found = format!("{machine}, Linux {}", host.system.release());
    if machine == "x86_64" {
        ARCHITECTURE.ok(found)
    } else {
        ARCHITECTURE.missing(found).advise("use an x86-64 host")
    }
}

/// The flags decide, for a module that found no hardware may still be listed when it is built in.
fn hardware(host: &Host, cpu: Cpu, kvm_works: bool) -> (Check, Virtualisation) {
    let loaded = |module: &str| host.exists(&format!("/sys/module/{module}"));
    let is_paravirtual = loaded("kvm_pvm") && !loaded("kvm_intel") && !loaded("kvm_amd");
    if cpu.has_hardware() && !is_paravirtual {
        let name = if cpu.vmx { "Intel VMX" } else { "AMD SVM" };
        let (name, note) = if cpu.is_virtual {
            (
                format!("{name}, nested"),
                ": this host is a virtual machine itself",
            )
        } else {
            (name.to_owned(), "")
        };
        let check = HARDWARE.ok(format!("{name}{note}"));
        return (check, Virtualisation::Hardware(name));
    }
    // What is loaded tells even when this user may not open the device.
    if !kvm_works && !is_paravirtual {
        let check = HARDWARE
            .missing("neither VMX nor SVM")
            .advise(turn_on_hardware(cpu));
        return (check, Virtualisation::None);
    }
    let module = if loaded("kvm_pvm") {
        "kvm_pvm"
    } else {
        "no hardware module"
    };
    let check = HARDWARE
        .missing(format!(
            "KVM is paravirtual ({module}): stock kernels will not run"
        ))
        .advise(turn_on_hardware(cpu));
    let what = format!("KVM is paravirtual ({module}), with neither VMX nor SVM beneath it");
    (check, Virtualisation::Paravirtual(what))
}

fn turn_on_hardware(cpu: Cpu) -> &'static str {
    match (cpu.is_virtual, cpu.is_amd) {
        (true, false) => {
            "turn on nested virtualisation where this machine is hosted (kvm_intel.nested=1 there, and -cpu host), or use a host of another kind"
        }
        (true, true) => {
            "turn on nested virtualisation where this machine is hosted (kvm_amd.nested=1 there, and -cpu host), or use a host of another kind"
        }
        (false, false) => "turn on Intel VT-x in the firmware's settings",
        (false, true) => "turn on SVM (AMD-V) in the firmware's settings",
    }
}

fn nested_paging(host: &Host, cpu: Cpu) -> Check {
    let (name, parameter) = if cpu.module() == "kvm_amd" {
        ("NPT", "npt")
    } else {
        ("EPT", "ept")
    };
    let path = format!("/sys/module/{}/parameters/{parameter}", cpu.module());
    match host.read(&path).as_deref() {
        Some("Y" | "1") => NESTED_PAGING.ok(name),
        Some(_) => NESTED_PAGING
            .warning(format!("{name} is off"))
            .mend(format!(
                "sudo modprobe -r {0} && sudo modprobe {0} {parameter}=1",
                cpu.module()
            )),
        None => NESTED_PAGING.info(format!("not known: {} is not loaded", cpu.module())),
    }
}

fn device(host: &Host, cpu: Cpu) -> Check {
    if host.exists(DEVICE) {
        return PRESENT.ok(DEVICE);
    }
    let check = PRESENT.missing(format!("no {DEVICE}"));
    let misc = host.read("/proc/misc").unwrap_or_default();
    let kernel_has_it = misc
        .lines()
        .any(|line| line.split_whitespace().nth(1) == Some("kvm"));
    if kernel_has_it {
        check.advise(
            "the kernel has KVM but this container has no device: start it with --device /dev/kvm",
        )
    } else if cpu.has_hardware() {
        host.load(check, cpu.module())
    } else {
        check.advise(turn_on_hardware(cpu))
    }
}

fn access(host: &Host, cpu: Cpu, error: Option<&io::Error>) -> Check {
    if !host.exists(DEVICE) {
        return ACCESS.info("not checked");
    }
    let Some(error) = error else {
        return ACCESS.ok(format!("user {} may open it", host.system.uid()));
    };
    let check = ACCESS.missing(format!("{DEVICE} does not open: {}", reason(error)));
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO | libc::ENOENT) if cpu.has_hardware() => {
            host.load(check, cpu.module())
        }
        Some(libc::ENODEV | libc::ENXIO | libc::ENOENT) => check.advise(turn_on_hardware(cpu)),
        Some(libc::EACCES | libc::EPERM) => permit(check, host),
        _ => check.advise(format!(
            "see whether {DEVICE} is KVM's: ls -l {DEVICE}; dmesg | grep -i kvm"
        )),
    }
}

/// The command that lets this user open the device, by whom it belongs to.
fn permit(check: Check, host: &Host) -> Check {
    if host.system.uid() == 0 {
        return check
            .advise("this container's policy forbids the device: start it with --device /dev/kvm");
    }
    let metadata = std::fs::metadata(host.path(DEVICE)).ok();
    let group_may = metadata
        .as_ref()
        .is_some_and(|metadata| metadata.mode() & 0o060 == 0o060);
    let group = metadata
        .and_then(|metadata| host.group_name(metadata.gid()))
        .filter(|group| group_may && group != "root");
    match group {
        Some(group) if host.user_is_listed_in(&group) => check
            .mend(format!("newgrp {group}"))
            .advise(format!("you are in the group {group} already, but not in this session: log in again")),
        Some(group) => check
            .mend(format!("sudo usermod -aG {group} \"$USER\""))
            .advise("log in again for it to take effect"),
        None if host.has_group("kvm") => check
            .mend(format!("sudo chgrp kvm {DEVICE} && sudo chmod 660 {DEVICE} && sudo usermod -aG kvm \"$USER\""))
            .advise("log in again for it to take effect"),
        None => check.mend(format!("sudo chmod 666 {DEVICE}")),
    }
}

fn api(facts: Option<&KvmFacts>) -> Check {
    match facts {
        None => API.info("not checked"),
        Some(facts) if facts.api_version == API_VERSION => API.ok(format!("version {API_VERSION}")),
        Some(facts) => API
            .missing(format!("version {}, not {API_VERSION}", facts.api_version))
            .advise("boot a current Linux"),
    }
}

fn capabilities(facts: Option<&KvmFacts>) -> Check {
    let Some(facts) = facts else {
        return CAPABILITIES.info("not checked");
    };
    if !facts.missing.is_empty() {
        let found = format!("lacks {}", facts.missing.join(", "));
        return CAPABILITIES.missing(found).advise("boot a newer Linux");
    }
    let limits = format!(
        "{} vCPUs, {} memory slots at most",
        facts.max_vcpus, facts.memory_slots
    );
    if facts.lacking.is_empty() {
        CAPABILITIES.ok(format!("all; {limits}"))
    } else {
        let found = format!(
            "all that are needed, but not {}; {limits}",
            facts.lacking.join(", ")
        );
        CAPABILITIES.warning(found)
    }
}

fn create_vm(facts: Option<&KvmFacts>) -> Check {
    let Some(facts) = facts else {
        return CREATE_VM.info("not checked");
    };
    let Err(errno) = facts.create_vm else {
        return CREATE_VM.ok("works");
    };
    let error = io::Error::from_raw_os_error(errno);
    let check = CREATE_VM.missing(format!("fails: {}", reason(&error)));
    match errno {
        libc::EBUSY => check
            .advise("stop the other hypervisor that holds the processor (VirtualBox, VMware, Xen)"),
        libc::ENOMEM => check.advise("free some memory"),
        _ => check.advise("see what the kernel says: dmesg | grep -i kvm"),
    }
}

#[cfg(test)]
#[path = "virtualisation_tests.rs"]
mod tests;
