//! What is known when a guest cannot go on.
use std::fmt;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_regs,
    kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The reason of an exit whose details lie in the page shared with KVM.
pub(super) const INTERNAL_ERROR: &str = "KVM internal error";

/// The longest x86 instruction.
const INSTRUCTION_MAX: usize = 15;

/// A crashed vCPU, as far as KVM still tells.
#[derive(Debug)]
pub struct Crash {
    /// Which vCPU.
    pub cpu: u8,
    /// What happened.
    pub reason: String,
    regs: Option<kvm_regs>,
    sregs: Option<kvm_sregs>,
    instruction: Vec<u8>,
}

/// Collects a report. Nothing in it may fail: what KVM does not tell is left out.
pub(super) fn gather(fd: &mut VcpuFd, cpu: u8, reason: String, memory: &GuestMemoryMmap) -> Crash {
    let regs = fd.get_regs().ok();
    let sregs = fd.get_sregs().ok();
    let (reason, given) = if reason == INTERNAL_ERROR {
        internal_error(fd)
    } else {
        (reason, Vec::new())
    };
    let instruction = if given.is_empty() {
        regs.zip(sregs)
            .map(|(regs, sregs)| fetch(fd, memory, &regs, &sregs))
            .unwrap_or_default()
    } else {
        given
    };
    Crash {
        cpu,
        reason,
        regs,
        sregs,
        instruction,
    }
}

/// The kind of internal error, and the instruction's bytes where KVM has them.
fn internal_error(fd: &mut VcpuFd) -> (String, Vec<u8>) {
    // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, for which KVM fills in this member.
    let internal = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal };
    if internal.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return (
            format!("{INTERNAL_ERROR} (suberror {})", internal.suberror),
            Vec::new(),
        );
    }
    // SAFETY: as above; this member is the same bytes by other names for this suberror, and all are integers.
    let failure = unsafe { fd.get_kvm_run().__bindgen_anon_1.emulation_failure };
    let has_bytes = failure.ndata >= 3
        && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    let bytes = if has_bytes {
        // SAFETY: the flag says that this part was filled in; it is bytes.
        let insn = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let length = usize::from(insn.insn_size).min(insn.insn_bytes.len());
        insn.insn_bytes[..length].to_vec()
    } else {
        Vec::new()
    };
    (
        format!("{INTERNAL_ERROR}: an instruction could not be emulated"),
        bytes,
    )
}

/// The bytes at the instruction pointer, as far as they are mapped.
fn fetch(fd: &VcpuFd, memory: &GuestMemoryMmap, regs: &kvm_regs, sregs: &kvm_sregs) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INSTRUCTION_MAX);
    let start = sregs.cs.base.wrapping_add(regs.rip);
    for offset in 0u64.. {
        if bytes.len() == INSTRUCTION_MAX {
            break;
        }
        let translated = fd
            .translate_gva(start.wrapping_add(offset))
            .ok()
            .filter(|t| t.valid != 0);
        let Some(byte) =
            translated.and_then(|t| memory.read_obj(GuestAddress(t.physical_address)).ok())
        else {
            break;
        };
        bytes.push(byte);
    }
    bytes
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}: {}", self.cpu, self.reason)?;
        if let Some(r) = self.regs {
            write!(
                f,
                "\n  rip {:016x}  rflags {:08x}  rsp {:016x}  rbp {:016x}",
                r.rip, r.rflags, r.rsp, r.rbp
            )?;
            write!(
                f,
                "\n  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}",
                r.rax, r.rbx, r.rcx, r.rdx
            )?;
            write!(
                f,
                "\n  rsi {:016x}  rdi {:016x}  r8  {:016x}  r9  {:016x}",
                r.rsi, r.rdi, r.r8, r.r9
            )?;
            write!(
                f,
                "\n  r10 {:016x}  r11 {:016x}  r12 {:016x}  r13 {:016x}",
                r.r10, r.r11, r.r12, r.r13
            )?;
            write!(f, "\n  r14 {:016x}  r15 {:016x}", r.r14, r.r15)?;
        }
        if let Some(s) = self.sregs {
            write!(
                f,
                "\n  cr0 {:08x}  cr2 {:016x}  cr3 {:016x}  cr4 {:08x}  efer {:08x}",
                s.cr0, s.cr2, s.cr3, s.cr4, s.efer
            )?;
            write!(
                f,
                "\n  cs {:04x}:{:x}  ss {:04x}:{:x}  gdt {:x}+{:x}  idt {:x}+{:x}",
                s.cs.selector,
                s.cs.base,
                s.ss.selector,
                s.ss.base,
                s.gdt.base,
                s.gdt.limit,
                s.idt.base,
                s.idt.limit
            )?;
        }
        if !self.instruction.is_empty() {
            write!(f, "\n  code")?;
            for byte in &self.instruction {
                write!(f, " {byte:02x}")?;
            }
        }
        Ok(())
    }
}
