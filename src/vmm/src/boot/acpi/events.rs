//! The generic event device in the ACPI tables (ACPI 6.5 §5.6.9): what it asks when it is interrupted, and whom it tells.
use acpi_tables::{
    Aml,
    aml::{self, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, OpRegionSpace},
};

use super::{Found, edge, pci};
use crate::arch::x86_64::layout::{EVENT_PORT, EVENT_PORTS, event, gsi};

/// What a power button is told (§4.8.3.1.1.2).
const BUTTON_PRESSED: u8 = 0x80;
/// What a slot is told (§5.6.6): something is there.
const DEVICE_CHECK: u8 = 1;

/// The power button, and the device that tells it and the slots of a PCI bus. Behind what it tells.
pub(super) fn describe(devices: Found, body: &mut Vec<u8>) {
    let name = |n: &str| aml::Path::new(n);
    aml::Device::new(
        name("_SB_.PWRB"),
        vec![
            &aml::Name::new(name("_HID"), &aml::EISAName::new("PNP0C0C")),
            &aml::Name::new(name("_UID"), &aml::ZERO),
        ],
    )
    .to_aml_bytes(body);
    let line = edge(gsi::EVENTS);
    let (causes, filled) = (aml::Local(0), aml::Local(1));
    let (read_causes, read_filled) = (name("CAUS"), name("FILL"));
    let take_causes = aml::Store::new(&causes, &read_causes);
    let take_filled = aml::Store::new(&filled, &read_filled);
    let pressed = aml::And::new(&aml::ZERO, &causes, &event::POWER_BUTTON);
    let button = name("\\_SB_.PWRB");
    let tell_button = aml::Notify::new(&button, &BUTTON_PRESSED);
    let if_pressed = aml::If::new(&pressed, vec![&tell_button]);
    let slots: Vec<_> = match devices {
        Found::Pci { spare_slots } => pci::slots(spare_slots).map(Slot).collect(),
        Found::Mmio(_) => Vec::new(),
    };
    let mut tell_slots: Vec<&dyn Aml> = vec![&take_filled];
    tell_slots.extend(slots.iter().map(|slot| slot as &dyn Aml));
    let changed = aml::And::new(&aml::ZERO, &causes, &event::SLOTS);
    let if_changed = aml::If::new(&changed, tell_slots);
    aml::Device::new(
        name("_SB_.GED_"),
        vec![
            &aml::Name::new(name("_HID"), &"ACPI0013"),
            &aml::Name::new(name("_UID"), &aml::ZERO),
            &aml::Name::new(name("_CRS"), &aml::ResourceTemplate::new(vec![&line])),
            &aml::OpRegion::new(
                name("EVNT"),
                OpRegionSpace::SystemIO,
                &EVENT_PORT,
                &EVENT_PORTS,
            ),
            &registers(FieldAccessType::Byte, event::CAUSES, *b"CAUS", 8),
            &registers(FieldAccessType::DWord, event::FILLED, *b"FILL", 32),
            &aml::Method::new(
                name("_EVT"),
                1,
                true,
                vec![&take_causes, &if_pressed, &if_changed],
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// One register of the event registers, at `offset`, of `bits` bits.
fn registers(access: FieldAccessType, offset: u16, name: [u8; 4], bits: usize) -> aml::Field {
    let mut fields = vec![FieldEntry::Named(name, bits)];
    if offset > 0 {
        fields.insert(0, FieldEntry::Reserved(usize::from(offset) * 8));
    }
    let (lock, update) = (FieldLockRule::NoLock, FieldUpdateRule::Preserve);
    aml::Field::new(aml::Path::new("EVNT"), access, lock, update, fields)
}

/// What tells slot `.0`, if it has been filled.
struct Slot(u8);

impl Aml for Slot {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let filled = aml::Local(1);
        let bit = 1u32 << self.0;
        let is_filled = aml::And::new(&aml::ZERO, &filled, &bit);
        let device = aml::Path::new(&format!("\\_SB_.PCI0.{}", pci::slot_name(self.0)));
        let tell = aml::Notify::new(&device, &DEVICE_CHECK);
        aml::If::new(&is_filled, vec![&tell]).to_aml_bytes(sink);
    }
}
