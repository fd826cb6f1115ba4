use serde::{Deserialize, Serialize};

use super::disk::Disk;
use crate::rate_limit::LimiterState;

/// What a disk keeps that its driver does not know of, version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskState {
    limiter: LimiterState,
    /// Whether the host failed to write back what it had taken: no flush succeeds from then on.
    lost: bool,
}

impl Disk {
    /// Its state. What the guest wrote is on the host's disk by then, or known to be lost: whoever opens the image next may not hear
    /// of it any more.
    pub(super) fn save(&self) -> DiskState {
        // That it failed stands in the state.
        let _ = self.settle();
        DiskState {
            limiter: self.limiter.save(),
            lost: self.image().has_lost(),
        }
    }

    /// Goes on where another on the same image was saved.
    pub(super) fn restore(&self, saved: &DiskState) {
        self.limiter.restore(&saved.limiter);
        if saved.lost {
            self.image().lose();
        }
    }
}
