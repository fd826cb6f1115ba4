//! The program's allocator: a small arena that is there from the start, and the C library's for what does not fit.
//!
//! A launch makes some hundred small allocations and musl's allocator maps pages for them one by one: half of all system
//! calls before the guest runs. From the arena they cost none, and touch few pages. A confined thread allocates so little
//! that it stays within, unless its guest makes it keep more: every thread may ask the kernel for memory.
use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
};

use spinning_top::RawSpinlock;
use talc::{TalcLock, source::Claim};

/// Bytes of the arena. Only what is used of it is ever touched.
const ARENA: usize = 512 << 10;
/// Larger allocations are not the arena's: they are rare, and would crowd out the small ones.
const LARGE: usize = 64 << 10;

#[repr(align(4096))]
struct Arena(#[expect(dead_code, reason = "only its address is used")] [u8; ARENA]);

static mut BYTES: Arena = Arena([0; ARENA]);

/// See the module.
pub struct ArenaFirst {
    arena: TalcLock<RawSpinlock, Claim>,
}

impl ArenaFirst {
    /// The one over the program's arena.
    ///
    /// # Safety
    /// There may be one only.
    pub const unsafe fn new() -> Self {
        // SAFETY: the caller says that nobody else uses the arena.
        let claim = unsafe { Claim::new((&raw mut BYTES).cast(), ARENA) };
        Self {
            arena: TalcLock::new(claim),
        }
    }

    fn owns(&self, pointer: *mut u8) -> bool {
        let start = (&raw const BYTES).addr();
        (start..start + ARENA).contains(&pointer.addr())
    }
}

// SAFETY: every block belongs to the arena or to the system's allocator, its address says to which, and it is given back
// there. Both keep the contract.
unsafe impl GlobalAlloc for ArenaFirst {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE {
            // SAFETY: the caller keeps the contract.
            let block = unsafe { self.arena.alloc(layout) };
            if !block.is_null() {
                return block;
            }
        }
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if self.owns(block) {
            // SAFETY: the block came from there.
            unsafe { self.arena.dealloc(block, layout) }
        } else {
            // SAFETY: the block came from there.
            unsafe { System.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.owns(block) {
            // SAFETY: the block came from there.
            return unsafe { System.realloc(block, layout, size) };
        }
        if size < LARGE {
            // SAFETY: the block came from there.
            let grown = unsafe { self.arena.realloc(block, layout, size) };
            if !grown.is_null() {
                return grown;
            }
        }
        // SAFETY: the caller says that the size with this alignment does not overflow.
        let moved_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the caller says that the size is not zero.
        let moved = unsafe { System.alloc(moved_layout) };
        if !moved.is_null() {
            // SAFETY: both blocks have that many bytes and do not overlap.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: the block came from there, and is not used any more.
            unsafe { self.arena.dealloc(block, layout) };
        }
        moved
    }
}
