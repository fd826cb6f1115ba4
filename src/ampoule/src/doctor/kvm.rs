//! What `/dev/kvm` offers.
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

/// The only version of KVM's interface there has been since Linux 2.6.22.
pub(super) const API_VERSION: i32 = 12;

/// What every guest needs.
const REQUIRED: &[(&str, Cap)] = &[
    ("user memory", Cap::UserMemory),
    ("irqchip", Cap::Irqchip),
    ("irqfd", Cap::Irqfd),
    ("ioeventfd", Cap::Ioeventfd),
    ("immediate exit", Cap::ImmediateExit),
    ("CPUID", Cap::ExtCpuid),
    ("TSS address", Cap::SetTssAddr),
    ("identity map address", Cap::SetIdentityMapAddr),
    ("multiprocessor state", Cap::MpState),
    ("interrupt routing", Cap::IrqRouting),
    ("MSI", Cap::SignalMsi),
];

/// What makes guests quicker, or what some of them can be asked to do.
const USEFUL: &[(&str, Cap)] = &[
    ("split irqchip", Cap::SplitIrqchip),
    ("TSC deadline timer", Cap::TscDeadlineTimer),
    ("TSC frequency", Cap::GetTscKhz),
    ("kvm-clock", Cap::AdjustClock),
    ("x2APIC API", Cap::X2ApicApi),
    ("read-only memory", Cap::ReadonlyMem),
    ("XSAVE", Cap::Xsave),
    ("extended control registers", Cap::Xcrs),
    ("vCPU events", Cap::VcpuEvents),
    ("debug registers", Cap::Debugregs),
    ("error details", Cap::InternalErrorData),
];

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KvmFacts {
    pub(super) api_version: i32,
    /// Capabilities without which no guest runs.
    pub(super) missing: Vec<&'static str>,
    /// Capabilities that guests can do without.
    pub(super) lacking: Vec<&'static str>,
    pub(super) max_vcpus: usize,
    pub(super) memory_slots: usize,
    /// Why no VM could be created: an `errno`.
    pub(super) create_vm: Result<(), i32>,
}

/// Opens `device`, asks, and creates and drops a VM.
pub(super) fn probe(device: &Path) -> io::Result<KvmFacts> {
    let path = CString::new(device.as_os_str().as_bytes())?;
    let kvm = Kvm::new_with_path(path.as_c_str()).map_err(from_errno)?;
    let api_version = kvm.get_api_version();
    if api_version < 0 {
        // Something else goes by the name of KVM.
        return Err(io::Error::last_os_error());
    }
    let absent = |wanted: &[(&'static str, Cap)]| {
        let absent = wanted
            .iter()
            .filter(|(_, capability)| !kvm.check_extension(*capability));
        absent.map(|(name, _)| *name).collect()
    };
    Ok(KvmFacts {
        api_version,
        missing: absent(REQUIRED),
        lacking: absent(USEFUL),
        max_vcpus: kvm.get_max_vcpus(),
        memory_slots: kvm.get_nr_memslots(),
        create_vm: create_vm(&kvm),
    })
}

fn create_vm(kvm: &Kvm) -> Result<(), i32> {
    loop {
        match kvm.create_vm() {
            Ok(_vm) => return Ok(()),
            // A signal came while the kernel started the VM's threads.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error.errno()),
        }
    }
}

fn from_errno(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kvm_is_an_error_not_a_report() {
        assert!(probe(Path::new("/dev/null")).is_err());
        assert!(probe(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn no_capability_is_asked_for_twice() {
        let mut names: Vec<_> = REQUIRED
            .iter()
            .chain(USEFUL)
            .map(|(name, _)| name)
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
