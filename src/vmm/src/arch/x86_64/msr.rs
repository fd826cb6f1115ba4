//! Model-specific registers whose value at reset is not what a directly booted kernel expects.
use kvm_bindings::{Msrs, kvm_msr_entry};

/// `IA32_MISC_ENABLE`, Intel SDM 4 §2.1.
const MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`, Intel SDM 3A §12.11.2.1.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// What firmware would have set: memory is write-back, string instructions are fast. KVM resets all others as needed.
///
/// # Errors
/// Never in practice: the list is shorter than KVM's limit.
pub fn at_boot() -> Result<Msrs, vmm_sys_util::fam::Error> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[
        entry(MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ])
}
