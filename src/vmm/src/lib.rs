//! One virtual machine on KVM.
//!
//! The modules are floors: each is built only from those below it.
pub mod arch;
pub mod boot;
pub mod bus;
pub mod config;
pub mod irq;
pub mod kvm;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod notices;
pub mod pci;
pub mod rate_limit;
pub mod sandbox;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod timeline;
pub mod usernet;
pub mod vcpu;
pub mod virtio;
pub mod worker;
