//! One virtual machine on KVM.
//!
//! The modules are floors: each is built only from those below it.
pub mod boot;
pub mod config;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
