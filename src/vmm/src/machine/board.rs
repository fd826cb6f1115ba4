use std::sync::{Arc, OnceLock};

use super::{Devices, MachineError, Parts};
use crate::{
    arch::x86_64::{
        boot_params::{self, Handover},
        cpuid,
        layout::{self, gsi},
        msr, regs, setup,
    },
    boot::acpi::{self, Found},
    bus::Bus,
    config::Transport,
    irq::Line,
    kvm::{Place, Reserved, Vm},
    legacy::{
        events::Events,
        i8042::ResetOnly,
        ioapic::{self, Ioapic},
        marker::Marker,
        power::Power,
        serial::{SerialPort, Wire},
    },
    metrics::Counter,
    pci,
    timeline::{Phase, Timeline},
    vcpu::{
        Surroundings, Vcpu,
        coalesced::{Coalesced, Selector},
        gate::Gate,
    },
    virtio::transport::{SharedDevice, mmio::Mmio, pci::Pci},
};

/// What exists from one power-on to the next reset: the VM, its devices, its vCPUs.
pub(super) struct Board {
    pub(super) around: Arc<Surroundings>,
    pub(super) serial: Arc<SerialPort>,
    pub(super) gate: Arc<Gate>,
    /// Not yet handed to their threads.
    pub(super) vcpus: Vec<Vcpu>,
    vm: Arc<Vm>,
    events: Arc<Events>,
    bus: Option<Arc<pci::Host>>,
}

impl Board {
    /// Loads the guest into cleared memory and creates the VM around it, with those spare devices that are `plugged`.
    pub(super) fn power_on(
        parts: &Parts,
        plugged: &[bool],
        wire: &Arc<Wire>,
        timeline: &Arc<Timeline>,
    ) -> Result<Self, MachineError> {
        let found = found(parts);
        let pins = gsi::ioapic(match found {
            Found::Mmio(devices) => devices,
            Found::Pci { .. } => 0,
        });
        load(parts, found)?;
        timeline.mark(Phase::KernelLoaded);
        let vm = Arc::new(Vm::create(
            &parts.hypervisor,
            parts.memory.clone(),
            Reserved {
                vmx_tss: layout::VMX_TSS,
                vmx_identity_map: layout::VMX_IDENTITY_MAP,
                ioapic_pins: u8::try_from(pins.len()).expect("a pin per device"),
            },
        )?);
        timeline.mark(Phase::VmCreated);
        let vcpus = create_vcpus(parts, &vm)?;
        timeline.mark(Phase::VcpusCreated);
        let ioapic = Arc::new(Ioapic::new(pins, vm.clone()));
        let serial = Arc::new(SerialPort::new(
            Line::new(ioapic.clone(), gsi::COM1),
            wire.clone(),
        ));
        let events = Arc::new(Events::new(Line::new(ioapic.clone(), gsi::EVENTS)));
        let mut ports = ports(&serial, &events)?;
        let mut mmio = mmio(&ioapic)?;
        let bus = match found {
            Found::Mmio(_) => {
                put_on_mmio(parts, &ioapic, &vm, &mut mmio)?;
                None
            }
            Found::Pci { .. } => Some(put_on_pci(parts, plugged, &vm, &mut ports, &mut mmio)?),
        };
        let around = Arc::new(Surroundings {
            memory: parts.memory.clone(),
            ports,
            mmio,
            coalesced: coalesced(found, vm.clone()),
            other_exits: Counter::default(),
            exits_to_user_space: OnceLock::new(),
            timeline: timeline.clone(),
        });
        let gate = Arc::new(Gate::new(vcpus.len()));
        Ok(Self {
            around,
            serial,
            gate,
            vcpus,
            vm,
            events,
            bus,
        })
    }

    /// Tells the guest that somebody wants it to power off.
    pub(super) fn press_power_button(&self) {
        self.events.press_power_button();
    }

    /// Puts a spare device of `parts` into its slot, and tells the guest.
    pub(super) fn plug(&self, parts: &Parts, spare: usize) {
        let Some((bus, device)) = self.bus.as_ref().zip(parts.devices.spare.get(spare)) else {
            return;
        };
        let index = parts.devices.present.len() + spare;
        if bus.insert(index, function(parts, &self.vm, index, device)) {
            self.events.fill_slot(pci::Host::slot(index));
        }
    }
}

/// How the guest finds its devices. For none there is no bus either.
fn found(parts: &Parts) -> Found {
    let count = |devices: &[SharedDevice]| u8::try_from(devices.len()).expect("at most 64 devices");
    let (present, spare) = (count(&parts.devices.present), count(&parts.devices.spare));
    let first = pci::Host::slot(present.into());
    match parts.transport {
        Transport::Pci if present + spare > 0 => Found::Pci {
            spare_slots: (u8::try_from(first).expect("one of 32"), spare),
        },
        _ => Found::Mmio(present),
    }
}

/// The registers whose writes KVM keeps: those that only select another one.
fn coalesced(found: Found, vm: Arc<Vm>) -> Coalesced {
    let memory = Selector::new(Place::Memory(layout::IOAPIC.0), ioapic::SELECT_BYTES);
    let ports = matches!(found, Found::Pci { .. }).then(|| {
        let ports = layout::PCI_CONFIG_PORTS;
        let first = u16::try_from(ports.start).expect("ports have 16 bits");
        (Selector::new(Place::Port(first), pci::SELECT_BYTES), ports)
    });
    Coalesced::new(vm, memory, ports)
}

/// Puts kernel, initrd, tables and boot structures into guest memory.
fn load(parts: &Parts, found: Found) -> Result<(), MachineError> {
    let memory = &parts.memory;
    let loaded = parts.kernel.load(memory)?;
    let initrd = match &parts.initrd {
        Some(initrd) => Some(initrd.load(memory, parts.ram, loaded.end)?),
        None => None,
    };
    let handover = Handover {
        entry: parts.entry,
        setup_header: parts.kernel.setup_header().copied(),
        ram: parts.ram,
        initrd,
    };
    boot_params::write(memory, &handover, &parts.command_line)?;
    regs::write_tables(memory, parts.entry)?;
    let apic_ids: Vec<u8> = (0..parts.topology.cpus).collect();
    acpi::write_tables(memory, &apic_ids, found)?;
    Ok(())
}

fn create_vcpus(parts: &Parts, vm: &Vm) -> Result<Vec<Vcpu>, MachineError> {
    let supported = parts.hypervisor.supported_cpuid()?;
    let options = cpuid::Options {
        topology: parts.topology,
        pmu: parts.pmu,
        tsc_deadline: parts.hypervisor.has_tsc_deadline(),
    };
    let msrs = msr::at_boot().map_err(MachineError::Registers)?;
    (0..parts.topology.cpus)
        .map(|index| {
            let cpuid =
                cpuid::for_vcpu(&supported, options, index).map_err(MachineError::Registers)?;
            let entry = (index == 0).then_some(parts.entry);
            let vcpu = vm.create_vcpu(index)?;
            setup::prepare(&vcpu, &cpuid, &msrs, entry)?;
            Ok(Vcpu::new(vcpu, index)?)
        })
        .collect()
}

fn ports(serial: &Arc<SerialPort>, events: &Arc<Events>) -> Result<Bus, MachineError> {
    let range = |first: u16, count: u16| u64::from(first)..u64::from(first) + u64::from(count);
    let mut ports = Bus::default();
    ports.insert(
        "serial",
        range(layout::COM1_PORT, layout::COM1_PORTS),
        serial.clone(),
    )?;
    ports.insert(
        "power",
        range(layout::POWER_PORT, layout::POWER_PORTS),
        Arc::new(Power),
    )?;
    ports.insert(
        "events",
        range(layout::EVENT_PORT, layout::EVENT_PORTS),
        events.clone(),
    )?;
    ports.insert(
        "i8042",
        range(layout::I8042_PORT, layout::I8042_PORTS),
        Arc::new(ResetOnly),
    )?;
    ports.insert("marker", range(layout::MARKER_PORT, 1), Arc::new(Marker))?;
    Ok(ports)
}

fn mmio(ioapic: &Arc<Ioapic>) -> Result<Bus, MachineError> {
    let mut mmio = Bus::default();
    let start = layout::IOAPIC.0;
    mmio.insert("ioapic", start..start + layout::IOAPIC_SIZE, ioapic.clone())?;
    Ok(mmio)
}

fn put_on_mmio(
    parts: &Parts,
    ioapic: &Arc<Ioapic>,
    vm: &Arc<Vm>,
    mmio: &mut Bus,
) -> Result<(), MachineError> {
    for ((index, device), gsi) in (0..).zip(&parts.devices.present).zip(gsi::VIRTIO..) {
        let address = layout::VIRTIO_MMIO.0 + index * layout::VIRTIO_MMIO_STRIDE;
        let line = Line::new(ioapic.clone(), gsi);
        let registers = Mmio::new(
            address,
            device.clone(),
            parts.memory.clone(),
            line,
            vm.clone(),
        );
        mmio.insert("virtio", registers.range(), Arc::new(registers))?;
    }
    Ok(())
}

/// The `index`th device on the PCI bus.
fn function(
    parts: &Parts,
    vm: &Arc<Vm>,
    index: usize,
    device: &SharedDevice,
) -> Arc<dyn pci::Function> {
    Arc::new(Pci::new(
        (index, parts.devices.len()),
        device.clone(),
        parts.memory.clone(),
        vm.clone(),
        vm.clone(),
    ))
}

fn put_on_pci(
    parts: &Parts,
    plugged: &[bool],
    vm: &Arc<Vm>,
    ports: &mut Bus,
    mmio: &mut Bus,
) -> Result<Arc<pci::Host>, MachineError> {
    let Devices { present, spare } = &parts.devices;
    let here = present.iter().enumerate();
    let here = here.map(|(index, device)| function(parts, vm, index, device));
    let host = Arc::new(pci::Host::new(here.collect()));
    let came = (present.len()..).zip(spare).zip(plugged);
    for ((index, device), _) in came.filter(|(_, plugged)| **plugged) {
        host.insert(index, function(parts, vm, index, device));
    }
    let window = |space| Arc::new(pci::Window(host.clone(), space));
    let (port, memory) = (pci::Space::Ports, pci::Space::Memory);
    ports.insert(
        "pci-config",
        layout::PCI_CONFIG_PORTS,
        Arc::new(pci::ConfigPorts(host.clone())),
    )?;
    ports.insert("pci-ports", port.window(), window(port))?;
    mmio.insert("pci-memory", memory.window(), window(memory))?;
    let ecam = Arc::new(pci::Ecam(host.clone()));
    mmio.insert("pci-ecam", layout::PCI_ECAM, ecam)?;
    Ok(host)
}
