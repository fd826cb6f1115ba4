use std::sync::Arc;

use super::{card::Common, worker::Job};
use crate::{rate_limit::Rate, worker::Desk};

/// A limit that is set, or lifted (`None` inside), or left as it is.
pub type Change = Option<Option<Rate>>;

/// A network card in the hands of those who change it while its guest runs. Clones are the same card.
#[derive(Clone)]
pub struct Handle {
    pub(super) common: Common,
    pub(super) desks: Arc<[Arc<Desk<Job>>]>,
}

impl Handle {
    /// Limits what the guest receives, in bytes and in frames; what waits for an old limit waits no longer.
    pub fn limit_rx(&self, bandwidth: Change, ops: Change) {
        self.common.shared.rx_limiter.change(bandwidth, ops);
        self.desks.iter().for_each(|desk| desk.order());
    }

    /// Limits what the guest sends, in bytes and in frames.
    pub fn limit_tx(&self, bandwidth: Change, ops: Change) {
        self.common.shared.tx_limiter.change(bandwidth, ops);
        self.desks.iter().for_each(|desk| desk.order());
    }
}
