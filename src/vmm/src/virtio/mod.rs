//! Virtio devices (virtio 1.3): what a device is to its transport, and what it gets when its driver is ready.
pub mod balloon;
pub mod block;
mod buffers;
mod config_space;
mod interrupt;
pub mod net;
mod patience;
pub mod queue;
pub mod transport;
pub mod vsock;

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

pub use config_space::ConfigSpace;
pub use interrupt::{Interrupt, Signal};

use self::queue::{Progress, Queue};
use crate::worker::NotPaused;

/// Feature bits that belong to no device (§6).
pub mod feature {
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say with which buffer they want to hear of the next.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows virtio 1.0 or later; a driver must take it.
    pub const VERSION_1: u64 = 1 << 32;
    /// What every transport offers for every device.
    pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// What a device's thread does: by which its sandbox is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It serves a disk's queue, by io_uring.
    BlockRing,
    /// It serves a disk's queue, or performs calls for such a thread.
    BlockCalls,
    /// It serves a balloon.
    Balloon,
    /// It serves a pair of a network card's queues.
    Net,
    /// It serves a socket device.
    Vsock,
}

impl Duty {
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// What a thread calls before it serves anybody, to confine itself to its duty.
pub type Confine = Arc<dyn Fn(Duty) + Send + Sync>;

/// What a device keeps that neither its driver nor its transport knows of, by its kind; version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnState {
    /// It keeps nothing.
    Nothing,
    /// A balloon's.
    Balloon(balloon::BalloonState),
    /// A disk's.
    Block(block::DiskState),
    /// A network card's.
    Net(net::CardState),
}

/// A device without its registers: what the transports have in common.
///
/// Its threads exist, parked, before its guest runs. [`activate`](Self::activate) gives them frozen queues;
/// [`reset`](Self::reset) takes these back, [`stop_queue`](Self::stop_queue) one of them.
pub trait Device: Send {
    /// The device's type (§5).
    fn kind(&self) -> u32;

    /// The features that it has, without [`feature::COMMON`].
    fn features(&self) -> u64;

    /// The largest size of each of its queues, powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// What the driver rings when queue `index` has new buffers.
    fn doorbell(&self, index: usize) -> Option<&EventFd>;

    /// Starts its threads, parked. Once, before the first activation.
    ///
    /// # Errors
    /// When the host has no room for another.
    fn start_threads(&mut self, confine: &Confine) -> io::Result<()>;

    /// The driver writes `data` at `offset` of the configuration space. It is lost where there is no field for drivers to write.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready (DRIVER_OK), and took `features` of those that were offered. `queues` holds one for each that the device has,
    /// none where the driver set none up.
    fn activate(&mut self, features: u64, queues: Vec<Option<Queue>>, interrupt: &Interrupt);

    /// The driver uses queue `index` no more, until it starts over; perhaps the device has it no more. Comes back when nothing of it is
    /// under way.
    fn stop_queue(&mut self, index: usize);

    /// The driver, or the machine, starts over. Comes back when the device touches guest memory no more.
    fn reset(&mut self);

    /// Comes back when the device touches neither guest memory nor the host's files, until [`resume`](Self::resume).
    fn pause(&mut self);

    /// Goes on where it was paused.
    fn resume(&mut self);

    /// How far it has got with each of its queues: none for one that the driver did not set up, and for one that the device gave
    /// up because the driver broke the rules. What a paused device took and did not give back, it has put back, so that another one
    /// of the same kind, activated with queues at this progress, goes on where this one was paused.
    ///
    /// # Errors
    /// When it is not paused.
    fn progress(&self) -> Result<Vec<Option<Progress>>, NotPaused>;

    /// What it keeps besides its queues, while it is paused, and what its driver wrote to its configuration space: the rest of that
    /// comes from how it is built. What it has outside of the guest's memory is as another one finds it from then on.
    fn save(&self) -> OwnState;

    /// Whether `saved` is of a device of its kind.
    fn fits(&self, saved: &OwnState) -> bool;

    /// Goes on with `saved`, which [`fits`](Self::fits), before it gets its queues.
    fn restore(&mut self, saved: &OwnState);
}
