//! The registers and tables a kernel is entered with.
//!
//! Linux: `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol". PVH: Xen's `docs/misc/pvh.pandoc`, and
//! `XEN_ELFNOTE_PHYS32_ENTRY`.
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::Entry;
use super::layout::{BOOT_GDT, BOOT_PAGE_TABLES, BOOT_STACK, PVH_START_INFO, ZERO_PAGE};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const PAGE: u64 = 0x1000;
const PTE_PRESENT: u64 = 1;
const PTE_WRITABLE: u64 = 1 << 1;
const PTE_HUGE: u64 = 1 << 7;
const TWO_MIB: u64 = 2 << 20;

/// Segment selectors, fixed by the Linux boot protocol: `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

/// General registers at `entry`.
pub fn general(entry: Entry) -> kvm_regs {
    const RESERVED_ONE: u64 = 2;
    let base = kvm_regs {
        rflags: RESERVED_ONE,
        ..Default::default()
    };
    match entry {
        Entry::Linux64(address) => kvm_regs {
            rip: address.0,
            rsi: ZERO_PAGE.0,
            rsp: BOOT_STACK.0,
            rbp: BOOT_STACK.0,
            ..base
        },
        Entry::Pvh(address) => kvm_regs {
            rip: address.0,
            rbx: PVH_START_INFO.0,
            ..base
        },
    }
}

/// Changes `sregs`, as KVM reset them, to those of `entry`.
pub fn system(sregs: &mut kvm_sregs, entry: Entry) {
    let long_mode = matches!(entry, Entry::Linux64(_));
    let code = segment(CODE_SELECTOR, 0xb, long_mode);
    let data = segment(DATA_SELECTOR, 0x3, false);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task_state(long_mode);
    sregs.gdt.base = BOOT_GDT.0;
    sregs.gdt.limit = GDT_LIMIT;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET;
    if long_mode {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = BOOT_PAGE_TABLES.0;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME | EFER_LMA;
    } else {
        sregs.cr4 = 0;
    }
}

/// A flat segment over all 4 GiB.
fn segment(selector: u16, type_: u8, long_mode: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long_mode),
        s: 1,
        l: u8::from(long_mode),
        g: 1,
        ..Default::default()
    }
}

/// VMX refuses to enter a guest without a task register; what it points to is never used.
fn task_state(long_mode: bool) -> kvm_segment {
    let limit = if long_mode { 0xffff_ffff } else { 0x67 };
    kvm_segment {
        limit,
        selector: TSS_SELECTOR,
        type_: 0xb,
        present: 1,
        g: u8::from(long_mode),
        ..Default::default()
    }
}

const GDT_ENTRIES: usize = 5;
const GDT_LIMIT: u16 = 8 * 5 - 1;

/// A segment as its eight bytes in a descriptor table, Intel SDM 3A §3.4.5.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let access = u64::from(segment.type_)
        | (u64::from(segment.s) << 4)
        | (u64::from(segment.dpl) << 5)
        | (u64::from(segment.present) << 7);
    let flags =
        (u64::from(segment.l) << 1) | (u64::from(segment.db) << 2) | (u64::from(segment.g) << 3);
    (limit & 0xffff)
        | ((segment.base & 0xff_ffff) << 16)
        | (access << 40)
        | (((limit >> 16) & 0xf) << 48)
        | (flags << 52)
        | (((segment.base >> 24) & 0xff) << 56)
}

/// Writes the descriptor table and, for 64-bit entries, the page tables that `entry` needs.
///
/// # Errors
/// When the guest has no RAM there.
pub fn write_tables(memory: &GuestMemoryMmap, entry: Entry) -> Result<(), GuestMemoryError> {
    let long_mode = matches!(entry, Entry::Linux64(_));
    let gdt: [u64; GDT_ENTRIES] = [
        0,
        0,
        descriptor(&segment(CODE_SELECTOR, 0xb, long_mode)),
        descriptor(&segment(DATA_SELECTOR, 0x3, false)),
        descriptor(&task_state(long_mode)),
    ];
    memory.write_obj(gdt, BOOT_GDT)?;
    if long_mode {
        write_page_tables(memory)?;
    }
    Ok(())
}

/// Maps the first GiB onto itself in pages of 2 MiB, which every 64-bit processor has.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let pml4 = BOOT_PAGE_TABLES;
    let pointers = GuestAddress(pml4.0 + PAGE);
    let directory = GuestAddress(pointers.0 + PAGE);
    let table = PTE_PRESENT | PTE_WRITABLE;
    memory.write_obj(pointers.0 | table, pml4)?;
    memory.write_obj(directory.0 | table, pointers)?;
    let mut pages = [0u8; 4096];
    for (page, number) in pages.chunks_exact_mut(8).zip(0u64..) {
        page.copy_from_slice(&((number * TWO_MIB) | table | PTE_HUGE).to_le_bytes());
    }
    memory.write_slice(&pages, directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_known_flat_ones() {
        assert_eq!(
            descriptor(&segment(CODE_SELECTOR, 0xb, true)),
            0x00af_9b00_0000_ffff
        );
        assert_eq!(
            descriptor(&segment(CODE_SELECTOR, 0xb, false)),
            0x00cf_9b00_0000_ffff
        );
        assert_eq!(
            descriptor(&segment(DATA_SELECTOR, 0x3, false)),
            0x00cf_9300_0000_ffff
        );
    }

    #[test]
    fn page_tables_map_the_first_gibibyte_onto_itself() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory, Entry::Linux64(GuestAddress(0x10_0000))).unwrap();
        let entry = |at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        assert_eq!(entry(0x9000), 0xa003);
        assert_eq!(entry(0xa000), 0xb003);
        assert_eq!(entry(0xb000), 0x83);
        assert_eq!(entry(0xb000 + 511 * 8), (511 << 21) | 0x83);
    }

    #[test]
    fn the_pvh_entry_is_32_bit_without_paging() {
        let entry = Entry::Pvh(GuestAddress(0x10_0000));
        let mut sregs = kvm_sregs::default();
        system(&mut sregs, entry);
        assert_eq!(sregs.cr0 & CR0_PG, 0);
        assert_eq!((sregs.cs.l, sregs.cs.db), (0, 1));
        assert_eq!(general(entry).rbx, PVH_START_INFO.0);
    }
}
