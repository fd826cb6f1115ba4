//! What a vCPU is given before it runs.
use kvm_bindings::{CpuId, Msrs};
use kvm_ioctls::VcpuFd;

use super::{Entry, regs};
use crate::kvm::KvmError;

/// Gives a new vCPU its CPUID, MSRs and, for the one that boots, the registers of `entry`. All others wait for the guest
/// to start them.
///
/// # Errors
/// When KVM refuses a step.
pub fn prepare(
    vcpu: &VcpuFd,
    cpuid: &CpuId,
    msrs: &Msrs,
    entry: Option<Entry>,
) -> Result<(), KvmError> {
    vcpu.set_cpuid2(cpuid)
        .map_err(KvmError::call("set a vCPU's CPUID"))?;
    vcpu.set_msrs(msrs)
        .map_err(KvmError::call("set a vCPU's MSRs"))?;
    let Some(entry) = entry else { return Ok(()) };
    let mut sregs = vcpu
        .get_sregs()
        .map_err(KvmError::call("read a vCPU's system registers"))?;
    regs::system(&mut sregs, entry);
    vcpu.set_sregs(&sregs)
        .map_err(KvmError::call("set a vCPU's system registers"))?;
    vcpu.set_regs(&regs::general(entry))
        .map_err(KvmError::call("set a vCPU's registers"))
}
