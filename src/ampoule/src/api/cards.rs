//! `PUT /network-interfaces/{iface_id}`: another card. `PATCH`: other limits.
use vmm::{
    config::{Definition, NetworkInterface, NetworkInterfaceUpdate, RateLimiter},
    machine::ControlError,
    virtio::net::{Change, Handle},
};

use super::{resources::About, response::Response};
use crate::run::disk;

/// A network card of the machine's.
pub struct Card {
    /// Its interface's id.
    pub id: String,
    /// By which it is changed.
    pub handle: Handle,
}

/// Gives the guest another card, which `plug` puts into its slot.
pub(super) fn add(
    about: &mut About,
    id: &str,
    interface: NetworkInterface,
    plug: impl FnOnce(usize) -> Result<(), ControlError>,
) -> Response {
    if interface.iface_id != id {
        return Response::fault(format_args!(
            "the path says interface {id:?}, the body says {:?}",
            interface.iface_id
        ));
    }
    if interface.queues.is_some_and(|queues| queues > 1) {
        return Response::fault("a card that comes to a running guest has one pair of queues");
    }
    if interface.user.is_some() {
        return Response::fault(
            "a card that comes to a running guest is on a TAP: its own network cannot be made any more",
        );
    }
    let mut definition = about.definition.clone();
    definition.network_interfaces.push(interface.clone());
    if let Err(errors) = definition.validate() {
        let first = errors.first().map(ToString::to_string);
        return Response::fault(first.unwrap_or_default());
    }
    let (spare, handle) = match about.devices.spares.equip(&interface) {
        Ok(equipped) => equipped,
        Err(error) => return Response::fault(error),
    };
    if let Err(error) = plug(spare) {
        return Response::fault(error);
    }
    about.definition = definition;
    about.devices.cards.push(Card {
        id: interface.iface_id,
        handle,
    });
    Response::done()
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
