//! `PATCH /network-interfaces/{iface_id}`: other limits.
use vmm::{
    config::{Definition, NetworkInterfaceUpdate, RateLimiter},
    virtio::net::{Change, Handle},
};

use super::response::Response;
use crate::run::disk;

/// A network card of the machine's.
pub struct Card {
    /// Its interface's id.
    pub id: String,
    /// By which it is changed.
    pub handle: Handle,
}

/// Changes the card that is called `id`.
pub(super) fn change(
    definition: &mut Definition,
    cards: &[Card],
    id: &str,
    update: &NetworkInterfaceUpdate,
) -> Response {
    if update.iface_id != id {
        return Response::fault(format_args!(
            "the path says interface {id:?}, the body says {:?}",
            update.iface_id
        ));
    }
    let interface = (definition.network_interfaces.iter_mut()).find(|card| card.iface_id == id);
    let card = cards.iter().find(|card| card.id == id);
    let (Some(interface), Some(card)) = (interface, card) else {
        return Response::fault(format_args!("there is no network interface {id:?}"));
    };
    if let Some(limiter) = &update.rx_rate_limiter {
        let (bandwidth, ops) = changes(limiter);
        card.handle.limit_rx(bandwidth, ops);
        interface.rx_rate_limiter.take(limiter);
    }
    if let Some(limiter) = &update.tx_rate_limiter {
        let (bandwidth, ops) = changes(limiter);
        card.handle.limit_tx(bandwidth, ops);
        interface.tx_rate_limiter.take(limiter);
    }
    Response::done()
}

/// Those limits that `limiter` has.
fn changes(limiter: &RateLimiter) -> (Change, Change) {
    let [bandwidth, ops] = [&limiter.bandwidth, &limiter.ops];
    (
        bandwidth.as_ref().map(|bucket| Some(disk::rate(bucket))),
        ops.as_ref().map(|bucket| Some(disk::rate(bucket))),
    )
}
