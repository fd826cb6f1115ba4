//! What the compiler takes for granted: memory to allocate, the C library's functions on bytes, and an unwinder, which nobody calls.
use core::{
    alloc::{GlobalAlloc, Layout},
    arch::asm,
    cell::Cell,
    ptr,
};

use agent::sys;

/// Gives out memory and takes none back: this program lives for milliseconds, and becomes another.
struct Arena {
    next: Cell<*mut u8>,
    left: Cell<usize>,
}

// SAFETY: there is one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena {
    next: Cell::new(ptr::null_mut()),
    left: Cell::new(0),
};

const CHUNK: usize = 256 << 10;

// SAFETY: what is given out is never given out again, is of the size and alignment asked for, and stays mapped.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let needed = layout.size().saturating_add(layout.align());
        if self.left.get() < needed {
            let bytes = needed.max(CHUNK);
            let Ok(chunk) = sys::map(bytes) else {
                return ptr::null_mut();
            };
            self.next.set(chunk);
            self.left.set(bytes);
        }
        let next = self.next.get();
        let skipped = next.align_offset(layout.align());
        let taken = skipped + layout.size();
        self.left.set(self.left.get() - taken);
        self.next.set(next.wrapping_add(taken));
        next.wrapping_add(skipped)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// SAFETY: as C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller says that both have so many bytes, and do not overlap.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    };
    to
}

/// SAFETY: as C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: from the front, no byte is written to before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    let (last_to, last_from) = (to.wrapping_add(count - 1), from.wrapping_add(count - 1));
    // SAFETY: the caller says that both have so many bytes; from the back, no byte is written to before it is read.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") last_to => _, inout("rsi") last_from => _, options(nostack));
    };
    to
}

/// SAFETY: as C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller says that there are so many bytes.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("eax") byte, options(nostack, preserves_flags));
    };
    to
}

/// SAFETY: as C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: the caller says that both have so many bytes. Volatile, or the loop would become a call of this function.
        let (a, b) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// SAFETY: as C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: as the caller says.
    unsafe { memcmp(a, b, count) }
}

/// SAFETY: as C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller says that a NUL comes. Volatile, or the loop would become a call of this function.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Named by the standard library's compiled parts, which could unwind. This program ends at a panic.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    sys::exit(101)
}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    sys::exit(101)
}
