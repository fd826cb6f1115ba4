//! Kernel images made by hand, opened, refused, cached and loaded.
mod cache;
mod entries;
mod formats;
mod mapping;
mod placement;
mod properties;
mod refusals;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Kernel, KernelError};
use crate::testing::kernel_image::file;

fn open(bytes: &[u8]) -> Result<Kernel, KernelError> {
    Kernel::open(file(bytes), None)
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).expect_err("this is no kernel").to_string()
}

fn memory(mib: usize) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), mib << 20)]).expect("a few MiB")
}

fn read(memory: &GuestMemoryMmap, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .expect("inside of memory");
    bytes
}
