//! Dropping the zeros that an extracted kernel carries for its bss.
//!
//! Linux's build turns the bss of the kernel inside a bzImage into bytes of the file: 12 to 24 MB of zeros in Debian's.
//! Guest memory is zero already, so each launch would copy them for nothing. The program headers of the extracted file
//! are changed once, to end each segment behind its last byte that is not zero; what it occupies in memory stays.
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::elf::{P_FILESZ, load_headers};
use super::payload::MAX_KERNEL;
use super::{KernelError, source};

const CHUNK: u64 = 256 << 10;
/// Segments end at a whole page where they can, so that they could be mapped.
const PAGE: u64 = 4096;

/// Shortens the segments of the ELF file of `size` bytes that starts with `head`. The file must be ours alone.
pub(super) fn trim(file: &File, size: u64, head: &[u8]) -> Result<(), KernelError> {
    // Hostile headers may name the same zeros again and again.
    let mut budget = MAX_KERNEL;
    for header in load_headers(file, size, head)? {
        let used = used_size(file, header.offset, header.file_size, &mut budget)?;
        let file_size = used.next_multiple_of(PAGE).min(header.file_size);
        if file_size < header.file_size {
            let field = header.at.saturating_add(P_FILESZ);
            file.write_all_at(&file_size.to_le_bytes(), field)
                .map_err(KernelError::Extract)?;
        }
    }
    Ok(())
}

/// The size of a range without the zeros at its end, as far as the budget allows to look.
fn used_size(file: &File, offset: u64, size: u64, budget: &mut u64) -> Result<u64, KernelError> {
    let mut end = size;
    while end > 0 && *budget > 0 {
        let length = end.min(CHUNK);
        *budget = budget.saturating_sub(length);
        let start = end - length;
        let length = usize::try_from(length).unwrap_or(0);
        let chunk = source::read_exact(file, offset.saturating_add(start), length)?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(end)
}
