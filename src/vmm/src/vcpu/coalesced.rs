//! Writes to a register that only selects another one: KVM keeps them until the next exit instead of making one for each.
use std::{
    ops::Range,
    sync::{Arc, Mutex, Once, PoisonError},
};

use kvm_ioctls::VcpuFd;

use crate::{
    bus::Bus,
    kvm::{Place, Vm},
};

/// What KVM's page has room for: of a ring's writes, as many can be older than the access that made the exit.
const RING: usize = (4096 - 8) / size_of::<kvm_bindings::kvm_coalesced_mmio>();

/// A register whose writes have no effect until something else of its device is accessed.
pub struct Selector {
    place: Place,
    /// Its bytes.
    size: u32,
    begun: Once,
}

impl Selector {
    /// The register of `size` bytes at `place`.
    pub fn new(place: Place, size: u32) -> Self {
        Self {
            place,
            size,
            begun: Once::new(),
        }
    }
}

/// Such registers, and the ring in which KVM keeps their writes (`KVM_REGISTER_COALESCED_MMIO`). There is one ring for all
/// vCPUs of a machine.
pub struct Coalesced {
    vm: Arc<Vm>,
    memory: Selector,
    ports: Option<(Selector, Range<u64>)>,
    taking: Mutex<()>,
}

impl Coalesced {
    /// The register `memory`, and one among I/O ports where the second one's ports are those of its device. Until a vCPU
    /// first leaves the guest for one of these devices, writes to its register are exits.
    pub fn new(vm: Arc<Vm>, memory: Selector, ports: Option<(Selector, Range<u64>)>) -> Self {
        Self {
            vm,
            memory,
            ports,
            taking: Mutex::new(()),
        }
    }

    /// Brings the buses up to date with what the guest wrote before the access to memory that `vcpu` has just left it for.
    pub(super) fn settle_memory(&self, vcpu: &mut VcpuFd, ports: &Bus, mmio: &Bus) {
        self.settle(&self.memory, vcpu, ports, mmio);
    }

    /// The same, where the access is to `port`. Other devices' ports need no such thing.
    pub(super) fn settle_port(&self, port: u16, vcpu: &mut VcpuFd, ports: &Bus, mmio: &Bus) {
        if let Some((selector, range)) = &self.ports
            && range.contains(&port.into())
        {
            self.settle(selector, vcpu, ports, mmio);
        }
    }

    /// KVM is asked to keep writes only now: it starts a grace period, for which the end of a machine waits, 6 to 14 ms, and
    /// guests that are over sooner than that never come here. Where it refuses, every write stays an exit.
    fn settle(&self, left_for: &Selector, vcpu: &mut VcpuFd, ports: &Bus, mmio: &Bus) {
        let Selector { place, size, begun } = left_for;
        begun.call_once(|| _ = self.vm.coalesce_writes(*place, *size));
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
            // Of the two places one is a port, and there is RAM at the address that is its number.
            let bus = match u16::try_from(write.phys_addr) {
                Ok(_) => ports,
                Err(_) => mmio,
            };
            bus.apply(write.phys_addr, &write.data[..length]);
        }
    }
}
