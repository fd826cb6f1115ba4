//! tmp
use vm_memory::GuestAddress;
/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit
    Linux64 {
        /// rip
        address: GuestAddress,
    },
    /// PVH
    Pvh {
        /// rip
        address: GuestAddress,
    },
}
