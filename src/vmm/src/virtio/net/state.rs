use serde::{Deserialize, Serialize};

use super::{
    card::{Common, Rest},
    config,
};
use crate::rate_limit::LimiterState;

/// What a card keeps that its driver's rings do not tell, version 1. Frames that wait on the host are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardState {
    rx_limiter: LimiterState,
    tx_limiter: LimiterState,
    /// Its address, which the driver may have changed.
    mac: [u8; 6],
    /// How many pairs the driver uses.
    pairs: u16,
}

impl Common {
    /// The card's state.
    pub(super) fn save(&self) -> CardState {
        let mut mac = [0; 6];
        self.config.read(config::MAC as u64, &mut mac);
        CardState {
            rx_limiter: self.shared.rx_limiter.save(),
            tx_limiter: self.shared.tx_limiter.save(),
            mac,
            pairs: self.shared.pairs(),
        }
    }

    /// Goes on where another was saved, once there are queues. What is pinned stays as it is.
    pub(super) fn restore(&self, saved: &CardState) {
        self.shared.rx_limiter.restore(&saved.rx_limiter);
        self.shared.tx_limiter.restore(&saved.tx_limiter);
        if self.shared.nature().pinned.is_none() {
            self.config.put(config::MAC, &saved.mac);
        }
        self.shared.set_rest(Rest {
            pairs: saved.pairs,
            announce: true,
        });
    }
}
