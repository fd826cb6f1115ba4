//! The threads of vCPUs and devices, each under the filter of its role from its first moment.
use std::sync::{Arc, OnceLock};

use super::{Devices, MachineError, Parts, Policy, requests::Requests};
use crate::{
    sandbox::{Filter, Role},
    vcpu::thread::VcpuThread,
    virtio::{Confine, Duty},
};

/// The devices' threads, parked, each confined before it does anything.
pub(super) fn start_devices(devices: &Devices, policy: Policy) -> Result<(), MachineError> {
    if devices.len() == 0 {
        return Ok(());
    }
    // Each is made when the first thread needs it, and most machines need few.
    let filters: [OnceLock<Filter>; Duty::COUNT] = Default::default();
    let confine: Confine = Arc::new(move |duty| {
        if policy.sandbox {
            let filter = filters[duty as usize].get_or_init(|| Filter::new(role_of(duty)));
            confine_thread(Some(filter));
        }
    });
    let mut outcome = Ok(());
    devices.each(|device| {
        if outcome.is_ok() {
            outcome = device.start_threads(&confine);
        }
    });
    outcome.map_err(|error| MachineError::Host("a thread", error))
}

fn role_of(duty: Duty) -> Role {
    match duty {
        Duty::BlockRing => Role::BlockRing,
        Duty::BlockCalls => Role::BlockCalls,
        Duty::Balloon => Role::Balloon,
        Duty::Net => Role::Net,
        Duty::Vsock => Role::Vsock,
    }
}

/// Installs `filter`, if there is one, in the calling thread.
///
/// # Panics
/// When the filter cannot be installed: the thread must not go on.
pub(super) fn confine_thread(filter: Option<&Filter>) {
    if let Some(Err(error)) = filter.map(Filter::install) {
        panic!("a thread cannot be confined: {error}");
    }
}

/// One thread per vCPU, each confined before it does anything.
pub(super) fn spawn_vcpus(
    parts: &Parts,
    policy: Policy,
    requests: &Arc<Requests>,
) -> Result<Vec<VcpuThread>, MachineError> {
    let role = match parts.devices.len() == 0 {
        true => Role::Vcpu,
        false => Role::VcpuWithDevices,
    };
    let filter = policy.sandbox.then(|| Filter::new(role));
    (0..parts.topology.cpus)
        .map(|index| {
            let filter = filter.clone();
            let confine = move || confine_thread(filter.as_ref());
            VcpuThread::spawn(index, requests.clone(), confine)
                .map_err(|error| MachineError::Host("a thread", error))
        })
        .collect()
}
