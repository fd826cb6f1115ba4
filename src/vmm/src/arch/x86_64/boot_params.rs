//! What the kernel is told about the machine: the zero page (Linux boot protocol) or the PVH start info.
use linux_loader::loader::{
    bootparam::{boot_e820_entry, boot_params, setup_header},
    elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::Entry;
use super::layout::{
    ACPI_TABLES, COMMAND_LINE, COMMAND_LINE_MAX, HIGH_RAM_START, HOLE_END, HOLE_START, LOW_RAM_END,
    PVH_START_INFO, ZERO_PAGE,
};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Everything the kernel is handed besides its registers.
#[derive(Clone, Debug)]
pub struct Handover {
    /// How the kernel is entered.
    pub entry: Entry,
    /// The header of the bzImage that the kernel came from, if any.
    pub setup_header: Option<setup_header>,
    /// Bytes of RAM in all.
    pub ram: u64,
    /// Where the initrd lies and its bytes.
    pub initrd: Option<(GuestAddress, u32)>,
}

/// The memory map: conventional memory, what firmware would keep, RAM on both sides of the hole.
fn memory_map(ram: u64) -> Vec<(u64, u64, u32)> {
    let low_end = ram.min(HOLE_START);
    let mut map = vec![
        (0, LOW_RAM_END, E820_RAM),
        (LOW_RAM_END, HIGH_RAM_START - LOW_RAM_END, E820_RESERVED),
        (HIGH_RAM_START, low_end - HIGH_RAM_START, E820_RAM),
    ];
    if ram > HOLE_START {
        map.push((HOLE_END, ram - HOLE_START, E820_RAM));
    }
    map
}

/// A type of the boot protocols that is plain bytes in guest memory.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: `boot_params` is a packed C structure of integers and arrays of integers: any bytes are a value of it.
unsafe impl ByteValued for Plain<boot_params> {}
// SAFETY: `hvm_start_info` is a C structure of integers without padding (asserted where it is defined).
unsafe impl ByteValued for Plain<hvm_start_info> {}
// SAFETY: as above.
unsafe impl ByteValued for Plain<hvm_modlist_entry> {}
// SAFETY: as above.
unsafe impl ByteValued for Plain<hvm_memmap_table_entry> {}

/// Writes the command line and the structure that `handover.entry` calls for.
///
/// # Errors
/// When the guest has no RAM where they belong.
pub fn write(
    memory: &GuestMemoryMmap,
    handover: &Handover,
    command_line: &str,
) -> Result<(), GuestMemoryError> {
    debug_assert!(command_line.len() < COMMAND_LINE_MAX);
    memory.write_slice(command_line.as_bytes(), COMMAND_LINE)?;
    match handover.entry {
        Entry::Linux64(_) => memory.write_obj(Plain(zero_page(handover)), ZERO_PAGE),
        Entry::Pvh(_) => write_start_info(memory, handover),
    }
}

/// The low half of an address that is known to lie below 4 GiB.
fn below_4_gib(address: GuestAddress) -> u32 {
    u32::try_from(address.0).expect("boot structures and the initrd lie below the hole")
}

fn zero_page(handover: &Handover) -> boot_params {
    const BOOT_FLAG: u16 = 0xaa55;
    const MAGIC: u32 = 0x5372_6448;
    const LOADER_UNDEFINED: u8 = 0xff;
    const OLDEST_WITH_64_BIT: u16 = 0x020c;
    let mut header = handover.setup_header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: MAGIC,
        version: OLDEST_WITH_64_BIT,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    });
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = below_4_gib(COMMAND_LINE);
    header.cmdline_size = u32::try_from(COMMAND_LINE_MAX - 1).expect("2047 fits");
    if let Some((address, size)) = handover.initrd {
        header.ramdisk_image = below_4_gib(address);
        header.ramdisk_size = size;
    }
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: ACPI_TABLES.0,
        ..Default::default()
    };
    let map = memory_map(handover.ram);
    for (slot, &(addr, size, type_)) in map.iter().enumerate() {
        params.e820_table[slot] = boot_e820_entry {
            addr,
            size,
            r#type: type_,
        };
    }
    params.e820_entries = u8::try_from(map.len()).expect("at most four entries");
    params
}

fn write_start_info(memory: &GuestMemoryMmap, handover: &Handover) -> Result<(), GuestMemoryError> {
    const MAGIC: u32 = 0x336e_c578;
    const VERSION_WITH_MEMORY_MAP: u32 = 1;
    let modules_at = GuestAddress(PVH_START_INFO.0 + 0x40);
    let map_at = GuestAddress(PVH_START_INFO.0 + 0x80);
    let map = memory_map(handover.ram);
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION_WITH_MEMORY_MAP,
        cmdline_paddr: COMMAND_LINE.0,
        rsdp_paddr: ACPI_TABLES.0,
        memmap_paddr: map_at.0,
        memmap_entries: u32::try_from(map.len()).expect("at most four entries"),
        ..Default::default()
    };
    if let Some((address, size)) = handover.initrd {
        info.nr_modules = 1;
        info.modlist_paddr = modules_at.0;
        let module = hvm_modlist_entry {
            paddr: address.0,
            size: u64::from(size),
            ..Default::default()
        };
        memory.write_obj(Plain(module), modules_at)?;
    }
    for (&(addr, size, type_), at) in map.iter().zip((map_at.0..).step_by(24)) {
        let entry = hvm_memmap_table_entry {
            addr,
            size,
            type_,
            reserved: 0,
        };
        memory.write_obj(Plain(entry), GuestAddress(at))?;
    }
    memory.write_obj(Plain(info), PVH_START_INFO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::layout::{GIB, MIB};

    fn handover(entry: Entry, ram: u64) -> Handover {
        Handover {
            entry,
            setup_header: None,
            ram,
            initrd: Some((GuestAddress(0x100_0000), 4096)),
        }
    }

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    #[test]
    fn the_zero_page_points_to_command_line_initrd_and_acpi() {
        let entry = Entry::Linux64(GuestAddress(0x100_0000));
        let memory = memory();
        write(&memory, &handover(entry, 6 * GIB), "quiet").unwrap();
        let params: Plain<boot_params> = memory.read_obj(ZERO_PAGE).unwrap();
        let params = params.0;
        assert_eq!({ params.hdr.ramdisk_image }, 0x100_0000);
        assert_eq!({ params.acpi_rsdp_addr }, ACPI_TABLES.0);
        assert_eq!(params.e820_entries, 4);
        assert_eq!({ params.e820_table[3].addr }, 4 * GIB);
        assert_eq!({ params.e820_table[3].size }, 3 * GIB);
        let mut line = [0; 6];
        memory.read_slice(&mut line, COMMAND_LINE).unwrap();
        assert_eq!(&line, b"quiet\0");
    }

    #[test]
    fn the_pvh_start_info_points_to_the_rsdp_and_the_memory_map() {
        let entry = Entry::Pvh(GuestAddress(0x100_0000));
        let memory = memory();
        write(&memory, &handover(entry, 128 * MIB), "").unwrap();
        let info: Plain<hvm_start_info> = memory.read_obj(PVH_START_INFO).unwrap();
        let info = info.0;
        assert_eq!(info.rsdp_paddr, ACPI_TABLES.0);
        assert_eq!(info.memmap_entries, 3);
        let module: Plain<hvm_modlist_entry> =
            memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!(module.0.size, 4096);
        let last = GuestAddress(info.memmap_paddr + 2 * 24);
        let last: Plain<hvm_memmap_table_entry> = memory.read_obj(last).unwrap();
        assert_eq!(last.0.size, 127 * MIB);
    }
}
