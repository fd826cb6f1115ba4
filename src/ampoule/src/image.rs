//! The program's own pages.
use std::ffi::{c_int, c_void};

/// Unmaps the pages of this program's code and constants. They stay in the page cache, and come back when they are used: what
/// only a launch needs (the command line, the definition, the search for a kernel) is most of them, and does not.
pub fn let_go() {
    // SAFETY: the callback gets no data of ours.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_segments), std::ptr::null_mut()) };
}

/// For the first object, which is the program; says that it wants no other.
unsafe extern "C" fn let_go_of_segments(
    object: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the loader hands out an object that is there for the length of this call, with its headers.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (
            object.dlpi_addr,
            std::slice::from_raw_parts(object.dlpi_phdr, count),
        )
    };
    for header in headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
    {
        let start = (base + header.p_vaddr) & !0xfff;
        let bytes = base + header.p_vaddr + header.p_memsz - start;
        let bytes = usize::try_from(bytes).unwrap_or(0);
        // SAFETY: these are a segment's own pages, of a private mapping that cannot be written to: dropped ones are read from
        // the file again. That it did not work would change nothing but the memory that is shown as ours.
        unsafe { libc::madvise(start as *mut c_void, bytes, libc::MADV_DONTNEED) };
    }
    1
}
