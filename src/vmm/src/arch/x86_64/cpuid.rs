//! What CPUID tells the guest: what KVM supports, with the topology of this machine and without what we do not offer.
//!
//! Intel SDM 2A "CPUID"; AMD APM 3 appendix E.
use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// How vCPUs are arranged: one package of cores with one or two threads each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// vCPUs in all, 1 to 254.
    pub cpus: u8,
    /// 1, or 2 with SMT.
    pub threads_per_core: u8,
}

impl Topology {
    /// Bits of an APIC id that number the threads within a core.
    fn thread_bits(self) -> u32 {
        ceil_log2(self.threads_per_core)
    }

    /// Bits of an APIC id that number the threads within the package.
    fn package_bits(self) -> u32 {
        ceil_log2(self.cpus.max(self.threads_per_core))
    }

    /// The APIC id of vCPU number `index`: ids are dense because threads per core is a power of two.
    pub fn apic_id(self, index: u8) -> u32 {
        u32::from(index)
    }
}

fn ceil_log2(n: u8) -> u32 {
    u32::from(n).next_power_of_two().trailing_zeros()
}

/// What the definition decides about CPUID.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The arrangement of vCPUs.
    pub topology: Topology,
    /// Whether the guest sees a performance monitoring unit.
    pub pmu: bool,
    /// Whether KVM's local APIC offers the TSC deadline timer.
    pub tsc_deadline: bool,
}

/// Bits of CPUID that are changed, by leaf.
mod bit {
    pub(super) const L1_ECX_VMX: u32 = 1 << 5;
    pub(super) const L1_ECX_PDCM: u32 = 1 << 15;
    pub(super) const L1_ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const L1_ECX_HYPERVISOR: u32 = 1 << 31;
    pub(super) const L1_EDX_HTT: u32 = 1 << 28;
    pub(super) const L7_ECX_WAITPKG: u32 = 1 << 5;
    pub(super) const AMD1_ECX_CMP_LEGACY: u32 = 1 << 1;
    pub(super) const AMD1_ECX_SVM: u32 = 1 << 2;
    pub(super) const AMD1_ECX_TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
    pub(super) const AMD1_ECX_PERFMON: u32 = (1 << 23) | (1 << 24) | (1 << 28);
}

/// The CPUID table of vCPU `index`, out of what KVM reports as `supported`.
///
/// # Errors
/// When the table would have more entries than KVM takes.
pub fn for_vcpu(
    supported: &CpuId,
    options: Options,
    index: u8,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let apic_id = options.topology.apic_id(index);
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|entry| !is_topology_leaf(entry.function))
        .copied()
        .collect();
    if options.topology.threads_per_core > 1 && is_amd(&entries) {
        announce_topology_extensions(&mut entries);
    }
    for entry in &mut entries {
        adjust(entry, options, apic_id);
    }
    let highest = entries
        .iter()
        .find(|entry| entry.function == 0)
        .map_or(0, |entry| entry.eax);
    for leaf in [0xb, 0x1f] {
        if leaf <= highest {
            entries.extend(extended_topology(leaf, options.topology, apic_id));
        }
    }
    CpuId::from_entries(&entries)
}

/// Whether the vendor's name begins as "AuthenticAMD" and "HygonGenuine" do: their processors tell their threads in leaves
/// of their own.
fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    const VENDORS: [&[u8; 4]; 2] = [b"Auth", b"Hygo"];
    entries
        .iter()
        .find(|entry| entry.function == 0)
        .is_some_and(|entry| VENDORS.contains(&&entry.ebx.to_le_bytes()))
}

/// Without the topology extensions Linux takes every thread of an AMD processor for a core. They only tell what is so
/// anyway, so a guest may have them where the host's processor has not.
fn announce_topology_extensions(entries: &mut Vec<kvm_cpuid_entry2>) {
    const LEAF: u32 = 0x8000_001e;
    if !entries.iter().any(|entry| entry.function == LEAF) {
        entries.push(kvm_cpuid_entry2 {
            function: LEAF,
            ..Default::default()
        });
    }
    for entry in entries {
        match entry.function {
            0x8000_0000 => entry.eax = entry.eax.max(LEAF),
            0x8000_0001 => entry.ecx |= bit::AMD1_ECX_TOPOLOGY_EXTENSIONS,
            _ => {}
        }
    }
}

fn is_topology_leaf(function: u32) -> bool {
    matches!(function, 0xb | 0x1f)
}

fn adjust(entry: &mut kvm_cpuid_entry2, options: Options, apic_id: u32) {
    match entry.function {
        0x1 => leaf_1(entry, options, apic_id),
        0x4 => leaf_4(entry, options.topology),
        0x7 if entry.index == 0 => entry.ecx &= !bit::L7_ECX_WAITPKG,
        // No performance counters unless asked for: architectural (Intel), core (AMD).
        0xa | 0x8000_0022 if !options.pmu => clear(entry),
        0x8000_0001 => amd_leaf_1(entry, options),
        0x8000_0008 => amd_leaf_8(entry, options.topology),
        // Nested SVM is not offered.
        0x8000_000a => clear(entry),
        0x8000_001d => amd_leaf_1d(entry, options.topology),
        0x8000_001e => amd_leaf_1e(entry, options.topology, apic_id),
        _ => {}
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

fn leaf_1(entry: &mut kvm_cpuid_entry2, options: Options, apic_id: u32) {
    let cpus = options.topology.cpus;
    const CLFLUSH_QUADWORDS: u32 = 8;
    entry.ebx =
        (apic_id << 24) | (u32::from(cpus) << 16) | (CLFLUSH_QUADWORDS << 8) | (entry.ebx & 0xff);
    entry.ecx |= bit::L1_ECX_HYPERVISOR;
    // Nested VMX is not offered.
    entry.ecx &= !bit::L1_ECX_VMX;
    if !options.pmu {
        entry.ecx &= !bit::L1_ECX_PDCM;
    }
    set(
        &mut entry.ecx,
        bit::L1_ECX_TSC_DEADLINE,
        options.tsc_deadline,
    );
    set(&mut entry.edx, bit::L1_EDX_HTT, cpus > 1);
}

fn set(register: &mut u32, bits: u32, on: bool) {
    *register = if on {
        *register | bits
    } else {
        *register & !bits
    };
}

/// Deterministic cache parameters: how many threads share each cache, how many cores the package has.
fn leaf_4(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    const LEVEL_SHIFT: u32 = 5;
    if entry.eax & 0x1f == 0 {
        return;
    }
    let level = (entry.eax >> LEVEL_SHIFT) & 7;
    let sharing = sharers(level, topology);
    let cores_minus_one = (1 << (topology.package_bits() - topology.thread_bits())) - 1;
    entry.eax =
        (entry.eax & 0x3fff) | ((sharing - 1) << 14) | (u32::min(cores_minus_one, 63) << 26);
}

fn amd_leaf_1(entry: &mut kvm_cpuid_entry2, options: Options) {
    entry.ecx &= !bit::AMD1_ECX_SVM;
    if options.topology.cpus == 1 {
        entry.ecx &= !bit::AMD1_ECX_CMP_LEGACY;
    }
    if !options.pmu {
        entry.ecx &= !bit::AMD1_ECX_PERFMON;
    }
}

/// Size identifiers: the number of threads in the package and the width of the APIC id's part that numbers them.
fn amd_leaf_8(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    entry.ecx = (topology.package_bits() << 12) | (u32::from(topology.cpus) - 1);
}

fn amd_leaf_1d(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    if entry.eax & 0x1f == 0 {
        return;
    }
    let level = (entry.eax >> 5) & 7;
    entry.eax = (entry.eax & !(0xfff << 14)) | ((sharers(level, topology) - 1) << 14);
}

fn amd_leaf_1e(entry: &mut kvm_cpuid_entry2, topology: Topology, apic_id: u32) {
    let threads = u32::from(topology.threads_per_core);
    entry.eax = apic_id;
    entry.ebx = ((threads - 1) << 8) | ((apic_id >> topology.thread_bits()) & 0xff);
    entry.ecx = 0;
}

/// APIC ids that share a cache of `level`: a core's threads for levels 1 and 2, everything beyond.
fn sharers(level: u32, topology: Topology) -> u32 {
    if level <= 2 {
        1 << topology.thread_bits()
    } else {
        1 << topology.package_bits()
    }
}

/// Leaves 0xB and 0x1F: one subleaf for threads, one for cores, one that ends the list.
fn extended_topology(function: u32, topology: Topology, apic_id: u32) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let subleaf = |index, shift, count: u8, kind| kvm_cpuid_entry2 {
        function,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: u32::from(count),
        ecx: index | kind,
        edx: apic_id,
        ..Default::default()
    };
    [
        subleaf(
            0,
            topology.thread_bits(),
            topology.threads_per_core,
            THREADS,
        ),
        subleaf(1, topology.package_bits(), topology.cpus, CORES),
        subleaf(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: 0x1f,
            ecx: !0,
            edx: !0,
            ..Default::default()
        }
    }

    fn table(cpus: u8, threads_per_core: u8, index: u8) -> CpuId {
        let mut entries: Vec<_> = [0u32, 1, 7, 0xa, 0xb, 0x8000_0001, 0x8000_0008, 0x8000_001e]
            .map(|function| entry(function, 0))
            .to_vec();
        // L1 data, L3 unified.
        entries.push(kvm_cpuid_entry2 {
            function: 4,
            index: 0,
            eax: 0x21,
            ..Default::default()
        });
        entries.push(kvm_cpuid_entry2 {
            function: 4,
            index: 3,
            eax: 0x63,
            ..Default::default()
        });
        let supported = CpuId::from_entries(&entries).unwrap();
        let topology = Topology {
            cpus,
            threads_per_core,
        };
        let options = Options {
            topology,
            pmu: false,
            tsc_deadline: true,
        };
        for_vcpu(&supported, options, index).unwrap()
    }

    fn leaf(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn a_vcpu_sees_its_apic_id_in_every_leaf_that_has_one() {
        let table = table(16, 1, 9);
        assert_eq!(leaf(&table, 1, 0).ebx >> 24, 9);
        assert_eq!(leaf(&table, 0xb, 0).edx, 9);
        assert_eq!(leaf(&table, 0x1f, 1).edx, 9);
        assert_eq!(leaf(&table, 0x8000_001e, 0).eax, 9);
    }

    #[test]
    fn the_topology_leaves_count_threads_and_cores() {
        let table = table(6, 2, 0);
        assert_eq!(leaf(&table, 0xb, 0).eax, 1);
        assert_eq!(leaf(&table, 0xb, 0).ebx, 2);
        assert_eq!(leaf(&table, 0xb, 1).eax, 3);
        assert_eq!(leaf(&table, 0xb, 1).ebx, 6);
        assert_eq!(leaf(&table, 0xb, 2).ebx, 0);
        assert_eq!(leaf(&table, 0x8000_0008, 0).ecx, (3 << 12) | 5);
    }

    #[test]
    fn the_first_level_cache_is_a_cores_and_the_third_is_everyones() {
        let table = table(4, 2, 0);
        assert_eq!((leaf(&table, 4, 0).eax >> 14) & 0xfff, 1);
        assert_eq!((leaf(&table, 4, 3).eax >> 14) & 0xfff, 3);
        assert_eq!(leaf(&table, 4, 3).eax >> 26, 1);
    }

    #[test]
    fn nested_virtualisation_and_counters_are_hidden_and_the_hypervisor_is_not() {
        let table = table(1, 1, 0);
        let one = leaf(&table, 1, 0);
        assert_eq!(one.ecx & bit::L1_ECX_VMX, 0);
        assert_ne!(one.ecx & bit::L1_ECX_HYPERVISOR, 0);
        assert_eq!(one.edx & bit::L1_EDX_HTT, 0);
        assert_eq!(leaf(&table, 0x8000_0001, 0).ecx & bit::AMD1_ECX_SVM, 0);
        assert_eq!(leaf(&table, 0xa, 0).eax, 0);
    }

    #[test]
    fn an_amd_processor_tells_its_threads_even_where_the_hosts_does_not() {
        let vendor = |name: &[u8; 4]| kvm_cpuid_entry2 {
            eax: 0x1f,
            ebx: u32::from_le_bytes(*name),
            ..Default::default()
        };
        let leaf_0x8000_0001 = kvm_cpuid_entry2 {
            function: 0x8000_0001,
            ..Default::default()
        };
        let announced = |name, threads_per_core| {
            let supported = CpuId::from_entries(&[vendor(name), leaf_0x8000_0001]).unwrap();
            let topology = Topology {
                cpus: 4,
                threads_per_core,
            };
            let options = Options {
                topology,
                pmu: false,
                tsc_deadline: true,
            };
            let table = for_vcpu(&supported, options, 3).unwrap();
            let extended = table
                .as_slice()
                .iter()
                .find(|entry| entry.function == 0x8000_001e)
                .map(|entry| (entry.eax, entry.ebx));
            let bit = leaf(&table, 0x8000_0001, 0).ecx & bit::AMD1_ECX_TOPOLOGY_EXTENSIONS;
            (bit != 0).then_some(extended).flatten()
        };
        assert_eq!(announced(b"Auth", 2), Some((3, 0x101)));
        assert_eq!(announced(b"Auth", 1), None);
        assert_eq!(announced(b"Genu", 2), None);
    }

    #[test]
    fn the_largest_machine_has_a_package_of_eight_bits() {
        let topology = Topology {
            cpus: 254,
            threads_per_core: 1,
        };
        assert_eq!(topology.package_bits(), 8);
        assert_eq!(leaf(&table(254, 1, 253), 1, 0).ebx >> 24, 253);
    }
}
