//! The VM definition: plain serde data. No file is opened here, nothing is done.
//!
//! The format is a strict superset of Firecracker's `--config-file`: its keys keep their names and meanings, ours are
//! new keys. [`Definition`] is what the command line, a JSON file and a request body all come down to; what serde cannot
//! say about it, [`Definition::validate`] does.
pub mod boot_args;
pub mod size;

#[macro_use]
mod fields;
mod balloon;
mod boot_source;
mod drive;
mod egress;
mod lifecycle;
mod machine_config;
mod network_interface;
mod not_yet;
mod publish;
mod rate_limiter;
#[cfg(feature = "schema")]
mod schema;
mod updates;
mod user_network;
mod validate;
mod vsock;

pub use balloon::{Balloon, MAX_STATS_INTERVAL};
pub use boot_source::{BootSource, Entry};
pub use drive::{CacheType, Drive, IoEngine, MAX_DRIVES, MAX_QUEUES, MAX_SERIAL};
pub use egress::{Destination, EgressRule, NamePattern, Network, Target, Verdict};
pub use fields::{UnknownName, object};
pub use lifecycle::{Lifecycle, OnReboot};
pub use machine_config::{
    CpuTemplate, HugePages, MAX_MEM_SIZE_MIB, MAX_VCPUS, MIN_MEM_SIZE_MIB, MachineConfig, Transport,
};
pub use network_interface::{
    MAX_DEVICE_NAME, MAX_MTU, MAX_NETWORK_INTERFACES, MAX_QUEUE_PAIRS, MIN_MTU, Mac,
    NetworkInterface, NetworkInterfaceUpdate,
};
pub use publish::{PortProtocol, PortRange, Publish};
pub use rate_limiter::{RateLimiter, TokenBucket};
#[cfg(feature = "schema")]
pub use schema::schema;
pub use updates::{
    Action, ActionType, BalloonUpdate, DriveUpdate, HintingStart, StatisticsUpdate, VmState,
    VmUpdate,
};
pub use user_network::{MAX_FLOWS, MIN_FLOWS, MIN_USER_MTU, UserNetwork};
pub use validate::{KeyPath, Reason, ValueError, in_words};
pub use vsock::{MAX_CID, MAX_SOCKET_PATH, MIN_CID, Vsock};

use fields::{object_or_null, objects, optional_object};
use not_yet::{ListNotYet, SectionNotYet};
use serde::{Deserialize, Serialize};

/// Everything that says what one virtual machine is.
///
/// Deserialise it through [`object`], which refuses the array form that serde's derive would take for a struct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Definition {
    /// What the guest boots.
    #[serde(deserialize_with = "object")]
    #[cfg_attr(feature = "schema", schemars(example = schema::boot_source_example()))]
    pub boot_source: BootSource,
    /// Processors and memory. Absent: one vCPU and 128 MiB.
    #[serde(default, deserialize_with = "object_or_null")]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "schema::section::<MachineConfig>")
    )]
    pub machine_config: MachineConfig,
    /// How the machine ends.
    #[serde(default, deserialize_with = "object_or_null")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::section::<Lifecycle>", extend("x-ours" = true)))]
    pub lifecycle: Lifecycle,
    /// Block devices. Firecracker wants the key, if only as `[]`; here it may be absent.
    #[serde(default, deserialize_with = "objects")]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_DRIVES), extend("x-flag" = "--disk")))]
    pub drives: Vec<Drive>,
    /// Network cards.
    #[serde(default, deserialize_with = "objects")]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_NETWORK_INTERFACES), extend("x-flag" = "--net")))]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Persistent memory devices.
    #[serde(default, skip_serializing)]
    pmem: ListNotYet,
    /// A socket between host and guest.
    #[serde(default, deserialize_with = "optional_object")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::section::<Vsock>", extend("x-flag" = "--vsock")))]
    pub vsock: Option<Vsock>,
    /// A memory balloon.
    #[serde(default, deserialize_with = "optional_object")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::section::<Balloon>", extend("x-flag" = "--balloon")))]
    pub balloon: Option<Balloon>,
    /// A source of random numbers.
    #[serde(default, skip_serializing)]
    entropy: SectionNotYet,
    /// Memory that can be plugged while the guest runs.
    #[serde(default, skip_serializing)]
    memory_hotplug: SectionNotYet,
    /// A custom CPU template, inline or as the path of a file.
    #[serde(default, skip_serializing)]
    cpu_config: SectionNotYet,
    /// Where the monitor's log goes.
    #[serde(default, skip_serializing)]
    logger: SectionNotYet,
    /// Where the monitor's metrics go.
    #[serde(default, skip_serializing)]
    metrics: SectionNotYet,
    /// The metadata service.
    #[serde(default, skip_serializing)]
    mmds_config: SectionNotYet,
    /// Where the serial port's output goes. Firecracker ignores the key in a file, silently.
    #[serde(default, skip_serializing)]
    serial: SectionNotYet,
}

impl Definition {
    /// How many virtio devices the guest gets.
    #[must_use]
    pub fn devices(&self) -> usize {
        let single = usize::from(self.balloon.is_some()) + usize::from(self.vsock.is_some());
        self.drives.len() + self.network_interfaces.len() + single
    }

    /// How the guest finds its devices, as far as there is a bus to look for them on: not on PCI when there are none, nor when the
    /// kernel is told not to look there.
    #[must_use]
    pub fn effective_transport(&self) -> Transport {
        let boot_args = self.boot_source.boot_args.as_deref().unwrap_or_default();
        if self.devices() == 0 || boot_args::turns_pci_off(boot_args) {
            Transport::Mmio
        } else {
            self.machine_config.transport
        }
    }

    /// Whether it says that the guest is to find its devices over PCI.
    pub fn wants_pci(&self) -> bool {
        let boot_args = self.boot_source.boot_args.as_deref().unwrap_or_default();
        self.machine_config.transport == Transport::Pci && !boot_args::turns_pci_off(boot_args)
    }

    /// A definition that boots `boot_source` with everything else at its default.
    #[must_use]
    pub fn new(boot_source: BootSource) -> Self {
        Self {
            boot_source,
            machine_config: MachineConfig::default(),
            lifecycle: Lifecycle::default(),
            drives: Vec::new(),
            network_interfaces: Vec::new(),
            pmem: ListNotYet::default(),
            vsock: None,
            balloon: None,
            entropy: SectionNotYet::default(),
            memory_hotplug: SectionNotYet::default(),
            cpu_config: SectionNotYet::default(),
            logger: SectionNotYet::default(),
            metrics: SectionNotYet::default(),
            mmds_config: SectionNotYet::default(),
            serial: SectionNotYet::default(),
        }
    }
}

impl Definition {
    /// The drives as the guest counts them: the root first, the others in their order.
    pub fn drives_in_order(&self) -> impl Iterator<Item = &Drive> {
        let (roots, others): (Vec<_>, Vec<_>) =
            (self.drives.iter()).partition(|drive| drive.is_root_device);
        roots.into_iter().chain(others)
    }

    /// The drive that is the root file system.
    pub fn root_drive(&self) -> Option<&Drive> {
        self.drives.iter().find(|drive| drive.is_root_device)
    }
}

#[cfg(test)]
mod tests;
