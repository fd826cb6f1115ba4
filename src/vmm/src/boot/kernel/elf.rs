//! ELF `vmlinux`: System V gABI chapters 4 and 5, x86-64 psABI, and the Xen note that names the PVH entry.
use std::fs::File;

use vm_memory::GuestAddress;

use super::bytes::{array, le16, le32, le64};
use super::layout::{Layout, Segment};
use super::{KernelError, source};

/// `e_ident[EI_MAG0..]`.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
/// Program headers looked at. Linux has 5; this is a page and a half of them.
const MAX_PHDRS: u16 = 128;
/// Bytes of one `PT_NOTE` segment looked at. Linux has under 1 KiB.
const MAX_NOTES: u64 = 64 * 1024;

const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PT_TLS: u32 = 7;

/// Xen `public/elfnote.h`: a 32-bit physical address to enter in protected mode without paging.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Where `p_filesz` stands in a program header.
pub(super) const P_FILESZ: u64 = 32;

/// A program header (`Elf64_Phdr`), as far as it matters.
pub(super) struct Phdr {
    /// Where the header itself stands in the file.
    pub(super) at: u64,
    kind: u32,
    pub(super) offset: u64,
    physical_address: u64,
    pub(super) file_size: u64,
    memory_size: u64,
    alignment: u64,
}

/// Reads where an ELF kernel's parts go. `head` is the start of `file`, which has `size` bytes.
///
/// Only `ET_EXEC` is a kernel here: `vmlinux` is linked to fixed addresses, relocatable or not. A position-independent
/// ELF (`ET_DYN`) would need its dynamic relocations applied, and in practice it is a program given by mistake.
pub(super) fn parse(file: &File, size: u64, head: &[u8]) -> Result<Layout, KernelError> {
    check_architecture(head, size)?;
    let field = |at| le16(head, at).ok_or_else(|| truncated("ELF header", EHDR_SIZE as u64, size));
    let kind = field(16)?;
    let headers = program_headers(file, size, head)?;
    let has = |kind| headers.iter().any(|header| header.kind == kind);
    match kind {
        ET_EXEC => {}
        1 => return Err(not_a_kernel("an ELF object file (perhaps a kernel module)")),
        3 if has(PT_INTERP) => return Err(not_a_kernel("a program (ELF)")),
        3 => {
            return Err(not_a_kernel(
                "a shared library or position-independent program (ELF)",
            ));
        }
        4 => return Err(not_a_kernel("a core dump (ELF)")),
        _ => return Err(not_a_kernel("an ELF file of an unknown type")),
    }
    let pvh = pvh_entry(file, size, &headers)?;
    // Kernels that have thread-local storage of their own (OSv) come with the note; static programs do not.
    if has(PT_INTERP) || (has(PT_TLS) && pvh.is_none()) {
        return Err(not_a_kernel("a program (ELF)"));
    }
    let entry = le64(head, 24).ok_or_else(|| truncated("ELF header", EHDR_SIZE as u64, size))?;
    let segments = headers
        .iter()
        .filter(|header| header.kind == PT_LOAD)
        .map(|header| segment(header, size))
        .collect::<Result<_, _>>()?;
    Layout::new(segments, entry, pvh)
}

fn not_a_kernel(what: &str) -> KernelError {
    KernelError::NotAKernel(what.to_owned())
}

fn truncated(what: &'static str, needed: u64, size: u64) -> KernelError {
    KernelError::Truncated { what, needed, size }
}

/// Refuses what is not little-endian 64-bit x86, by name.
fn check_architecture(head: &[u8], size: u64) -> Result<(), KernelError> {
    if head.len() < EHDR_SIZE {
        return Err(truncated("ELF header", EHDR_SIZE as u64, size));
    }
    let [class, data] = array(head, 4).unwrap_or_default();
    let raw = array(head, 18).unwrap_or_default();
    let machine = match data {
        ELFDATA2LSB => u16::from_le_bytes(raw),
        _ => u16::from_be_bytes(raw),
    };
    if (class, data, machine) == (ELFCLASS64, ELFDATA2LSB, EM_X86_64) {
        return Ok(());
    }
    let name = match machine {
        3 => "i386 (a 32-bit ELF)",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390",
        40 => "arm (a 32-bit ELF)",
        EM_X86_64 if data == ELFDATA2LSB => "x32 or another 32-bit ABI (a 32-bit ELF)",
        183 => "aarch64",
        243 => "riscv",
        247 => "bpf",
        258 => "loongarch",
        other => {
            return Err(KernelError::WrongArchitecture(format!(
                "an unknown machine (ELF e_machine {other})"
            )));
        }
    };
    Err(KernelError::WrongArchitecture(name.to_owned()))
}

/// Copies the program headers in, once.
fn program_headers(file: &File, size: u64, head: &[u8]) -> Result<Vec<Phdr>, KernelError> {
    let (Some(offset), Some(entry_size), Some(count)) =
        (le64(head, 32), le16(head, 54), le16(head, 56))
    else {
        return Err(truncated("ELF header", EHDR_SIZE as u64, size));
    };
    if count == 0 {
        // Object files have none; their type says what they are.
        return Ok(Vec::new());
    }
    if usize::from(entry_size) != PHDR_SIZE || count > MAX_PHDRS {
        return Err(KernelError::Malformed(format!(
            "its ELF header counts {count} program headers of {entry_size} bytes"
        )));
    }
    let length = usize::from(count) * PHDR_SIZE;
    let end = offset.saturating_add(length as u64);
    if end > size {
        return Err(truncated("ELF program header table", end, size));
    }
    let in_head = usize::try_from(offset)
        .ok()
        .and_then(|start| head.get(start..start.checked_add(length)?));
    let table = match in_head {
        Some(table) => table.to_vec(),
        None => source::read_exact(file, offset, length)?,
    };
    let positions = (offset..).step_by(PHDR_SIZE);
    Ok(table
        .chunks_exact(PHDR_SIZE)
        .zip(positions)
        .filter_map(|(bytes, at)| phdr(bytes, at))
        .collect())
}

/// The program headers of what gets loaded.
pub(super) fn load_headers(file: &File, size: u64, head: &[u8]) -> Result<Vec<Phdr>, KernelError> {
    let mut headers = program_headers(file, size, head)?;
    headers.retain(|header| header.kind == PT_LOAD);
    Ok(headers)
}

/// `Elf64_Phdr`. Never `None` for a slice of its size.
fn phdr(bytes: &[u8], at: u64) -> Option<Phdr> {
    Some(Phdr {
        at,
        kind: le32(bytes, 0)?,
        offset: le64(bytes, 8)?,
        physical_address: le64(bytes, 24)?,
        file_size: le64(bytes, 32)?,
        memory_size: le64(bytes, 40)?,
        alignment: le64(bytes, 48)?,
    })
}

/// A loadable segment whose bytes are all in the file.
fn segment(header: &Phdr, size: u64) -> Result<Segment, KernelError> {
    let end = header.offset.saturating_add(header.file_size);
    if end > size {
        return Err(truncated("ELF segment", end, size));
    }
    Ok(Segment {
        file_offset: header.offset,
        file_size: header.file_size,
        guest_address: GuestAddress(header.physical_address),
        memory_size: header.memory_size,
    })
}

/// The address in the first `XEN_ELFNOTE_PHYS32_ENTRY` note, where there is one.
fn pvh_entry(file: &File, size: u64, headers: &[Phdr]) -> Result<Option<u64>, KernelError> {
    for header in headers.iter().filter(|header| header.kind == PT_NOTE) {
        let end = header.offset.saturating_add(header.file_size);
        if end > size {
            return Err(truncated("ELF note segment", end, size));
        }
        let length = usize::try_from(header.file_size.min(MAX_NOTES)).unwrap_or(0);
        let notes = source::read_exact(file, header.offset, length)?;
        let alignment = if header.alignment == 8 { 8 } else { 4 };
        if let Some(address) = find_pvh_note(&notes, alignment) {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// Walks `Elf64_Nhdr` entries: name and descriptor each padded to `alignment`.
fn find_pvh_note(notes: &[u8], alignment: usize) -> Option<u64> {
    let mut at = 0usize;
    loop {
        let name_size = usize::try_from(le32(notes, at)?).ok()?;
        let descriptor_size = usize::try_from(le32(notes, at.checked_add(4)?)?).ok()?;
        let kind = le32(notes, at.checked_add(8)?)?;
        let name_at = at.checked_add(12)?;
        let descriptor_at = name_at
            .checked_add(name_size)?
            .checked_next_multiple_of(alignment)?;
        let end = descriptor_at.checked_add(descriptor_size)?;
        let name = notes.get(name_at..name_at.checked_add(name_size)?)?;
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && name == b"Xen\0" {
            return match descriptor_size {
                4 => le32(notes, descriptor_at).map(u64::from),
                // The address is a 32-bit one however wide the note's field is.
                8 => le64(notes, descriptor_at).filter(|address| *address <= u64::from(u32::MAX)),
                _ => None,
            };
        }
        at = end.checked_next_multiple_of(alignment)?;
    }
}
