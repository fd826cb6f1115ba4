use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_msi, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{Hypervisor, KvmError};
use crate::{
    arch::x86_64::layout::{VMX_IDENTITY_MAP, VMX_TSS},
    legacy::ioapic::MessageSender,
};

/// A VM: guest RAM and local APICs, to which vCPUs are added.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    // KVM maps guest RAM by host address: the mappings live as long as the VM does.
    _memory: GuestMemoryMmap,
}

impl Vm {
    /// Creates a VM over `memory` with split interrupt controllers: local APICs in the kernel, `ioapic_pins` reserved
    /// for an I/O APIC in user space.
    ///
    /// The order matters. Interrupt controllers and ioeventfds start a grace period that every later memory slot
    /// waits for, 5 to 14 ms; so all slots come first, among them the ones that VMX needs.
    ///
    /// # Errors
    /// When KVM refuses a step; where it lacks a capability, that is the error.
    pub fn create(
        hypervisor: &Hypervisor,
        memory: GuestMemoryMmap,
        ioapic_pins: u8,
    ) -> Result<Self, KvmError> {
        let fd = create_vm(hypervisor)?;
        set_memory(&fd, &memory)?;
        fd.set_identity_map_address(VMX_IDENTITY_MAP)
            .map_err(KvmError::call("place the identity map"))?;
        let tss = usize::try_from(VMX_TSS).expect("below 4 GiB");
        fd.set_tss_address(tss)
            .map_err(KvmError::call("place the task state segment"))?;
        let mut split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        split.args[0] = u64::from(ioapic_pins);
        fd.enable_cap(&split).map_err(|error| {
            hypervisor
                .check()
                .err()
                .unwrap_or_else(|| KvmError::call("create local APICs")(error))
        })?;
        Ok(Self {
            fd,
            _memory: memory,
        })
    }

    /// Adds vCPU number `index`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(u64::from(index))
            .map_err(KvmError::call("create a vCPU"))
    }
}

/// `KVM_CREATE_VM`, again when a signal interrupted it: it starts a kernel thread, which signals abort.
fn create_vm(hypervisor: &Hypervisor) -> Result<VmFd, KvmError> {
    loop {
        match hypervisor.kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            other => return other.map_err(KvmError::call("create a VM")),
        }
    }
}

fn set_memory(fd: &VmFd, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let host = region.as_ptr().expose_provenance();
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: u64::try_from(host).expect("addresses have 64 bits"),
        };
        // SAFETY: the range is a mapping that `Vm` keeps for as long as its descriptor; it overlaps no other slot, and
        // this program accesses it only by volatile copies.
        unsafe { fd.set_user_memory_region(slot) }.map_err(KvmError::call("map guest memory"))?;
    }
    Ok(())
}

impl MessageSender for Vm {
    fn send(&self, address: u32, data: u32) {
        let message = kvm_msi {
            address_lo: address,
            data,
            ..Default::default()
        };
        // A vector or destination that no local APIC accepts is the guest's own mistake: hardware loses it too.
        let _: Result<i32, _> = self.fd.signal_msi(message);
    }
}
