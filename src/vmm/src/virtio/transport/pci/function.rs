//! What a virtio device looks like on the bus: its configuration space, and what its base address registers hold.
use crate::{
    arch::x86_64::layout,
    pci::{Bar, Capability, ConfigSpace, Identity, Space, msix},
};

use super::common;

/// The base address register of the doorbells by port: writing to a port costs a guest less than half of what memory does.
pub(super) const PORTS_BAR: u8 = 0;
/// The base address register of all else.
pub(super) const MEMORY_BAR: u8 = 1;
/// Most queues: as many doorbells fit in the ports of one function.
pub(super) const MAX_QUEUES: usize = (layout::PCI_PORTS_STRIDE / NOTIFY_STRIDE) as usize;
/// From one queue's doorbell to the next's (`notify_off_multiplier`).
pub(super) const NOTIFY_STRIDE: u32 = 4;

/// Where things are in the memory of a function.
pub(super) mod area {
    pub(in super::super) const COMMON: u64 = 0x0000;
    pub(in super::super) const ISR: u64 = 0x0800;
    pub(in super::super) const DEVICE: u64 = 0x1000;
    pub(in super::super) const NOTIFY: u64 = 0x2000;
    pub(in super::super) const TABLE: u64 = 0x3000;
    pub(in super::super) const PENDING: u64 = 0x3800;
    pub(in super::super) const END: u64 = super::layout::PCI_MEMORY_STRIDE as u64;
}

// A vector for each queue and one for the configuration.
const _: () = assert!(
    (MAX_QUEUES as u64 + 1) * msix::ENTRY_BYTES as u64 <= area::PENDING - area::TABLE
        && MAX_QUEUES as u64 * NOTIFY_STRIDE as u64 <= area::TABLE - area::NOTIFY
);

/// `cfg_type` of the capabilities (§4.1.4).
mod structure {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
    pub(super) const ACCESS: u8 = 5;
}

/// Vendor specific, by PCI's list of capabilities.
const VENDOR_CAPABILITY: u8 = 0x09;

/// A configuration space, and where its capabilities lie that do something.
pub(super) struct Places {
    pub(super) space: ConfigSpace,
    /// The message control register of MSI-X.
    pub(super) control: usize,
    /// The capability through which others' registers are accessed (`VIRTIO_PCI_CAP_PCI_CFG`).
    pub(super) access: usize,
}

/// Its fields, from its start (§4.1.4.9).
pub(super) mod access {
    pub(in super::super) const BAR: usize = 4;
    pub(in super::super) const OFFSET: usize = 8;
    pub(in super::super) const LENGTH: usize = 12;
    pub(in super::super) const DATA: usize = 16;
}

/// The function of device type `kind`, which is the `index`th virtio device, with `queues` queues.
pub(super) fn places(kind: u32, index: usize, queues: usize, shares_slot: bool) -> Places {
    let mut space = ConfigSpace::new(identity(kind));
    if shares_slot {
        space.set_multifunction();
    }
    let index = u32::try_from(index).expect("a bus has 256 places");
    let doorbells = NOTIFY_STRIDE * u32::try_from(queues).expect("there are few");
    let start = |window: u64| u32::try_from(window).expect("windows lie below 4 GiB");
    space.set_bar(
        PORTS_BAR.into(),
        Bar {
            space: Space::Ports,
            size: doorbells.next_power_of_two().max(NOTIFY_STRIDE),
            address: start(layout::PCI_PORTS.start) + index * layout::PCI_PORTS_STRIDE,
        },
    );
    space.set_bar(
        MEMORY_BAR.into(),
        Bar {
            space: Space::Memory,
            size: layout::PCI_MEMORY_STRIDE,
            address: start(layout::PCI_MEMORY.start) + index * layout::PCI_MEMORY_STRIDE,
        },
    );
    // In the order in which Linux looks for them, as each step over another one is an exit; of the two ways to notify, it
    // takes the first.
    let common = u32::try_from(common::BYTES).expect("64");
    let mut virtio = |kind, bar, offset, length, more: &[u8]| {
        add(&mut space, &structure(kind, bar, offset, length, more), &[])
    };
    let stride = NOTIFY_STRIDE.to_le_bytes();
    virtio(structure::COMMON, MEMORY_BAR, area::COMMON, common, &[]);
    virtio(structure::ISR, MEMORY_BAR, area::ISR, 1, &[]);
    virtio(structure::NOTIFY, PORTS_BAR, 0, doorbells, &stride);
    virtio(
        structure::NOTIFY,
        MEMORY_BAR,
        area::NOTIFY,
        doorbells,
        &stride,
    );
    let room = u32::try_from(area::NOTIFY - area::DEVICE).expect("a page");
    virtio(structure::DEVICE, MEMORY_BAR, area::DEVICE, room, &[]);
    let access = {
        let body = structure(structure::ACCESS, 0, 0, 0, &[0; 4]);
        let mut writable = [0; access::DATA + 4 - 2];
        writable[access::BAR - 2] = 0xff;
        writable[access::OFFSET - 2..].fill(0xff);
        add(&mut space, &body, &writable)
    };
    let control = add_msix(&mut space, queues);
    Places {
        space,
        control,
        access,
    }
}

fn identity(kind: u32) -> Identity {
    const VENDOR: u16 = 0x1af4;
    /// From here on, device ids are types (§4.1.2.1).
    const MODERN: u16 = 0x1040;
    let class = match kind {
        1 => 0x02_0000,
        2 => 0x01_8000,
        3 => 0x07_8000,
        _ => 0xff_0000,
    };
    let device = MODERN + u16::try_from(kind).expect("types are small");
    Identity {
        vendor: VENDOR,
        device,
        revision: 1,
        class,
        subsystem: (VENDOR, device),
    }
}

/// `struct virtio_pci_cap` from `cap_len` on, and what follows it.
fn structure(kind: u8, bar: u8, offset: u64, length: u32, more: &[u8]) -> Vec<u8> {
    const HEADER: u8 = 16;
    let bytes = HEADER + u8::try_from(more.len()).expect("a word");
    let offset = u32::try_from(offset).expect("base address registers are small");
    let mut body = vec![bytes, kind, bar, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}

fn add(space: &mut ConfigSpace, bytes: &[u8], writable: &[u8]) -> usize {
    space.add_capability(Capability {
        id: VENDOR_CAPABILITY,
        bytes,
        writable,
    })
}

/// Where its message control register is.
fn add_msix(space: &mut ConfigSpace, queues: usize) -> usize {
    let last = u16::try_from(queues).expect("there are few");
    let place = |offset: u64| {
        let offset = u32::try_from(offset).expect("base address registers are small");
        (offset | u32::from(MEMORY_BAR)).to_le_bytes()
    };
    let [low, high] = last.to_le_bytes();
    let mut body = vec![low, high];
    body.extend(place(area::TABLE));
    body.extend(place(area::PENDING));
    let capability = space.add_capability(Capability {
        id: msix::CAPABILITY,
        bytes: &body,
        writable: &(msix::ENABLE | msix::MASK_ALL).to_le_bytes(),
    });
    capability + msix::CONTROL
}
