//! `machine-config`: processors and memory.
use super::fields::whole;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// Most vCPUs of a machine: APIC identifiers are 8 bits wide, 255 means all of them, and one is the I/O APIC's.
pub const MAX_VCPUS: u64 = 254;
/// Least memory of a machine, in MiB: less holds no kernel of today's with its first file system.
pub const MIN_MEM_SIZE_MIB: u64 = 32;
/// Most memory of a machine, in MiB: 1 TiB.
pub const MAX_MEM_SIZE_MIB: u64 = 1 << 20;

/// Processors and memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = super::schema::relate_machine_keys))]
pub struct MachineConfig {
    /// Virtual processors. With `smt`: 1, or an even number.
    #[serde(deserialize_with = "whole::<_, _, 1, MAX_VCPUS>")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_VCPUS), example = 1, extend("x-flag" = "--cpus")))]
    pub vcpu_count: u32,
    /// Memory, in MiB. With `huge_pages` of `2M`: a multiple of 2.
    #[serde(deserialize_with = "whole::<_, _, MIN_MEM_SIZE_MIB, MAX_MEM_SIZE_MIB>")]
    #[cfg_attr(
        feature = "schema",
        schemars(range(min = MIN_MEM_SIZE_MIB, max = MAX_MEM_SIZE_MIB), example = 512, extend("x-flag" = "--memory"))
    )]
    pub mem_size_mib: u64,
    /// Whether every two vCPUs are the threads of one core.
    #[serde(default)]
    pub smt: bool,
    /// Firecracker's static CPU templates are not supported: `"None"` or `null` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "super::schema::cpu_template")
    )]
    pub cpu_template: Option<CpuTemplate>,
    /// Whether writes to memory are tracked, for differential snapshots. Not supported yet: `false` only.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("const" = false)))]
    pub track_dirty_pages: bool,
    /// The pages behind the guest's memory.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("x-flag" = "--huge-pages")))]
    pub huge_pages: HugePages,
    /// Whether the memory is a memfd, which other processes can map, instead of anonymous.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("x-flag" = "--shared-memory", "x-ours" = true)))]
    pub shared_memory: bool,
    /// Whether the guest sees the processor's performance counters.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("x-ours" = true)))]
    pub pmu: bool,
    /// How the guest finds its devices. With `pci=off` in `boot_args`, and without devices, there is no PCI bus.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("x-flag" = "--transport", "x-ours" = true)))]
    pub transport: Transport,
}

impl Default for MachineConfig {
    /// Firecracker's machine, when a file says nothing: one vCPU and 128 MiB.
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            shared_memory: false,
            pmu: false,
            transport: Transport::Auto,
        }
    }
}

string_enum! {
    /// The pages behind the guest's memory.
    HugePages {
        /// Pages of 4 KiB.
        #[default]
        None = "None",
        /// Pages of 4 KiB, which the host may merge into pages of 2 MiB.
        Transparent = "Transparent",
        /// Pages of 2 MiB, from the host's reserve.
        Huge2M = "2M",
    }
}

string_enum! {
    /// How a guest finds its devices.
    Transport {
        /// On a PCI bus where it is known that the kernel has a driver for one: where its drivers are in modules, and the initial RAM disk
        /// is made of them. Else at fixed addresses.
        #[default]
        Auto = "auto",
        /// At fixed addresses, which ACPI tells.
        Mmio = "mmio",
        /// On a PCI bus.
        Pci = "pci",
    }
}

/// A static CPU template of Firecracker's, of which there is none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuTemplate {
    /// No template: the guest sees the host's processor, as far as a guest may.
    None,
}

impl Serialize for CpuTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("None")
    }
}

impl<'de> Deserialize<'de> for CpuTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(CpuTemplateVisitor)
    }
}

struct CpuTemplateVisitor;

impl Visitor<'_> for CpuTemplateVisitor {
    type Value = CpuTemplate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`None` or null, as CPU templates are not supported")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<CpuTemplate, E> {
        match text {
            "None" => Ok(CpuTemplate::None),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}
