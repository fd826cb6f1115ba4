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

/// The host bridge, and a device that keeps the configuration spaces' memory from being used otherwise (§4.1.2 again).
pub(super) fn describe(body: &mut Vec<u8>) {
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
    aml::Device::new(
        name("_SB_.PCI0"),
        vec![
            &id("_HID", "PNP0A08"),
            &id("_CID", "PNP0A03"),
            &aml::Name::new(name("_UID"), &aml::ZERO),
            &aml::Name::new(name("_SEG"), &aml::ZERO),
            &aml::Name::new(name("_BBN"), &aml::ZERO),
            // Its accesses to memory see what the processors see.
            &aml::Name::new(name("_CCA"), &aml::ONE),
            &crs(vec![&buses, &config, &ports, &memory]),
        ],
    )
    .to_aml_bytes(body);
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
