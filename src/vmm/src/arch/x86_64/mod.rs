//! x86-64: address map, CPUID, MSRs, registers, page tables, and what a kernel is handed at its entry.
pub mod boot_params;
pub mod cpuid;
pub mod layout;
pub mod msr;
pub mod regs;
pub mod setup;

use vm_memory::GuestAddress;

/// Where the first vCPU starts, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode at this address.
    Linux64(GuestAddress),
    /// In 32-bit protected mode at this address, which is below 4 GiB.
    Pvh(GuestAddress),
}
