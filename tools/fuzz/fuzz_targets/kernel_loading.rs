//! Any file at all, given as a kernel: opened, asked for its entries, loaded into a guest of 64 MiB.
#![no_main]
use std::fs::File;
use std::io::Write;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm::boot::kernel::{EntryKind, Kernel};

const GUEST: u64 = 64 << 20;

static MEMORY: LazyLock<GuestMemoryMmap> = LazyLock::new(|| {
    let size = usize::try_from(GUEST).expect("64 MiB");
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).expect("the host has 64 MiB")
});

fuzz_target!(|bytes: &[u8]| {
    let mut file = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.write_all(bytes).expect("memory takes the file");
    match Kernel::open(file, None) {
        Ok(kernel) => {
            for kind in [EntryKind::Auto, EntryKind::Linux64, EntryKind::Pvh] {
                let _ = kernel.entry(kind);
            }
            if let Ok(loaded) = kernel.load(&*MEMORY) {
                assert!(loaded.end.0 <= GUEST);
                assert!(loaded.bytes <= GUEST);
            }
        }
        Err(error) => {
            let _ = (error.to_string(), error.hint());
        }
    }
});
