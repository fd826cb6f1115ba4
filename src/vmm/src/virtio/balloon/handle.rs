use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use super::{Statistics, config, worker::Job};
use crate::{
    virtio::{ConfigSpace, Interrupt},
    worker::Desk,
};

/// What the device's thread and those who direct the balloon have in common.
pub(super) struct Shared {
    pub(super) config: Arc<ConfigSpace>,
    pub(super) statistics: Mutex<Statistics>,
    pub(super) hints: Mutex<Hints>,
    /// Seconds from one question for statistics to the next; 0 for none.
    pub(super) interval: AtomicU32,
    /// By bit, the queues that the driver uses no more.
    pub(super) stopped: AtomicU32,
    /// By which the driver hears of a new target, while there is a driver.
    pub(super) interrupt: Mutex<Option<Interrupt>>,
}

impl Shared {
    /// Writes a word of the configuration, and tells the driver.
    pub(super) fn announce(&self, offset: usize, word: u32) {
        self.config.put(offset, &word.to_le_bytes());
        if let Some(interrupt) = &*lock(&self.interrupt) {
            interrupt.configuration_changed();
        }
    }

    /// The driver uses queue `index` no more.
    pub(super) fn stop_queue(&self, index: usize) {
        let bit = u32::try_from(index)
            .ok()
            .and_then(|index| 1u32.checked_shl(index));
        self.stopped.fetch_or(bit.unwrap_or(0), Ordering::AcqRel);
    }

    /// The driver starts over.
    pub(super) fn stop_none(&self) {
        self.stopped.store(0, Ordering::Release);
    }

    /// Whether the driver uses queue `index` no more.
    pub(super) fn is_stopped(&self, index: u16) -> bool {
        self.stopped.load(Ordering::Acquire) & (1 << index) != 0
    }

    /// How long the driver is left alone after it has told its statistics.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self.interval.load(Ordering::Acquire) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        }
    }
}

/// The commands of §5.5.6.4 that begin no run.
pub(super) mod command {
    /// The driver is through, or there was no run yet.
    pub(in super::super) const STOP: u32 = 0;
    /// The driver has its pages back.
    pub(in super::super) const DONE: u32 = 1;
    /// The first that begins a run.
    pub(in super::super) const FIRST: u32 = 2;
}

/// How far a run of hints has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// What the device wants: a run, or none.
    pub(super) wanted: u32,
    /// What the driver said last, of the run that it serves.
    pub(super) told: Option<u32>,
    /// The last run that began.
    pub(super) last: u32,
    /// Whether the driver gets its pages back as soon as it is through.
    pub(super) ends_by_itself: bool,
}

/// A run of hints, as its commands tell: `host_cmd` what was asked for, `guest_cmd` what the guest is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HintStatus {
    /// The number of the run that is wanted, 0 or 1 for none.
    pub host_cmd: u32,
    /// The number that the guest told last, 0 at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_cmd: Option<u32>,
}

/// The balloon, and what the guest tells of its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Pages of 4 KiB that the guest is asked for.
    pub target_pages: u32,
    /// Pages of 4 KiB that it says it gave.
    pub actual_pages: u32,
    /// MiB that it is asked for.
    pub target_mib: u32,
    /// MiB that it says it gave.
    pub actual_mib: u32,
    /// What it tells besides.
    #[serde(flatten)]
    pub statistics: Statistics,
}

/// A balloon in the hands of those who direct it while its guest runs. Clones are the same balloon.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    desk: Arc<Desk<Job>>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, desk: Arc<Desk<Job>>) -> Self {
        Self { shared, desk }
    }

    /// Asks the guest for `mib` MiB in all: it gives or takes back the difference, when it likes.
    pub fn set_target(&self, mib: u32) {
        self.shared.announce(config::TARGET, config::pages(mib));
    }

    /// The balloon as it is, with the last statistics.
    pub fn report(&self) -> Report {
        let word = |offset| config::word(&self.shared.config, offset);
        let (target, actual) = (word(config::TARGET), word(config::ACTUAL));
        Report {
            target_pages: target,
            actual_pages: actual,
            target_mib: config::mib(target),
            actual_mib: config::mib(actual),
            statistics: lock(&self.shared.statistics).clone(),
        }
    }

    /// Asks for statistics now and every so many seconds from now on; with 0, no more.
    pub fn set_interval(&self, seconds: u32) {
        self.shared.interval.store(seconds, Ordering::Release);
        self.desk.order();
    }

    /// Begins a run: the guest names its free pages, they go back to the host, and at the end the guest has them back, empty; at
    /// once or, unless the run `ends_by_itself`, at [`stop_hints`](Self::stop_hints).
    pub fn start_hints(&self, ends_by_itself: bool) {
        let mut hints = lock(&self.shared.hints);
        hints.last = match hints.last.wrapping_add(1) {
            command::STOP | command::DONE => command::FIRST,
            next => next,
        };
        hints.wanted = hints.last;
        hints.ends_by_itself = ends_by_itself;
        self.shared.announce(config::COMMAND, hints.wanted);
    }

    /// Ends a run: what the guest names from now on stays its own.
    pub fn stop_hints(&self) {
        let mut hints = lock(&self.shared.hints);
        hints.wanted = command::DONE;
        self.shared.announce(config::COMMAND, command::DONE);
    }

    /// How far the run is.
    pub fn hint_status(&self) -> HintStatus {
        let hints = lock(&self.shared.hints);
        HintStatus {
            host_cmd: hints.wanted,
            guest_cmd: hints.told,
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
