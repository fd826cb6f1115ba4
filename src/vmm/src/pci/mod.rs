//! A conventional PCI bus (PCI Local Bus 3.0), number 0 of segment 0, with message-signalled interrupts only.
//!
//! Its functions have their addresses from the start, as firmware would have given them, and may be moved by the guest.
mod config;
mod host;
pub mod msix;

use std::ops::Range;

use thiserror::Error;

pub use config::{Bar, Capability, ConfigSpace, Identity};
pub use host::{ConfigPorts, Ecam, Host, HostState, SELECT_BYTES, Window};

use crate::arch::x86_64::layout;

/// Slots of a bus besides the host bridge's.
pub const MAX_SLOTS: usize = host::SLOTS - 1;

/// Bytes of the configuration space of a function, without PCI Express's extension of it, of which no function here has anything.
pub const CONFIG_BYTES: usize = 256;

/// What a base address register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// I/O ports.
    Ports,
    /// Guest physical addresses below 4 GiB.
    Memory,
}

impl Space {
    /// What the host bridge passes on to the bus: a function that is placed elsewhere answers nowhere.
    pub fn window(self) -> Range<u64> {
        match self {
            Self::Ports => layout::PCI_PORTS,
            Self::Memory => layout::PCI_MEMORY,
        }
    }
}

/// Why a state is not one of the function that was to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misfit {
    /// It is no configuration space.
    #[error("the saved configuration space has {0} bytes, not {CONFIG_BYTES}")]
    Length(usize),
    /// It is another function's.
    #[error(
        "byte {0:#x} of the saved configuration space is another function's: the bus is to be built with the same devices in the same order"
    )]
    Byte(usize),
    /// It has more interrupt vectors, or fewer.
    #[error("the saved function has {saved} interrupt vectors, this one {own}")]
    Vectors {
        /// How many it has.
        saved: usize,
        /// How many the function has that was to take it.
        own: usize,
    },
}

/// Where one of a function's base address registers puts its registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Number of the base address register.
    pub bar: u8,
    /// In which of the two address spaces.
    pub space: Space,
    /// Where in it.
    pub range: Range<u64>,
}

/// What sits at a place of the bus. Calls come from every vCPU thread at once, with any offset within the space and any
/// length: an implementation answers at once and never panics.
pub trait Function: Send + Sync {
    /// Fills `data`, which lies within [`CONFIG_BYTES`], from the configuration space.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes `data`, which lies within [`CONFIG_BYTES`]. Comes back with whether [`placements`](Self::placements) are others now.
    fn write_config(&self, offset: usize, data: &[u8]) -> bool;

    /// Where it answers now.
    fn placements(&self) -> Vec<Placement>;

    /// A read at `offset` of what base address register `bar` places. `data` holds all ones.
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// A write to the same.
    fn write(&self, bar: u8, offset: u64, data: &[u8]);
}
