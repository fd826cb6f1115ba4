use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::{
    Statistics, config,
    handle::{Hints, Shared, command, lock},
};

/// What a balloon keeps, version 1: what was asked of the guest, and what it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonState {
    target_pages: u32,
    actual_pages: u32,
    interval: u32,
    /// The last run of hints that was begun.
    last_run: u32,
    /// Whether there was any.
    has_run: bool,
    statistics: Statistics,
}

impl Shared {
    /// Its state.
    pub(super) fn save(&self) -> BalloonState {
        let hints = lock(&self.hints);
        BalloonState {
            target_pages: config::word(&self.config, config::TARGET),
            actual_pages: config::word(&self.config, config::ACTUAL),
            interval: self.interval.load(Ordering::Acquire),
            last_run: hints.last,
            has_run: hints.wanted != command::STOP,
            statistics: lock(&self.statistics).clone(),
        }
    }

    /// Goes on where another was saved. A run of hints ends there: its guest has its pages back.
    pub(super) fn restore(&self, saved: &BalloonState) {
        let wanted = match saved.has_run {
            true => command::DONE,
            false => command::STOP,
        };
        *lock(&self.hints) = Hints {
            wanted,
            last: saved.last_run,
            ..Hints::default()
        };
        *lock(&self.statistics) = saved.statistics.clone();
        self.interval.store(saved.interval, Ordering::Release);
        for (offset, word) in [
            (config::TARGET, saved.target_pages),
            (config::ACTUAL, saved.actual_pages),
            (config::COMMAND, wanted),
        ] {
            self.config.put(offset, &word.to_le_bytes());
        }
    }
}
