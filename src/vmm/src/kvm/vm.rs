use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_msi, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{Hypervisor, KvmError};

/// Guest physical addresses and interrupts that KVM is told of when a VM is created.
#[derive(Clone, Copy, Debug)]
pub struct Reserved {
    /// Three pages below 4 GiB that VMX without unrestricted guests needs.
    pub vmx_tss: u32,
    /// One page below 4 GiB for VMX's identity map in real mode.
    pub vmx_identity_map: u32,
    /// Pins of the I/O APIC that user space has.
    pub ioapic_pins: u8,
}

/// Where a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At this guest physical address.
    Memory(u64),
    /// At this I/O port.
    Port(u16),
}

impl From<Place> for IoEventAddress {
    fn from(place: Place) -> Self {
        match place {
            Place::Memory(address) => Self::Mmio(address),
            Place::Port(port) => Self::Pio(port.into()),
        }
    }
}

/// What a guest writes to ring a bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ring {
    /// Where.
    pub place: Place,
    /// These 32 bits; anything, of any width, if none.
    pub value: Option<u32>,
}

/// A VM: guest RAM and local APICs, to which vCPUs are added.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    // KVM maps guest RAM by host address: the mappings live as long as the VM does.
    _memory: GuestMemoryMmap,
}

impl Vm {
    /// Creates a VM over `memory` with split interrupt controllers: local APICs in the kernel, the rest of
    /// `reserved` for an I/O APIC in user space and for VMX.
    ///
    /// The order matters. Interrupt controllers and ioeventfds start a grace period that every later memory slot
    /// waits for, 5 to 14 ms; so all slots come first, among them the ones that VMX needs.
    ///
    /// # Errors
    /// When KVM refuses a step; where it lacks a capability, that is the error.
    pub fn create(
        hypervisor: &Hypervisor,
        memory: GuestMemoryMmap,
        reserved: Reserved,
    ) -> Result<Self, KvmError> {
        let fd = create_vm(hypervisor)?;
        set_memory(&fd, &memory)?;
        fd.set_identity_map_address(reserved.vmx_identity_map.into())
            .map_err(KvmError::call("place the identity map"))?;
        let tss = usize::try_from(reserved.vmx_tss).expect("32 bits fit a usize");
        fd.set_tss_address(tss)
            .map_err(KvmError::call("place the task state segment"))?;
        let mut split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        split.args[0] = u64::from(reserved.ioapic_pins);
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

    /// Delivers the message `data` written to `address` to the local APICs that it names.
    ///
    /// # Errors
    /// When no local APIC accepts it.
    pub fn signal_msi(&self, address: u32, data: u32) -> Result<(), KvmError> {
        let message = kvm_msi {
            address_lo: address,
            data,
            ..Default::default()
        };
        self.fd
            .signal_msi(message)
            .map(drop)
            .map_err(KvmError::call("deliver an interrupt"))
    }

    /// Keeps writes of up to `size` bytes at `place` in the ring that all vCPUs share. Kernels before 4.20 take a port for
    /// a guest physical address below 64 KiB, where there is RAM: then nothing comes of it.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn coalesce_writes(&self, place: Place, size: u32) -> Result<(), KvmError> {
        self.fd
            .register_coalesced_mmio(place.into(), size)
            .map_err(KvmError::call("coalesce writes"))
    }

    /// From now on, the guest's write `ring` rings `bell`, and is no exit.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn connect_bell(&self, ring: Ring, bell: &EventFd) -> Result<(), KvmError> {
        let place = ring.place.into();
        match ring.value {
            Some(value) => self.fd.register_ioevent(bell, &place, value),
            None => self.fd.register_ioevent(bell, &place, NoDatamatch),
        }
        .map_err(KvmError::call("connect a doorbell"))
    }

    /// Undoes [`connect_bell`](Self::connect_bell).
    ///
    /// # Errors
    /// When it was not connected.
    pub fn disconnect_bell(&self, ring: Ring, bell: &EventFd) -> Result<(), KvmError> {
        let place = ring.place.into();
        match ring.value {
            Some(value) => self.fd.unregister_ioevent(bell, &place, value),
            None => self.fd.unregister_ioevent(bell, &place, NoDatamatch),
        }
        .map_err(KvmError::call("disconnect a doorbell"))
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
