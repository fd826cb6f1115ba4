//! A PCI bus in the ACPI tables: where it is, and what it passes on.
use acpi_tables::{
    Aml,
    aml::{self, AddressSpaceCacheable},
    mcfg::MCFG,
};

use super::{OEM, REVISION, TABLE};
use crate::arch::x86_64::layout::{PCI_CONFIG_PORTS, PCI_ECAM, PCI_MEMORY, PCI_PORTS};

/// Where configuration spaces are in memory (PCI Firmware 3.3 §4.1.2).
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(PCI_ECAM.start, 0, 0, 0);
    mcfg
}

fn port(port: u64) -> u16 {
    u16::try_from(port).expect("ports have 16 bits")
}

fn address(address: u64) -> u32 {
    u32::try_from(address).expect("the hole lies below 4 GiB")
}

/// The slots into which a device may still come, from the first and their number.
pub(super) fn slots((first, count): (u8, u8)) -> std::ops::Range<u8> {
    first..first + count
}

/// What slot `slot` is called, below the host bridge.
pub(super) fn slot_name(slot: u8) -> String {
    format!("S{slot:03}")
}

/// A slot into which a device may come while the guest runs. That it has an eject method says so (ACPI 6.5 §6.3.3): what is in it
/// stays in it.
struct Slot(u8);

impl Aml for Slot {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let name = |n: &str| aml::Path::new(n);
        // Of function 0 (§6.1.1).
        let address = u32::from(self.0) << 16;
        aml::Device::new(
            name(&slot_name(self.0)),
            vec![
                &aml::Name::new(name("_ADR"), &address),
                &aml::Name::new(name("_SUN"), &self.0),
                &aml::Method::new(name("_EJ0"), 1, false, vec![]),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The host bridge with its `spare` slots, and a device that keeps the configuration spaces' memory from being used otherwise (§4.1.2 again).
pub(super) fn describe(spare: (u8, u8), body: &mut Vec<u8>) {
    let name = |n: &str| aml::Path::new(n);
    let crs = |children| aml::Name::new(name("_CRS"), &aml::ResourceTemplate::new(children));
    let id = |key: &str, id: &str| aml::Name::new(name(key), &aml::EISAName::new(id));
    let config = port(PCI_CONFIG_PORTS.start);
    let config_ports = u8::try_from(PCI_CONFIG_PORTS.count()).expect("eight ports");
    let buses = aml::AddressSpace::new_bus_number(0u16, 0u16);
    let config = aml::IO::new(config, config, 1, config_ports);
    let ports = aml::AddressSpace::new_io(port(PCI_PORTS.start), port(PCI_PORTS.end - 1), None);
    let memory = aml::AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        address(PCI_MEMORY.start),
        address(PCI_MEMORY.end - 1),
        None,
    );
    let (uid, segment, bus) = (
        aml::Name::new(name("_UID"), &aml::ZERO),
        aml::Name::new(name("_SEG"), &aml::ZERO),
        aml::Name::new(name("_BBN"), &aml::ZERO),
    );
    let (hid, cid) = (id("_HID", "PNP0A08"), id("_CID", "PNP0A03"));
    // Its accesses to memory see what the processors see.
    let coherent = aml::Name::new(name("_CCA"), &aml::ONE);
    let resources = crs(vec![&buses, &config, &ports, &memory]);
    let mut children: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &segment, &bus, &coherent, &resources];
    let slots: Vec<_> = slots(spare).map(Slot).collect();
    children.extend(slots.iter().map(|slot| slot as &dyn Aml));
    aml::Device::new(name("_SB_.PCI0"), children).to_aml_bytes(body);
    let length = address(PCI_ECAM.end - PCI_ECAM.start);
    let ecam = aml::Memory32Fixed::new(true, address(PCI_ECAM.start), length);
    aml::Device::new(
        name("_SB_.ECAM"),
        vec![
            &id("_HID", "PNP0C02"),
            &aml::Name::new(name("_UID"), &aml::ZERO),
            &crs(vec![&ecam]),
        ],
    )
    .to_aml_bytes(body);
}
