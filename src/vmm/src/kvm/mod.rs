//! KVM: what the host offers, VM and vCPU descriptors.
mod vm;

use std::{
    io,
    os::fd::{FromRawFd, IntoRawFd},
};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use thiserror::Error;

pub use vm::{Place, Reserved, Ring, Vm};

/// Why KVM cannot be used, or refused something.
#[derive(Debug, Error)]
pub enum KvmError {
    /// There is no such device.
    #[error("/dev/kvm does not exist")]
    Absent,
    /// The device is there, for others.
    #[error("/dev/kvm may not be opened by this user")]
    Permission,
    /// The device is there but does not open.
    #[error("/dev/kvm cannot be opened: {0}")]
    Open(io::Error),
    /// Not the one API version that ever was.
    #[error("/dev/kvm speaks API version {0}, not 12")]
    ApiVersion(i32),
    /// The host's KVM lacks something needed.
    #[error("this host's KVM lacks {0}")]
    Capability(&'static str),
    /// A call failed.
    #[error("KVM could not {0}: {1}")]
    Call(&'static str, io::Error),
}

impl KvmError {
    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Absent => {
                "sudo modprobe kvm_intel or kvm_amd; in a VM, enable nested virtualisation; see: ampoule doctor"
            }
            Self::Permission => "sudo usermod -aG kvm $USER, then log in again",
            _ => "see: ampoule doctor",
        }
    }

    /// A failed call, by what it was to do.
    pub(crate) fn call(what: &'static str) -> impl FnOnce(vmm_sys_util::errno::Error) -> Self {
        move |error| Self::Call(what, error.into())
    }
}

/// `/dev/kvm`, opened and found sufficient.
#[derive(Debug)]
pub struct Hypervisor {
    kvm: Kvm,
}

/// What a host's KVM must offer.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "user memory regions"),
    (Cap::SplitIrqchip, "split interrupt controllers (Linux 4.4)"),
    (Cap::SignalMsi, "message-signalled interrupts"),
    (Cap::ImmediateExit, "immediate exits (Linux 4.12)"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
];

impl Hypervisor {
    /// Opens `/dev/kvm`. Capabilities are checked by [`Hypervisor::check`] only when something fails: a launch
    /// need not pay for six questions whose answer is yes.
    ///
    /// # Errors
    /// When it is absent, forbidden, or of another API version.
    pub fn open() -> Result<Self, KvmError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device =
            rustix::fs::open("/dev/kvm", flags, Mode::empty()).map_err(|error| match error {
                Errno::NOENT | Errno::NODEV | Errno::NXIO => KvmError::Absent,
                Errno::ACCESS | Errno::PERM => KvmError::Permission,
                _ => KvmError::Open(error.into()),
            })?;
        // SAFETY: the descriptor is new, and its owner has given it up.
        let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
        match kvm.get_api_version() {
            12 => Ok(Self { kvm }),
            other => Err(KvmError::ApiVersion(other)),
        }
    }

    /// Asks for each capability that a machine needs.
    ///
    /// # Errors
    /// With the first that is absent.
    pub fn check(&self) -> Result<(), KvmError> {
        match REQUIRED
            .iter()
            .find(|(cap, _)| !self.kvm.check_extension(*cap))
        {
            Some((_, name)) => Err(KvmError::Capability(name)),
            None => Ok(()),
        }
    }

    /// Every CPUID leaf that KVM can show a guest.
    ///
    /// # Errors
    /// When KVM does not tell.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("list its CPUID leaves"))
    }

    /// Whether the local APIC's timer has a deadline mode. It is not in [`Hypervisor::supported_cpuid`].
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// The most vCPUs that one VM can have.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}
