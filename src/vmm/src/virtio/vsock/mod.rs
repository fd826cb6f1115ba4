//! The socket device (virtio 1.3 §5.10): streams between ports in the guest and unix sockets on the host, with a thread for all of them.
//!
//! The host's side is Firecracker's protocol: a client connects to the device's socket, says `CONNECT PORT`, and is answered `OK PORT`
//! when the guest takes it; what the guest connects to is the socket whose name has the port behind it.
mod backlog;
mod connection;
mod credit;
mod greeting;
mod guest;
mod host;
mod packet;
mod switch;
mod table;
#[cfg(test)]
mod tests;
mod worker;

use std::{io, os::fd::OwnedFd, sync::Arc};

use vmm_sys_util::eventfd::EventFd;

use self::{guest::Job, worker::Worker};
use super::{
    ConfigSpace, Confine, Device, Interrupt, OwnState,
    queue::{Progress, Queue},
};
use crate::{metrics::Counter, notices::Notices, worker::NotPaused};

/// The device's type (§5).
const KIND: u32 = 19;
/// Entries of each of its queues: for packets to the guest, from the guest, and events.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// What a socket device did, since it exists.
#[derive(Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Connections and clients that began.
    pub opened: Counter,
    /// Those of them that have gone.
    pub closed: Counter,
    /// Connections that one side wanted and did not get.
    pub refused: Counter,
    /// Packets of the guest's.
    pub packets_from_guest: Counter,
    /// Packets for the guest.
    pub packets_to_guest: Counter,
    /// Bytes that the guest sent and the host took.
    pub bytes_from_guest: Counter,
    /// Bytes for the guest.
    pub bytes_to_guest: Counter,
    /// Packets of the guest's from or to nobody.
    pub dropped: Counter,
    /// Connections that ended because the guest sent more than there was room for.
    pub overruns: Counter,
    /// Interrupts raised.
    pub interrupts: Counter,
    /// Times that the thread waited.
    pub waits: Counter,
}

/// What a socket device is made of.
#[derive(Debug)]
pub struct Options {
    /// The guest's context id, from 3 on.
    pub cid: u32,
    /// The socket that clients on the host connect to: it listens, and does not block.
    pub listener: OwnedFd,
    /// The directory that sockets are in which the guest connects to.
    pub directory: OwnedFd,
    /// What the names of those sockets begin with: `_` and the port follow.
    pub name: String,
    /// Most connections at a time, each with a descriptor.
    pub limit: usize,
}

/// What the thread and the device have in common.
#[derive(Debug)]
struct Common {
    cid: u32,
    directory: OwnedFd,
    name: String,
    limit: usize,
    counters: Arc<Counters>,
    notices: Notices,
}

/// A socket device of the guest's.
pub struct Vsock {
    common: Arc<Common>,
    config: ConfigSpace,
    worker: Worker,
    epoch: u64,
    /// Whether the next driver's connections were another machine's.
    moved: bool,
}

impl Vsock {
    /// The device that `options` describe.
    ///
    /// # Errors
    /// When the host has no room for another descriptor.
    pub fn new(options: Options) -> io::Result<Self> {
        let common = Arc::new(Common {
            cid: options.cid,
            directory: options.directory,
            name: options.name,
            limit: options.limit,
            counters: Arc::default(),
            notices: Notices::of("vsock".into()),
        });
        Ok(Self {
            config: ConfigSpace::new(&u64::from(options.cid).to_le_bytes()),
            worker: Worker::new(common.clone(), options.listener)?,
            common,
            epoch: 0,
            moved: false,
        })
    }

    /// What it did so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.common.counters
    }
}

impl Device for Vsock {
    fn kind(&self) -> u32 {
        KIND
    }

    /// Streams are what a device without any feature has (§5.10.3).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    /// One for all: the thread looks at each when it is rung.
    fn doorbell(&self, index: usize) -> Option<&EventFd> {
        (index < QUEUE_SIZES.len()).then(|| self.worker.desk().bell())
    }

    fn start_threads(&mut self, confine: &Confine) -> io::Result<()> {
        self.worker.spawn("vsock", confine.clone())
    }

    fn activate(&mut self, _: u64, queues: Vec<Option<Queue>>, interrupt: &Interrupt) {
        let mut queues = queues.into_iter();
        let queues = std::array::from_fn(|_| queues.next().flatten());
        self.epoch += 1;
        let moved = std::mem::take(&mut self.moved);
        if let Some(job) = Job::new(self.epoch, queues, interrupt.clone(), moved) {
            self.worker.desk().start(job);
        }
    }

    fn stop_queue(&mut self, index: usize) {
        let desk = self.worker.desk();
        desk.pause();
        // It is paused.
        let _ = desk.look(|job| job.stop(index));
        desk.resume();
    }

    fn reset(&mut self) {
        self.moved = false;
        self.worker.desk().stop();
    }

    fn pause(&mut self) {
        self.worker.desk().pause();
    }

    fn resume(&mut self) {
        self.worker.desk().resume();
    }

    fn progress(&self) -> Result<Vec<Option<Progress>>, NotPaused> {
        let progress = self.worker.desk().look(Job::progress)?;
        Ok(progress.unwrap_or_else(|| vec![None; QUEUE_SIZES.len()]))
    }

    /// Connections do not outlive the process: their other ends are on its host.
    fn save(&self) -> OwnState {
        OwnState::Nothing
    }

    fn fits(&self, saved: &OwnState) -> bool {
        *saved == OwnState::Nothing
    }

    /// The driver is told that its connections are gone.
    fn restore(&mut self, _: &OwnState) {
        self.moved = true;
    }
}
