//! The block device (virtio 1.3 §5.2): a raw image as a disk, with a thread for each of its queues.
mod config;
mod disk;
mod engine;
mod handle;
mod image;
mod io;
mod request;
mod state;
#[cfg(test)]
mod tests;
mod turns;
mod worker;

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use self::{
    disk::Disk,
    worker::{Common, Job, Worker},
};
pub use self::{
    disk::{Cache, Options, SECTOR},
    engine::Choice,
    handle::Handle,
    image::Image,
    state::DiskState,
};
use super::{
    ConfigSpace, Confine, Device, Interrupt, OwnState,
    queue::{Progress, Queue},
};
use crate::{metrics::Counter, worker::NotPaused};

/// The device's type (§5).
const KIND: u32 = 2;
/// Entries of each of its queues.
const QUEUE_SIZE: u16 = 256;
/// Most queues of a disk.
pub const MAX_QUEUES: u16 = 16;

/// What a disk did, since it exists.
#[derive(Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Requests that ended, whatever their status.
    pub requests: Counter,
    /// Those that the host refused.
    pub errors: Counter,
    /// Those that had to wait for the rate limiter.
    pub throttled: Counter,
    /// Interrupts raised.
    pub interrupts: Counter,
    /// Times that a thread waited: for the host, for the driver, or for both.
    pub waits: Counter,
}

/// A disk of the guest's.
pub struct Block {
    name: String,
    common: Common,
    queue_sizes: Vec<u16>,
    config: Arc<ConfigSpace>,
    workers: Vec<Worker>,
    /// By which the driver hears of a new size, while there is a driver.
    interrupt: Arc<Mutex<Option<Interrupt>>>,
}

impl Block {
    /// The disk that `options` describe, whose threads will be called `name` and whose calls the engine of `choice` performs.
    ///
    /// # Errors
    /// When the host has no room for another descriptor, or does not know the image's size.
    pub fn new(options: Options, name: String, choice: Choice) -> std::io::Result<Self> {
        let queues = options.queues.clamp(1, MAX_QUEUES);
        let disk = Disk::new(options)?;
        let workers = (0..queues).map(|_| Worker::new());
        Ok(Self {
            name,
            config: Arc::new(config::space(&disk, queues)),
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            workers: workers.collect::<Result<_, _>>()?,
            common: Common {
                disk: Arc::new(disk),
                counters: Arc::default(),
                depth: QUEUE_SIZE,
                choice,
            },
            interrupt: Arc::default(),
        })
    }

    /// By which others change the disk while its guest runs.
    pub fn handle(&self) -> Handle {
        Handle::new(
            self.common.disk.clone(),
            self.config.clone(),
            self.workers
                .iter()
                .map(|worker| worker.desk().clone())
                .collect(),
            self.interrupt.clone(),
        )
    }

    /// What it did so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.common.counters
    }

    fn set_interrupt(&self, interrupt: Option<Interrupt>) {
        *handle::lock(&self.interrupt) = interrupt;
    }
}

impl Device for Block {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        config::features(&self.common.disk, self.queue_sizes.len())
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn doorbell(&self, index: usize) -> Option<&EventFd> {
        self.workers.get(index).map(|worker| worker.desk().bell())
    }

    fn start_threads(&mut self, confine: &Confine) -> std::io::Result<()> {
        for (worker, index) in self.workers.iter_mut().zip(0..) {
            let name = match index {
                0 => self.name.clone(),
                _ => format!("{}.{index}", self.name),
            };
            worker.spawn(&name, self.common.clone(), confine.clone())?;
        }
        Ok(())
    }

    fn activate(&mut self, _: u64, queues: Vec<Option<Queue>>, interrupt: &Interrupt) {
        self.set_interrupt(Some(interrupt.clone()));
        for ((worker, queue), index) in self.workers.iter().zip(queues).zip(0..) {
            if let Some(queue) = queue {
                worker.desk().start(Job {
                    index,
                    queue,
                    interrupt: interrupt.clone(),
                });
            }
        }
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(worker) = self.workers.get(index) {
            worker.desk().stop();
        }
    }

    fn reset(&mut self) {
        self.set_interrupt(None);
        self.workers.iter().for_each(|worker| worker.desk().stop());
    }

    fn pause(&mut self) {
        self.workers.iter().for_each(|worker| worker.desk().pause());
    }

    fn resume(&mut self) {
        self.workers
            .iter()
            .for_each(|worker| worker.desk().resume());
    }

    fn progress(&self) -> Result<Vec<Option<Progress>>, NotPaused> {
        self.workers
            .iter()
            .map(|worker| worker.desk().look(|job| job.queue.progress()))
            .collect()
    }

    fn save(&self) -> OwnState {
        OwnState::Block(self.common.disk.save())
    }

    fn fits(&self, saved: &OwnState) -> bool {
        matches!(saved, OwnState::Block(_))
    }

    fn restore(&mut self, saved: &OwnState) {
        if let OwnState::Block(saved) = saved {
            self.common.disk.restore(saved);
        }
    }
}
