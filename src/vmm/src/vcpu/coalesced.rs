//! Writes to a register that only selects another one: KVM keeps them until the next exit instead of making one for each.
use std::sync::{Arc, Mutex, Once, PoisonError};

use kvm_ioctls::VcpuFd;

use crate::{bus::Bus, kvm::Vm};

/// What KVM's page has room for: of a ring's writes, as many can be older than the access that made the exit.
const RING: usize = (4096 - 8) / size_of::<kvm_bindings::kvm_coalesced_mmio>();

/// A register whose writes have no effect until something else of its device is accessed, and the ring in which KVM keeps
/// them (`KVM_REGISTER_COALESCED_MMIO`). There is one ring for all vCPUs of a machine.
pub struct Coalesced {
    vm: Arc<Vm>,
    address: u64,
    size: u32,
    begun: Once,
    taking: Mutex<()>,
}

impl Coalesced {
    /// The register of `size` bytes at `address`. Until a vCPU first leaves the guest for memory, its writes are exits.
    pub fn new(vm: Arc<Vm>, address: u64, size: u32) -> Self {
        Self {
            vm,
            address,
            size,
            begun: Once::new(),
            taking: Mutex::new(()),
        }
    }

    /// Brings `mmio` up to date with what the guest wrote before the access that `vcpu` has just left it for.
    ///
    /// KVM is asked to keep writes only now: it starts a grace period, for which the end of a machine waits, 6 to 14 ms, and
    /// guests that are over sooner than that never come here. Where it refuses, every write stays an exit.
    pub(super) fn settle(&self, vcpu: &mut VcpuFd, mmio: &Bus) {
        self.begun
            .call_once(|| _ = self.vm.coalesce_writes(self.address, self.size));
        // Whoever takes a write out of the ring applies it before another vCPU goes on.
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        // No more of them: other vCPUs may go on writing for as long as this one looks.
        for _ in 0..RING {
            let Ok(Some(write)) = vcpu.coalesced_mmio_read() else {
                break;
            };
            let length = write
                .data
                .len()
                .min(usize::try_from(write.len).unwrap_or(0));
            mmio.apply(write.phys_addr, &write.data[..length]);
        }
    }
}
