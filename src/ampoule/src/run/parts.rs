//! Opening everything that a definition names, in one place, before this process is confined.
use std::path::Path;

use vmm::{
    arch::x86_64::{cpuid::Topology, layout},
    boot::kernel::{self, EntryKind, Kernel},
    config::{Definition, Entry, HugePages, Transport, boot_args},
    kvm::Hypervisor,
    machine::{Devices, Outpost, Parts},
    memory::{self, Backing, GuestMemoryMmap, Pages},
    timeline::{Phase, Timeline},
};

use super::{
    balloon, disk, initrd,
    net::{self, Spares},
    vsock,
};
use crate::{api, failure::Failure, files, paths::Paths};

const MIB: u64 = 1 << 20;

/// Opens kernel, initrd, devices and `/dev/kvm`, and maps guest memory; the parts, and what its devices are changed by. A guest that is
/// `directed` may get further devices while it runs.
///
/// # Errors
/// The first thing that is not there, not allowed, or not what it should be.
pub(super) fn open(
    definition: &Definition,
    paths: &Paths,
    timeline: &Timeline,
    (directed, verbose): (bool, bool),
) -> Result<(Parts, api::Handles), Failure> {
    let boot = &definition.boot_source;
    let machine = &definition.machine_config;
    let (mut kernel, entry) = open_kernel(&boot.kernel_image_path, boot.entry, paths)?;
    let (mut devices, mut handles, outposts) = open_devices(definition)?;
    devices.present.extend(vsock::open(definition, paths)?);
    let (initrd, mut transport) = initrd::open(definition, &kernel, paths, (directed, verbose))?;
    if directed {
        if definition.wants_pci() {
            // Even where there are no devices yet.
            transport = Transport::Pci;
        }
        (devices.spare, handles.spares) = match transport {
            Transport::Pci => net::open_spares(devices.free_slots()),
            Transport::Mmio | Transport::Auto => (Vec::new(), Spares::without_pci()),
        };
    }
    let command_line = command_line(definition, transport)?;
    let hypervisor =
        Hypervisor::open().map_err(|error| Failure::new("KVM", &error).hint(error.hint()))?;
    let ram = machine.mem_size_mib * MIB;
    let backing = Backing {
        shared: machine.shared_memory,
        pages: match machine.huge_pages {
            HugePages::None => Pages::Small,
            HugePages::Transparent => Pages::Transparent,
            HugePages::Huge2M => Pages::Huge2M,
        },
    };
    let memory = memory::map(&layout::ram_ranges(ram), backing)
        .map_err(|error| Failure::new("--memory", &error).hint(error.hint()))?;
    if backing == Backing::default() {
        lend(&mut kernel, &memory, &boot.kernel_image_path)?;
    }
    timeline.mark(Phase::MemoryMapped);
    let cpus = u8::try_from(machine.vcpu_count)
        .map_err(|_| Failure::new("--cpus", "there can be 254 at most"))?;
    let parts = Parts {
        hypervisor,
        memory,
        ram,
        kernel,
        entry,
        initrd,
        command_line,
        topology: Topology {
            cpus,
            threads_per_core: if machine.smt { 2 } else { 1 },
        },
        pmu: machine.pmu,
        devices,
        transport,
        outposts,
    };
    Ok((parts, handles))
}

/// The devices in the order in which the guest finds them, what they are changed by, and what is behind those cards that have no TAP.
fn open_devices(definition: &Definition) -> Result<(Devices, api::Handles, Vec<Outpost>), Failure> {
    let (mut devices, disks) = disk::open(definition)?;
    let mut handles = api::Handles {
        disks,
        ..api::Handles::default()
    };
    let outposts;
    (handles.cards, outposts) = net::open(definition, &mut devices)?;
    if let Some(described) = &definition.balloon {
        let (device, handle) = balloon::open(described)?;
        devices.push(device);
        handles.balloon = Some(handle);
    }
    let devices = Devices {
        present: devices,
        spare: Vec::new(),
    };
    Ok((devices, handles, outposts))
}

/// The user's parameters over the defaults, of which the root device is one.
fn command_line(definition: &Definition, transport: Transport) -> Result<String, Failure> {
    let boot = &definition.boot_source;
    let mut defaults = boot_args::DEFAULTS.to_vec();
    defaults.push(boot_args::pci(transport == Transport::Pci));
    defaults.extend(definition.root_drive().map(boot_args::root_of));
    boot_args::merge_over(&defaults, boot.boot_args.as_deref().unwrap_or_default())
        .map_err(|error| Failure::new("--cmdline", error))
}

fn open_kernel(
    path: &Path,
    wanted: Entry,
    paths: &Paths,
) -> Result<(Kernel, vmm::boot::kernel::Entry), Failure> {
    let what = || format!("kernel {}", path.display());
    let file = files::open(path).map_err(|error| Failure::new(what(), error))?;
    let cache = paths
        .cache
        .as_ref()
        .map(|cache| kernel::cache(cache.join("kernel")));
    let refused =
        |error: vmm::boot::kernel::KernelError| Failure::new(what(), &error).hint_if(error.hint());
    let kernel = match wanted {
        Entry::BzImage => Kernel::open_whole(file),
        Entry::Auto | Entry::Linux64 | Entry::Pvh => Kernel::open(file, cache.as_ref()),
    };
    let kernel = kernel.map_err(refused)?;
    let kind = match wanted {
        Entry::Auto | Entry::BzImage => EntryKind::Auto,
        Entry::Linux64 => EntryKind::Linux64,
        Entry::Pvh => EntryKind::Pvh,
    };
    let entry = kernel.entry(kind).map_err(refused)?;
    Ok((kernel, entry))
}

/// Lends the kernel's pages to the guest, where that is possible, instead of copying them.
fn lend(kernel: &mut Kernel, memory: &GuestMemoryMmap, path: &Path) -> Result<(), Failure> {
    kernel.map(memory).map(drop).map_err(|error| {
        Failure::new(format_args!("kernel {}", path.display()), &error).hint_if(error.hint())
    })
}
