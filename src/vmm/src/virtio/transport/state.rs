//! A device as its driver has brought it along, in a form that outlives the process.
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Negotiation, Step, feature, status};
use crate::{
    pci,
    virtio::{
        Interrupt, OwnState,
        queue::{Progress, Queue, Setup},
    },
    worker::NotPaused,
};

/// A virtio device's state under any transport, version 1. What is in memory, in its image or behind its other end is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceState {
    kind: u32,
    own: OwnState,
    config: Vec<u8>,
    generation: u32,
    accepted: u64,
    astray: bool,
    status: u32,
    reasons: u32,
    broken: bool,
    active: bool,
    queues: Vec<QueueState>,
}

/// One of its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueState {
    setup: Setup,
    /// How far the device has got with it; none when it does not use it.
    progress: Option<Progress>,
}

/// Why a state is not one of the device that was to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misfit {
    /// Another device's.
    #[error("the saved device is of type {saved}, this one of type {own}")]
    Kind {
        /// Its type.
        saved: u32,
        /// The type of the device that was to take it.
        own: u32,
    },
    /// Its configuration space holds other fields.
    #[error("the saved device has {saved} bytes of configuration, this one {own}")]
    Configuration {
        /// Bytes of it.
        saved: usize,
        /// Bytes of that of the device that was to take it.
        own: usize,
    },
    /// It has more queues, or fewer.
    #[error("the saved device has {saved} queues, this one {own}: it is to be built with as many")]
    Queues {
        /// How many it has.
        saved: usize,
        /// How many the device has that was to take it.
        own: usize,
    },
    /// A queue is longer or shorter.
    #[error("queue {index} of the saved device has {saved} entries, of this one {own}")]
    QueueSize {
        /// Which one.
        index: usize,
        /// Its entries.
        saved: u16,
        /// Those of the device that was to take it.
        own: u16,
    },
    /// Its driver uses features that the device does not have.
    #[error(
        "the driver uses the features {0:#x}, which this device does not offer: it is to be built with the same options"
    )]
    Features(u64),
    /// A queue in use does not lie in this guest's memory, or a device cannot have got so far with it.
    #[error(
        "queue {0} of the saved device cannot be: it is not in the guest's memory, or used further than it is long"
    )]
    Queue(usize),
    /// No device says of itself what the state says.
    #[error("the saved device cannot be: {0}")]
    Contradiction(&'static str),
    /// Its PCI function is another.
    #[error(transparent)]
    Function(#[from] pci::Misfit),
}

/// A running device's queues, checked and at their progress; none of a device that does not run.
pub(super) type Frozen = Option<Vec<Option<Queue>>>;

/// What the status can hold; that a device needs a reset stands elsewhere.
const STATUS: u32 =
    status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK | status::FEATURES_OK | status::FAILED;
const REASONS: u32 = Interrupt::USED_BUFFER | Interrupt::CONFIGURATION;

impl Negotiation {
    /// The state of the device, which is paused.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn save(&self) -> Result<DeviceState, NotPaused> {
        let progress = self.with_device(|device| device.progress())?;
        let progress = progress.into_iter().chain(std::iter::repeat(None));
        let (kind, own, (config, generation)) =
            self.with_device(|device| (device.kind(), device.save(), device.config().save()));
        let queues = self.queues.iter().zip(progress);
        Ok(DeviceState {
            kind,
            own,
            config,
            generation,
            accepted: self.accepted,
            astray: self.astray,
            status: self.status,
            reasons: self.interrupt.reasons(),
            broken: self.interrupt.is_broken(),
            active: self.active,
            queues: queues
                .map(|(&setup, progress)| QueueState { setup, progress })
                .collect(),
        })
    }

    /// Whether the device can take `saved`, which may hold anything; its queues. Nothing changes yet.
    pub(super) fn check(&self, saved: &DeviceState) -> Result<Frozen, Misfit> {
        self.check_kind(saved)?;
        self.check_status(saved)?;
        self.check_sizes(saved)?;
        if saved.active {
            return self.freeze_all(saved).map(Some);
        }
        let unused = saved.queues.iter().all(|queue| queue.progress.is_none());
        contradiction(!unused, "it uses queues before its driver is ready")?;
        Ok(None)
    }

    fn check_kind(&self, saved: &DeviceState) -> Result<(), Misfit> {
        let (kind, bytes) = self.with_device(|device| (device.kind(), device.config().bytes()));
        if kind != saved.kind {
            return Err(Misfit::Kind {
                saved: saved.kind,
                own: kind,
            });
        }
        if bytes != saved.config.len() {
            return Err(Misfit::Configuration {
                saved: saved.config.len(),
                own: bytes,
            });
        }
        let fits = self.with_device(|device| device.fits(&saved.own));
        contradiction(!fits, "what it keeps is another kind of device's")
    }

    /// The bits come in their order (§3.1.1), and what depends on them with them.
    fn check_status(&self, saved: &DeviceState) -> Result<(), Misfit> {
        let has = |bit: u32| saved.status & bit != 0;
        contradiction(saved.status & !STATUS != 0, "its status has unknown bits")?;
        contradiction(
            saved.reasons & !REASONS != 0,
            "its interrupt has unknown reasons",
        )?;
        contradiction(
            has(status::FEATURES_OK) && (!has(status::DRIVER) || saved.astray),
            "its driver agreed on features out of turn",
        )?;
        contradiction(
            has(status::DRIVER_OK) && !has(status::FEATURES_OK),
            "its driver is ready without features",
        )?;
        contradiction(
            (saved.active || saved.broken) && !has(status::DRIVER_OK),
            "it runs, or is broken, before its driver is ready",
        )?;
        contradiction(
            has(status::DRIVER_OK) && !saved.active && !saved.broken,
            "its driver is ready, and it neither runs nor is broken",
        )?;
        let missing = saved.accepted & !self.offered;
        if has(status::FEATURES_OK) && missing != 0 {
            return Err(Misfit::Features(missing));
        }
        contradiction(
            has(status::FEATURES_OK) && saved.accepted & feature::VERSION_1 == 0,
            "its driver is older than virtio 1.0",
        )
    }

    fn check_sizes(&self, saved: &DeviceState) -> Result<(), Misfit> {
        if saved.queues.len() != self.queues.len() {
            return Err(Misfit::Queues {
                saved: saved.queues.len(),
                own: self.queues.len(),
            });
        }
        for (index, (queue, own)) in saved.queues.iter().zip(&self.queues).enumerate() {
            let (saved, own) = (queue.setup.max_size, own.max_size);
            if saved != own {
                return Err(Misfit::QueueSize { index, saved, own });
            }
        }
        Ok(())
    }

    /// As at DRIVER_OK, at their progress. A queue that was given up is not taken up again.
    fn freeze_all(&self, saved: &DeviceState) -> Result<Vec<Option<Queue>>, Misfit> {
        let event_idx = saved.accepted & feature::EVENT_IDX != 0;
        let freeze = |(index, queue): (usize, &QueueState)| match queue.progress {
            Some(progress) => queue
                .setup
                .freeze_at(&self.memory, event_idx, progress)
                .map(Some)
                .map_err(|_| Misfit::Queue(index)),
            None => {
                let lost = queue.setup.ready && !saved.broken;
                contradiction(lost, "nothing says how far it has got with a queue")?;
                Ok(None)
            }
        };
        saved.queues.iter().enumerate().map(freeze).collect()
    }

    /// Becomes what [`check`](Self::check) found to fit, after a reset.
    pub(super) fn apply(&mut self, saved: &DeviceState, frozen: Frozen) -> Step {
        self.accepted = saved.accepted;
        self.astray = saved.astray;
        self.status = saved.status;
        self.queues = saved.queues.iter().map(|queue| queue.setup).collect();
        let same = self.with_device(|device| {
            device.restore(&saved.own);
            let config = device.config();
            config.restore(&saved.config, saved.generation)
        });
        // The device is built on what there is now, and that may have changed: a driver that is ready hears of it.
        let ready = self.status & status::DRIVER_OK != 0;
        let news = if ready && !same {
            Interrupt::CONFIGURATION
        } else {
            0
        };
        self.interrupt.restore(saved.reasons | news, saved.broken);
        frozen.map_or(Step::None, |queues| self.start(queues))
    }

    /// Rings for the device and signals to the driver what either may have been told just before the save, and not heard. Both look,
    /// and find that there is nothing, or that there is something.
    pub(super) fn nudge(&self) {
        if self.status & status::DRIVER_OK == 0 {
            return;
        }
        for (queue, index) in self.queues.iter().zip(0..) {
            if self.active && queue.ready {
                self.ring(index.into());
                self.interrupt.used_buffers(index);
            }
        }
        if self.interrupt.reasons() & Interrupt::CONFIGURATION != 0 {
            self.interrupt.configuration_changed();
        }
    }
}

fn contradiction(is: bool, what: &'static str) -> Result<(), Misfit> {
    if is {
        Err(Misfit::Contradiction(what))
    } else {
        Ok(())
    }
}
