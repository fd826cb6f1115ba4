//! A driver that nobody here wrote, the crate `virtio-drivers`, against our devices: its own idea of queues and of what each device is
//! asked, by the registers of each transport.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod board;
mod card;
mod disk;
mod flight;
mod mmio;
mod pages;
mod pci;
mod socket;
mod transport;

use std::sync::Arc;

use vmm::{pci::Space, virtio::feature};

use self::{board::Board, transport::Wire};

/// Where the driver finds the device.
#[derive(Clone, Copy, Debug)]
enum Where {
    Mmio,
    Pci { by_memory: bool, rings: Space },
}

/// One of the ways between a driver and a device.
#[derive(Clone, Copy, Debug)]
struct Way {
    place: Where,
    rings_without_exit: bool,
    /// Features that are kept from the driver.
    withheld: u64,
}

/// Every transport, and a driver that takes all there is or lacks something.
fn ways() -> Vec<Way> {
    let pci = |by_memory, rings| Where::Pci { by_memory, rings };
    let mut ways = Vec::new();
    for place in [
        Where::Mmio,
        pci(false, Space::Ports),
        pci(true, Space::Memory),
    ] {
        for rings_without_exit in [false, true] {
            for withheld in [0, feature::INDIRECT_DESC] {
                ways.push(Way {
                    place,
                    rings_without_exit,
                    withheld,
                });
            }
        }
    }
    ways
}

impl Way {
    /// The driver's way to the one device of `board`.
    fn wire(&self, board: &Arc<Board>) -> Wire {
        match self.place {
            Where::Mmio => mmio::wire(board.clone()),
            Where::Pci { by_memory, rings } => pci::wire(board.clone(), by_memory, rings),
        }
    }

    /// What the driver of `board` should have taken, and how it rings.
    fn check(&self, board: &Board, own: u64) {
        let wanted = feature::COMMON | own;
        assert_eq!(board.agreed() & wanted, wanted & !self.withheld);
        assert_eq!(board.connected() > 0, self.rings_without_exit);
    }
}

/// Bytes that differ from sector to sector, and from one `seed` to the next.
fn bytes(seed: u64, count: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    (0..count).map(|_| next()).collect()
}
