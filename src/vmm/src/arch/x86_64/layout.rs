//! The guest's physical address map and its I/O ports.
//!
//! ```text
//! 0x0000_0000  real-mode vectors, BIOS data area (the warm-boot word below)
//! 0x0000_0500  boot GDT            0x0000_7000  zero page
//! 0x0000_6000  PVH start info      0x0000_8ff0  boot stack, growing down
//! 0x0000_9000  boot page tables    0x0002_0000  command line
//! 0x0009_fc00  reserved: ACPI tables at 0xe_0000
//! 0x0010_0000  kernel, then RAM up to the hole; the initrd ends below it
//! 0xc000_0000  hole: virtio-mmio, PCI, IOAPIC, local APICs, the TSS that VMX wants
//! 0x1_0000_0000 RAM beyond 3 GiB
//! ```
use std::ops::Range;

use vm_memory::GuestAddress;

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Bytes in a gibibyte.
pub const GIB: u64 = 1 << 30;

/// The BIOS data area's word at 40:72, where Linux says how it wants to reset: 0x1234 means warm.
pub const WARM_BOOT_WORD: GuestAddress = GuestAddress(0x472);
/// The global descriptor table that the first vCPU starts with.
pub const BOOT_GDT: GuestAddress = GuestAddress(0x500);
/// PVH `hvm_start_info`; its module and memory map tables follow in the same page.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// The Linux boot protocol's `boot_params`.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Initial stack pointer; Linux replaces it at once.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Page map level 4, directory pointers, directory: three pages that map the first GiB onto itself.
pub const BOOT_PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The kernel command line, NUL terminated.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// `COMMAND_LINE_SIZE` of Linux on x86, the NUL included.
pub const COMMAND_LINE_MAX: usize = 2048;
/// End of conventional memory: from here to 1 MiB the memory map says reserved.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The RSDP, then all other ACPI tables. Within the range that firmware-less kernels scan.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// First byte after the ACPI tables' room.
pub const ACPI_TABLES_END: u64 = HIGH_RAM_START;
/// Where RAM for kernels begins.
pub const HIGH_RAM_START: u64 = MIB;
/// Start of the 32-bit hole.
pub const HOLE_START: u64 = 3 * GIB;
/// End of the 32-bit hole.
pub const HOLE_END: u64 = 4 * GIB;
/// The registers of the first virtio device over MMIO; the others follow, a page each.
pub const VIRTIO_MMIO: GuestAddress = GuestAddress(0xd000_0000);
/// Bytes of the registers of one, its configuration space included.
pub const VIRTIO_MMIO_WINDOW: u32 = 0x200;
/// Bytes from one of these devices to the next.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Most of them: each has a pin of the I/O APIC.
pub const VIRTIO_MMIO_MAX: u8 = 64;
/// Guest physical addresses for functions of the PCI bus.
pub const PCI_MEMORY: Range<u64> = 0xe000_0000..0xf000_0000;
/// Of these, bytes for each function: the `n`th virtio device has the `n`th piece at first.
pub const PCI_MEMORY_STRIDE: u32 = 0x4000;
/// The configuration spaces of the functions of PCI bus 0, a page each (PCI Express's ECAM).
pub const PCI_ECAM: Range<u64> = 0xf000_0000..0xf010_0000;
/// Bytes from one of these configuration spaces to the next.
pub const PCI_ECAM_STRIDE: u64 = 0x1000;
/// The I/O APIC's registers.
pub const IOAPIC: GuestAddress = GuestAddress(0xfec0_0000);
/// Bytes of the I/O APIC's register window.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// The local APICs' registers.
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);
/// Three pages that VMX without unrestricted guests needs; unused on other hosts.
pub const VMX_TSS: u32 = 0xfffb_d000;
/// One page for VMX's identity map in real mode, just below the TSS.
pub const VMX_IDENTITY_MAP: u32 = VMX_TSS - 0x1000;

/// ACPI sleep control, sleep status and reset registers: three bytes from here, at the offsets in [`power`].
pub const POWER_PORT: u16 = 0x600;
/// Bytes of the power registers.
pub const POWER_PORTS: u16 = 3;

/// The power registers, which the ACPI tables announce and a device implements.
pub mod power {
    /// Offset of the sleep control register.
    pub const SLEEP_CONTROL: u16 = 0;
    /// Offset of the sleep status register.
    pub const SLEEP_STATUS: u16 = 1;
    /// Offset of the reset register.
    pub const RESET: u16 = 2;
    /// What a reset takes.
    pub const RESET_VALUE: u8 = 1;
    /// `SLP_TYP` of soft-off; the DSDT's `_S5_` package says so to the guest.
    pub const S5_TYPE: u8 = 5;
}
/// What the generic event device asks when it is interrupted: registers from here, at the offsets in [`event`].
pub const EVENT_PORT: u16 = 0x608;
/// Bytes of these registers.
pub const EVENT_PORTS: u16 = 8;

/// The event registers, which the ACPI tables announce and a device implements.
pub mod event {
    /// Offset of the register, of a byte, that says what happened since it was last read.
    pub const CAUSES: u16 = 0;
    /// Offset of the register, of four bytes, that says which PCI slots have been filled since it was last read: a bit for each.
    pub const FILLED: u16 = 4;
    /// A cause: the power button was pressed.
    pub const POWER_BUTTON: u8 = 1;
    /// A cause: a slot has been filled.
    pub const SLOTS: u8 = 2;
}
/// First serial port.
pub const COM1_PORT: u16 = 0x3f8;
/// Bytes of a serial port's registers.
pub const COM1_PORTS: u16 = 8;
/// The keyboard controller's data port; its status and command port is four above.
pub const I8042_PORT: u16 = 0x60;
/// From the data port to the command port, both included.
pub const I8042_PORTS: u16 = 5;
/// PCI's configuration by ports: a register that selects another, and that other.
pub const PCI_CONFIG_PORTS: Range<u64> = 0xcf8..0xd00;
/// I/O ports for functions of the PCI bus.
pub const PCI_PORTS: Range<u64> = 0x1000..0x5000;
/// Of these, ports for each function: the `n`th virtio device has the `n`th piece at first.
pub const PCI_PORTS_STRIDE: u32 = 0x100;
/// POST code port: init writes 0x41 here to say that user space runs.
pub const MARKER_PORT: u16 = 0x80;

/// Global system interrupts, one per source: an I/O APIC with no spare pins costs the guest the fewest exits.
///
/// They do not begin with 0, which Linux's ACPI takes for no interrupt at all.
pub mod gsi {
    use super::Range;

    /// First serial port, where a PC has it.
    pub const COM1: u8 = 4;
    /// The ACPI generic event device: power button, PCI slots.
    pub const EVENTS: u8 = 5;
    /// The first virtio device over MMIO; the others follow.
    pub const VIRTIO: u8 = 6;

    /// Those of the I/O APIC's pins on a machine with `devices` virtio devices over MMIO.
    pub fn ioapic(devices: u8) -> Range<u8> {
        COM1..VIRTIO + devices
    }
}

/// The ranges of guest-physical RAM, as (start, bytes), for `size` bytes in all: split around the hole.
pub fn ram_ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((GuestAddress(HOLE_END), size - low));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_one_range_below_the_hole_and_two_beyond() {
        assert_eq!(ram_ranges(512 * MIB), [(GuestAddress(0), 512 * MIB)]);
        assert_eq!(ram_ranges(3 * GIB), [(GuestAddress(0), 3 * GIB)]);
        assert_eq!(
            ram_ranges(6 * GIB),
            [(GuestAddress(0), 3 * GIB), (GuestAddress(4 * GIB), 3 * GIB)]
        );
    }
}
