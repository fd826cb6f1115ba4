//! ACPI tables of a hardware-reduced machine (ACPI 6.5 §4.1): no SCI, no PM timer, no FACS, no 8259.
//!
//! RSDP → XSDT → FADT (reset and sleep registers; → DSDT), MADT, MCFG where there is PCI. The DSDT describes the serial port, a
//! power button and PCI slots, of which the generic event device tells (§5.6.9), and virtio devices over MMIO or the PCI bus.
mod events;
mod pci;

use acpi_tables::{
    Aml, aml,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::x86_64::layout::{
    ACPI_TABLES, ACPI_TABLES_END, COM1_PORT, COM1_PORTS, IOAPIC, LOCAL_APIC, POWER_PORT,
    VIRTIO_MMIO, VIRTIO_MMIO_STRIDE, VIRTIO_MMIO_WINDOW, gsi, power,
};

const OEM: [u8; 6] = *b"AMPOUL";
const TABLE: [u8; 8] = *b"AMPOULE ";
const REVISION: u32 = 1;

/// How a guest finds its virtio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// So many are described, one by one.
    Mmio(u8),
    /// A PCI bus is described, on which they are.
    Pci {
        /// The first slot into which a device may still come, and how many there are.
        spare_slots: (u8, u8),
    },
}

/// Why the tables could not be placed.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// The tables outgrew their room.
    #[error("the ACPI tables need {0} bytes, more than their room")]
    TooLarge(u64),
    /// The guest has no RAM there.
    #[error("the ACPI tables cannot be written to guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// Appends tables one after another, 16-byte aligned, from [`ACPI_TABLES`] on.
struct Writer<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Writer<'_> {
    fn append(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let at = self.next;
        let end = at + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if end > ACPI_TABLES_END {
            return Err(AcpiError::TooLarge(end - ACPI_TABLES.0));
        }
        self.memory.write_slice(&bytes, GuestAddress(at))?;
        self.next = end.next_multiple_of(16);
        Ok(at)
    }
}

/// Writes all tables for a machine whose vCPUs have the given APIC ids, and whose virtio devices are
/// found as `devices` says; the RSDP lies at [`ACPI_TABLES`].
///
/// # Errors
/// When the tables do not fit, or the guest has no RAM there.
pub fn write_tables(
    memory: &GuestMemoryMmap,
    apic_ids: &[u8],
    devices: Found,
) -> Result<(), AcpiError> {
    let mut writer = Writer {
        memory,
        next: ACPI_TABLES.0 + 64,
    };
    let dsdt = writer.append(&dsdt(devices))?;
    let fadt = writer.append(&fadt(dsdt))?;
    let madt = writer.append(&madt(apic_ids))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if matches!(devices, Found::Pci { .. }) {
        xsdt.add_entry(writer.append(&pci::mcfg())?);
    }
    let xsdt = writer.append(&xsdt)?;
    writer.next = ACPI_TABLES.0;
    writer.append(&Rsdp::new(OEM, xsdt))?;
    Ok(())
}

fn power_register(offset: u16) -> GAS {
    let port = u64::from(POWER_PORT + offset);
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    /// IA-PC boot architecture flags (§5.2.9.3): no VGA, no PCIe ASPM, no CMOS clock; the 8042 bit stays clear, so
    /// that no kernel waits for a keyboard controller.
    const NO_VGA: u16 = 1 << 2;
    const NO_ASPM: u16 = 1 << 4;
    const NO_CMOS_CLOCK: u16 = 1 << 5;
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = (NO_VGA | NO_ASPM | NO_CMOS_CLOCK).into();
    fadt.sleep_control_reg = power_register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = power_register(power::SLEEP_STATUS);
    fadt.reset_reg = power_register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

fn madt(apic_ids: &[u8]) -> MADT {
    let address = |at: GuestAddress| u32::try_from(at.0).expect("APICs lie below 4 GiB");
    let local = LocalInterruptController::Address(address(LOCAL_APIC));
    let mut madt = MADT::new(OEM, TABLE, REVISION, local);
    for &id in apic_ids {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, address(IOAPIC), u32::from(gsi::COM1)));
    madt
}

fn dsdt(devices: Found) -> Dsdt {
    let mut body = Vec::new();
    let name = |n: &str| aml::Path::new(n);
    let crs = |children| aml::Name::new(name("_CRS"), &aml::ResourceTemplate::new(children));
    let length = u8::try_from(COM1_PORTS).expect("eight ports");
    let (ports, line) = (
        aml::IO::new(COM1_PORT, COM1_PORT, 1, length),
        edge(gsi::COM1),
    );
    aml::Device::new(
        name("_SB_.COM1"),
        vec![
            &aml::Name::new(name("_HID"), &aml::EISAName::new("PNP0501")),
            &aml::Name::new(name("_UID"), &aml::ZERO),
            &crs(vec![&ports, &line]),
        ],
    )
    .to_aml_bytes(&mut body);
    match devices {
        Found::Mmio(devices) => (0..devices).for_each(|index| virtio(index, &mut body)),
        Found::Pci { spare_slots } => pci::describe(spare_slots, &mut body),
    }
    events::describe(devices, &mut body);
    let sleep_type = aml::Package::new(vec![&power::S5_TYPE]);
    aml::Name::new(name("_S5_"), &sleep_type).to_aml_bytes(&mut body);
    Dsdt(body)
}

fn edge(gsi: u8) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, u32::from(gsi))
}

/// The virtio device number `index` (its `_HID` is the one that Linux and EDK II know).
fn virtio(index: u8, body: &mut Vec<u8>) {
    let address = VIRTIO_MMIO.0 + u64::from(index) * VIRTIO_MMIO_STRIDE;
    let address = u32::try_from(address).expect("the hole lies below 4 GiB");
    let registers = aml::Memory32Fixed::new(true, address, VIRTIO_MMIO_WINDOW);
    let interrupt = edge(gsi::VIRTIO + index);
    let resources = aml::ResourceTemplate::new(vec![&registers, &interrupt]);
    aml::Device::new(
        aml::Path::new(&format!("_SB_.VR{index:02X}")),
        vec![
            &aml::Name::new(aml::Path::new("_HID"), &"LNRO0005"),
            &aml::Name::new(aml::Path::new("_UID"), &index),
            // Its accesses to memory see what the processors see.
            &aml::Name::new(aml::Path::new("_CCA"), &aml::ONE),
            &aml::Name::new(aml::Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(body);
}

/// The DSDT's definition block.
struct Dsdt(Vec<u8>);

impl Aml for Dsdt {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        const HEADER: u32 = 36;
        let mut table = Sdt::new(*b"DSDT", HEADER, 6, OEM, TABLE, REVISION);
        table.append_slice(&self.0);
        sink.vec(table.as_slice());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::arch::x86_64::layout::VIRTIO_MMIO_MAX;

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn tables(cpus: u8) -> Vec<u8> {
        tables_of(cpus, Found::Mmio(VIRTIO_MMIO_MAX))
    }

    fn tables_of(cpus: u8, devices: Found) -> Vec<u8> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory, &(0..cpus).collect::<Vec<_>>(), devices).unwrap();
        let mut bytes = vec![0; 0x2_0000];
        memory.read_slice(&mut bytes, ACPI_TABLES).unwrap();
        bytes
    }

    /// The tables that the XSDT and the FADT point to, by signature.
    fn find<'a>(bytes: &'a [u8], signature: &[u8]) -> &'a [u8] {
        let at = bytes.windows(4).position(|w| w == signature).unwrap();
        &bytes[at..at + u32_at(bytes, at + 4)]
    }

    #[test]
    fn every_table_sums_to_zero() {
        let bytes = tables(2);
        let sum = |table: &[u8]| table.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        for signature in [b"DSDT", b"FACP", b"APIC", b"XSDT"] {
            assert_eq!(sum(find(&bytes, signature)), 0, "{signature:?}");
        }
        assert_eq!(sum(&bytes[..20]), 0);
        assert_eq!(sum(&bytes[..36]), 0);
    }

    #[test]
    fn the_largest_machine_has_all_its_processors() {
        let bytes = tables(254);
        let madt = find(&bytes, b"APIC");
        let processors = madt[44..]
            .chunks_exact(8)
            .filter(|entry| entry[..2] == [0, 8])
            .count();
        assert_eq!(processors, 254);
    }

    #[test]
    fn every_virtio_device_has_registers_and_an_interrupt_of_its_own() {
        let bytes = tables(1);
        let dsdt = find(&bytes, b"DSDT");
        let mut places = BTreeSet::new();
        let mut interrupts = BTreeSet::new();
        for at in 0..dsdt.len() - 12 {
            // Large resource items (ACPI 6.5 §6.4.3): 32-bit fixed memory, extended interrupt.
            match dsdt[at..at + 3] {
                [0x86, 9, 0] if u32_at(dsdt, at + 8) == 0x200 => {
                    places.insert(u32_at(dsdt, at + 4));
                }
                [0x89, 6, 0] => {
                    interrupts.insert(u32_at(dsdt, at + 5));
                }
                _ => {}
            }
        }
        assert_eq!(places.len(), 64);
        assert_eq!(places.first(), Some(&0xd000_0000));
        assert_eq!(places.last(), Some(&0xd003_f000));
        // With those of the serial port and of the events.
        assert_eq!(interrupts, (4..70).collect());
    }

    #[test]
    fn each_spare_slot_is_described_and_told() {
        let spare_slots = (5, 3);
        let bytes = tables_of(1, Found::Pci { spare_slots });
        let dsdt = find(&bytes, b"DSDT");
        let count = |name: &[u8]| dsdt.windows(name.len()).filter(|at| *at == name).count();
        // Where it is described, and where it is told.
        for (slot, times) in [("S004", 0), ("S005", 2), ("S007", 2), ("S008", 0)] {
            assert_eq!(count(slot.as_bytes()), times, "{slot}");
        }
        assert_eq!(count(b"_EJ0"), 3);
        let without = tables(1);
        let without = find(&without, b"DSDT");
        assert!(!without.windows(4).any(|name| name == b"_EJ0"));
    }

    #[test]
    fn the_machine_is_hardware_reduced_without_a_keyboard_controller() {
        let bytes = tables(1);
        let fadt = find(&bytes, b"FACP");
        assert_ne!(u32_at(fadt, 112) & (1 << 20), 0);
        assert_eq!(fadt[109] & 2, 0);
    }
}
