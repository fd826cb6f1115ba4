use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use super::{
    card::{Common, Nature},
    config,
    worker::Job,
};
use crate::{rate_limit::Rate, worker::Desk};

/// A limit that is set, or lifted (`None` inside), or left as it is.
pub type Change = Option<Option<Rate>>;

/// A network card in the hands of those who change it while its guest runs. Clones are the same card.
#[derive(Clone)]
pub struct Handle {
    pub(super) common: Common,
    pub(super) desks: Arc<[Arc<Desk<Job>>]>,
}

/// What a spare card becomes.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its address.
    pub mac: [u8; 6],
    /// Whether the guest may send from this address only.
    pub pinned: bool,
    /// The longest packet, without the Ethernet header, that the guest is told of.
    pub mtu: u16,
}

impl Handle {
    /// The host's side of a spare card, which is to be made a TAP before the card is [equipped](Self::equip).
    pub fn spare_tap(&self) -> BorrowedFd<'_> {
        self.common.shared.taps[0].file().as_fd()
    }

    /// Makes a spare card, whose TAP has its interface now, what `identity` says: once, before there is a driver.
    ///
    /// # Errors
    /// When the host has no room for another event.
    pub fn equip(&self, identity: Identity) -> io::Result<()> {
        let shared = &self.common.shared;
        shared.listen(0)?;
        shared.set_nature(Nature {
            pinned: identity.pinned.then_some(identity.mac),
            mtu: identity.mtu,
            offload: shared.taps[0].probe(),
        });
        let config = &self.common.config;
        config.put(config::MAC, &identity.mac);
        config.put(config::MTU, &identity.mtu.to_le_bytes());
        Ok(())
    }

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
