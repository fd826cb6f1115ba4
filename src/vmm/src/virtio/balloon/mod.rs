//! The memory balloon (virtio 1.3 §5.5): pages that a guest gives back to the host, when asked, or as they become free.
//!
//! Whatever a guest says of its pages, they are its own: it can lose what it has in them, and nothing else.
mod config;
mod handle;
mod pages;
mod state;
mod statistics;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    io,
    sync::{Arc, atomic::AtomicU32},
    thread::{Builder, JoinHandle},
};

use vmm_sys_util::eventfd::EventFd;

pub use self::{
    handle::{Handle, HintStatus, Report},
    state::BalloonState,
    statistics::Statistics,
};
use self::{
    handle::{Hints, Shared, lock},
    worker::{Job, Worker},
};
use super::{
    ConfigSpace, Confine, Device, Interrupt, OwnState,
    queue::{Progress, Queue},
};
use crate::{
    metrics::Counter,
    worker::{Desk, NotPaused},
};

/// The device's type (§5).
const KIND: u32 = 5;
/// Entries of each of its queues.
const QUEUE_SIZE: u16 = 256;
/// What its thread needs besides its stack for libraries.
const STACK: usize = 128 << 10;

/// What a balloon can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// MiB that the guest is asked for at its start.
    pub target_mib: u32,
    /// Whether the guest takes pages back before it kills a program for want of memory.
    pub deflate_on_oom: bool,
    /// Seconds from one question for statistics to the next; 0 for none.
    pub interval: u32,
    /// Whether the guest names its free pages when it is asked to.
    pub hinting: bool,
    /// Whether the guest names pages as they become free.
    pub reporting: bool,
}

/// What a balloon did, since it exists.
#[derive(Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Bytes that went back to the host.
    pub released_bytes: Counter,
    /// Ranges that are no memory, or that the host did not take.
    pub refused: Counter,
    /// Requests of each kind: pages given.
    pub inflations: Counter,
    /// Pages taken back.
    pub deflations: Counter,
    /// Answers with statistics.
    pub statistics: Counter,
    /// Free pages named, asked or unasked.
    pub hints: Counter,
    /// Interrupts raised.
    pub interrupts: Counter,
}

/// A guest's balloon.
pub struct Balloon {
    options: Options,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    desk: Arc<Desk<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Balloon {
    /// A balloon that can do what `options` say.
    ///
    /// # Errors
    /// When the host has no room for another descriptor.
    pub fn new(options: Options) -> io::Result<Self> {
        // Blocking: the thread sleeps at it with one system call.
        let bell = EventFd::new(libc::EFD_CLOEXEC)?;
        let queues = config::queues(config::features(options)).count();
        Ok(Self {
            options,
            queue_sizes: vec![QUEUE_SIZE; queues],
            shared: Arc::new(Shared {
                config: Arc::new(config::space(options.target_mib)),
                statistics: Default::default(),
                hints: Default::default(),
                interval: AtomicU32::new(options.interval),
                stopped: AtomicU32::new(0),
                interrupt: Default::default(),
            }),
            counters: Arc::default(),
            desk: Arc::new(Desk::new(bell)),
            thread: None,
        })
    }

    /// By which others direct it while its guest runs.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone(), self.desk.clone())
    }

    /// What it did so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Device for Balloon {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        config::features(self.options)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &ConfigSpace {
        &self.shared.config
    }

    fn doorbell(&self, index: usize) -> Option<&EventFd> {
        (index < self.queue_sizes.len()).then(|| self.desk.bell())
    }

    fn start_threads(&mut self, confine: &Confine) -> io::Result<()> {
        let worker = Worker::new(
            self.desk.clone(),
            self.shared.clone(),
            self.counters.clone(),
        );
        let confine = confine.clone();
        let thread = Builder::new().name("balloon".into()).stack_size(STACK);
        self.thread = Some(thread.spawn(move || worker.run(&confine))?);
        Ok(())
    }

    /// How many pages the driver gave is the one thing that it writes.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if offset == config::ACTUAL as u64 && data.len() == 4 {
            self.shared.config.put(config::ACTUAL, data);
        }
    }

    fn activate(&mut self, features: u64, queues: Vec<Option<Queue>>, interrupt: &Interrupt) {
        *lock(&self.shared.interrupt) = Some(interrupt.clone());
        self.shared.stop_none();
        self.desk
            .start(Job::new(features, queues, interrupt.clone()));
    }

    /// The thread takes it up before it does more: nothing is under way while it is paused.
    fn stop_queue(&mut self, index: usize) {
        self.desk.pause();
        self.shared.stop_queue(index);
        self.desk.resume();
    }

    fn reset(&mut self) {
        *lock(&self.shared.interrupt) = None;
        self.desk.stop();
        *lock(&self.shared.hints) = Hints::default();
        self.shared.config.put(config::ACTUAL, &[0; 4]);
        self.shared.config.put(config::COMMAND, &[0; 4]);
    }

    fn pause(&mut self) {
        self.desk.pause();
    }

    fn resume(&mut self) {
        self.desk.resume();
    }

    fn progress(&self) -> Result<Vec<Option<Progress>>, NotPaused> {
        let queues = self.queue_sizes.len();
        let progress = self.desk.look(|job| job.progress(queues))?;
        let mut progress = progress.unwrap_or_else(|| vec![None; queues]);
        // The thread may not have heard yet that the driver stopped one.
        for (index, queue) in (0..).zip(&mut progress) {
            queue.take_if(|_| self.shared.is_stopped(index));
        }
        Ok(progress)
    }

    fn save(&self) -> OwnState {
        OwnState::Balloon(self.shared.save())
    }

    fn fits(&self, saved: &OwnState) -> bool {
        matches!(saved, OwnState::Balloon(_))
    }

    fn restore(&mut self, saved: &OwnState) {
        if let OwnState::Balloon(saved) = saved {
            self.shared.restore(saved);
        }
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        self.desk.finish();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported where it happened.
            let _ = thread.join();
        }
    }
}
