//! x86-64: address map, CPUID, MSRs, registers, page tables, and what a kernel is handed at its entry.
pub mod boot_params;
pub mod cpuid;
pub mod layout;
pub mod msr;
pub mod regs;
