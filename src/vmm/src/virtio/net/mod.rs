//! The network card (virtio 1.3 §5.1) on a TAP of the host's, with a thread for each pair of queues.
//!
//! Frames go straight between guest memory and the host, one system call for each. A thread sleeps at the TAP and at one bell, which is
//! that of all its queues.
mod card;
mod config;
mod control;
mod handle;
mod header;
mod rx;
mod state;
mod tap;
#[cfg(test)]
mod tests;
mod tx;
mod worker;

use std::sync::{Arc, PoisonError};

use sha2::{Digest, Sha256};
use vmm_sys_util::eventfd::EventFd;

use self::{
    card::{Common, Nature, Rest, Shared},
    worker::{CONTROL, Job, RX, TX, Worker},
};
pub use self::{
    handle::{Change, Handle, Identity},
    state::CardState,
    tap::{Offload, Tap},
};
use super::{
    ConfigSpace, Confine, Device, Interrupt, OwnState,
    queue::{Progress, Queue},
};
use crate::{metrics::Counter, notices::Notices, worker::NotPaused};

/// The device's type (§5).
const KIND: u32 = 1;
/// Entries of each queue of a pair.
const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;
/// Most pairs of queues.
pub const MAX_PAIRS: usize = 16;

/// What a card did, since it exists.
#[derive(Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Frames that the guest received.
    pub rx_frames: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames for the guest that were no frames, or had no room in what it left for them.
    pub rx_dropped: Counter,
    /// Frames for the guest that had to wait for the rate limiter.
    pub rx_throttled: Counter,
    /// Times that the guest had left too few buffers.
    pub rx_starved: Counter,
    /// Frames that the guest sent.
    pub tx_frames: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames of the guest's that the host did not take.
    pub tx_dropped: Counter,
    /// Those that are no frames, or whose headers ask for what cannot be.
    pub tx_malformed: Counter,
    /// Those from another address than the pinned one.
    pub tx_spoofed: Counter,
    /// Those that had to wait for the rate limiter.
    pub tx_throttled: Counter,
    /// Interrupts raised.
    pub interrupts: Counter,
    /// Times that a thread waited.
    pub waits: Counter,
}

/// What a card is made of.
#[derive(Debug)]
pub struct Options {
    /// The host's side, one for each pair of queues: 1 to [`MAX_PAIRS`]. All but the first are detached.
    pub taps: Vec<Tap>,
    /// Its address.
    pub mac: [u8; 6],
    /// Whether the guest may send from this address only.
    pub pinned: bool,
    /// The longest packet, without the Ethernet header, that the guest is told of.
    pub mtu: u16,
    /// What it is called on the host.
    pub id: String,
}

/// A network card of the guest's.
pub struct Net {
    name: String,
    common: Common,
    queue_sizes: Vec<u16>,
    workers: Vec<Worker>,
    /// Which queue the driver takes for the control queue.
    control: usize,
}

impl Net {
    /// The card that `options` describe, whose threads will be called `name`.
    ///
    /// # Errors
    /// When the host has no room for another descriptor.
    pub fn new(options: Options, name: String) -> std::io::Result<Self> {
        let pairs = options.taps.len().clamp(1, MAX_PAIRS);
        let first = options
            .taps
            .first()
            .ok_or(std::io::ErrorKind::InvalidInput)?;
        let offload = match first.is_spare() {
            true => Offload::default(),
            false => first.probe(),
        };
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * pairs];
        queue_sizes.push(CONTROL_SIZE);
        let workers = (0..pairs).map(|_| Worker::new());
        let workers = workers.collect::<Result<Vec<_>, _>>()?;
        let count = u16::try_from(pairs).expect("16 at most");
        let nature = Nature {
            pinned: options.pinned.then_some(options.mac),
            mtu: options.mtu,
            offload,
        };
        let notices = Notices::of(format!("net {}", options.id));
        Ok(Self {
            name,
            common: Common {
                shared: Arc::new(Shared::new(options.taps, nature, notices)?),
                config: Arc::new(config::space(options.mac, count, options.mtu)),
                counters: Arc::default(),
            },
            control: queue_sizes.len() - 1,
            queue_sizes,
            workers,
        })
    }

    /// By which others change the card while its guest runs.
    pub fn handle(&self) -> Handle {
        Handle {
            common: self.common.clone(),
            desks: (self.workers.iter())
                .map(|worker| worker.desk().clone())
                .collect(),
        }
    }

    /// What it did so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.common.counters
    }

    /// The worker of queue `index`, and which of its queues that is: the first serves the control queue too.
    fn worker(&self, index: usize) -> Option<(&Worker, u8)> {
        match (index == self.control, index % 2) {
            (true, _) => Some((self.workers.first()?, CONTROL)),
            (false, 0) => Some((self.workers.get(index / 2)?, RX)),
            (false, _) => Some((self.workers.get(index / 2)?, TX)),
        }
    }

    fn set_interrupt(&self, interrupt: Option<Interrupt>) {
        let shared = &self.common.shared.interrupt;
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }
}

/// Six bytes that are made of `parts`, and of others with no like chance.
pub fn address_seed(parts: &[&str]) -> [u8; 6] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, ..] = hash;
    [a, b, c, d, e, f]
}

impl Device for Net {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        let pairs = u16::try_from(self.workers.len()).expect("16 at most");
        let nature = self.common.shared.nature();
        config::features(nature.offload, pairs, nature.pinned.is_some())
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &ConfigSpace {
        &self.common.config
    }

    fn doorbell(&self, index: usize) -> Option<&EventFd> {
        self.worker(index).map(|(worker, _)| worker.desk().bell())
    }

    fn start_threads(&mut self, confine: &Confine) -> std::io::Result<()> {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let name = match index {
                0 => self.name.clone(),
                _ => format!("{}.{index}", self.name),
            };
            worker.spawn(&name, index, self.common.clone(), confine.clone())?;
        }
        Ok(())
    }

    fn activate(&mut self, features: u64, queues: Vec<Option<Queue>>, interrupt: &Interrupt) {
        self.set_interrupt(Some(interrupt.clone()));
        let mut numbered = (0..).zip(queues);
        let numbered = &mut numbered;
        let mut next = || {
            numbered
                .next()
                .and_then(|(index, queue)| Some((index, queue?)))
        };
        let mut jobs: Vec<_> = (self.workers.iter())
            .map(|_| Job {
                rx: next(),
                tx: next(),
                control: None,
                features,
                interrupt: interrupt.clone(),
            })
            .collect();
        // Without MQ a driver finds the control queue where the second pair would be (§5.1.2).
        let shifted = features & config::feature::MQ == 0 && jobs.len() > 1;
        (self.control, jobs[0].control) = match shifted {
            true => (2, jobs[1].rx.take()),
            false => (self.queue_sizes.len() - 1, next()),
        };
        for (worker, job) in self.workers.iter().zip(jobs) {
            if job.rx.is_some() || job.tx.is_some() || job.control.is_some() {
                worker.start(job);
            }
        }
        if features & config::feature::GUEST_ANNOUNCE != 0
            && self.common.shared.takes_announcement()
        {
            let announce = config::status::ANNOUNCE;
            self.common.change_status(|status| status | announce);
        }
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some((worker, bit)) = self.worker(index) {
            worker.stop_queue(bit);
        }
    }

    fn reset(&mut self) {
        self.set_interrupt(None);
        self.workers.iter().for_each(|worker| worker.desk().stop());
        let taps = &self.common.shared.taps;
        taps.iter().for_each(Tap::forget_driver);
        // A driver starts with one (§5.1.6.5.5).
        self.common.shared.set_rest(Rest {
            pairs: 1,
            announce: false,
        });
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
        type Of = [Option<Progress>; 3];
        let of = |worker: &Worker| -> Result<Of, NotPaused> {
            let stopped = worker.stopped();
            let jobs = worker.desk().look(|job| {
                let queues = [(RX, &job.rx), (TX, &job.tx), (CONTROL, &job.control)];
                queues.map(|(bit, queue)| {
                    let (_, queue) = queue.as_ref().filter(|_| stopped & bit == 0)?;
                    Some(queue.progress())
                })
            })?;
            Ok(jobs.unwrap_or_default())
        };
        let workers = self.workers.iter().map(of);
        let workers = workers.collect::<Result<Vec<Of>, _>>()?;
        let mut all = vec![None; self.queue_sizes.len()];
        for (index, [rx, tx, _]) in workers.iter().enumerate() {
            (all[2 * index], all[2 * index + 1]) = (*rx, *tx);
        }
        all[self.control] = workers[0][2];
        Ok(all)
    }

    fn save(&self) -> OwnState {
        OwnState::Net(self.common.save())
    }

    fn fits(&self, saved: &OwnState) -> bool {
        matches!(saved, OwnState::Net(_))
    }

    fn restore(&mut self, saved: &OwnState) {
        if let OwnState::Net(saved) = saved {
            self.common.restore(saved);
        }
    }
}
