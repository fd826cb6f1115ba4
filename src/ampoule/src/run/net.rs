//! Network cards: what `--net` says, and what is behind them, opened.
use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
    str::FromStr,
    sync::{Arc, Mutex},
};

use vmm::{
    config::{
        Definition, MAX_FLOWS, MAX_MTU, MAX_QUEUE_PAIRS, MIN_FLOWS, MIN_MTU, Mac, NetworkInterface,
        RateLimiter, UserNetwork,
    },
    machine::Outpost,
    usernet::plan,
    virtio::{
        net::{Change, Handle, Identity, Net, Options, Tap, address_seed},
        transport::SharedDevice,
    },
};

use super::{disk, tap, user_network};
use crate::{api, failure::Failure};

/// `user[,OPTION…]`, `tap=NAME[,OPTION…]`, or `none`. Without an id, its place among the cards is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetArg {
    /// No card at all.
    None,
    /// A card.
    Card(CardArg),
}

/// One card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardArg {
    /// Without one it has a network of its own.
    tap: Option<String>,
    id: Option<String>,
    mac: Option<Mac>,
    mtu: Option<u16>,
    queues: Option<u16>,
    flows: Option<u32>,
}

impl FromStr for NetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, options) = match text.split_once(',') {
            Some((kind, options)) => (kind, Some(options)),
            None => (text, None),
        };
        let mut card = CardArg::default();
        match kind.split_once('=').unwrap_or((kind, "")) {
            ("none", "") if options.is_none() => return Ok(Self::None),
            ("none", _) => return Err("none has no options".into()),
            ("user", "") => {}
            ("tap", "") => return Err("the name of a TAP interface is missing: tap=tap0".into()),
            ("tap", name) => card.tap = Some(name.into()),
            _ => return Err(format!("{kind}: expected user, none, or tap=NAME")),
        }
        for option in options.into_iter().flat_map(|options| options.split(',')) {
            card.option(option)?;
        }
        Ok(Self::Card(card))
    }
}

impl CardArg {
    fn option(&mut self, text: &str) -> Result<(), String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match (key, value) {
            ("id" | "mac" | "mtu" | "queues" | "flows", "") => {
                return Err(format!("{key}: a value is missing"));
            }
            ("id", value) => self.id = Some(value.into()),
            ("mac", value) => {
                let wrong = |error| format!("mac={value}: {error}");
                self.mac = Some(value.parse().map_err(wrong)?);
            }
            ("mtu", value) => self.mtu = Some(number(key, value, MIN_MTU, MAX_MTU)?),
            ("queues", value) if self.tap.is_some() => {
                self.queues = Some(number(key, value, 1, MAX_QUEUE_PAIRS)?);
            }
            ("flows", value) if self.tap.is_none() => {
                self.flows = Some(number(key, value, MIN_FLOWS, MAX_FLOWS)?);
            }
            _ => {
                let more = if self.tap.is_some() {
                    "queues="
                } else {
                    "flows="
                };
                return Err(format!(
                    "{text}: no such option (there are mac=, mtu=, {more}, id=)"
                ));
            }
        }
        Ok(())
    }

    /// Whether it has a network of its own.
    pub fn is_user(&self) -> bool {
        self.tap.is_none()
    }

    /// The card that it stands for, as number `index` of the machine's.
    pub fn interface(&self, index: usize) -> NetworkInterface {
        let id = self.id.clone().unwrap_or_else(|| format!("net{index}"));
        let mut interface = match &self.tap {
            Some(tap) => NetworkInterface::new(id, tap),
            None => {
                let flows = self.flows;
                NetworkInterface::on_user_network(
                    id,
                    UserNetwork {
                        flows,
                        ..UserNetwork::default()
                    },
                )
            }
        };
        interface.guest_mac = self.mac;
        interface.mtu = self.mtu;
        interface.queues = self.queues;
        interface
    }
}

fn number<T: TryFrom<u64>>(key: &str, value: &str, min: u64, max: u64) -> Result<T, String> {
    let number = value.parse().ok();
    let number = number.filter(|number| (min..=max).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("{key}={value}: expected a number from {min} to {max}"))
}

/// Opens what is behind the definition's cards, which become `devices` behind those that there are; what they are changed by, and the
/// networks of those without a TAP.
///
/// # Errors
/// When one cannot be had, or is in use.
pub(super) fn open(
    definition: &Definition,
    devices: &mut Vec<SharedDevice>,
) -> Result<(Vec<api::Card>, Vec<Outpost>), Failure> {
    let (mut cards, mut outposts) = (Vec::new(), Vec::new());
    for (interface, index) in definition.network_interfaces.iter().zip(0u32..) {
        let net = match &interface.user {
            Some(user) => {
                let (net, outpost) = open_user(interface, user, index)?;
                outposts.push(outpost);
                net
            }
            None => open_card(interface, index)?,
        };
        let handle = net.handle();
        limit(&handle, interface);
        devices.push(Arc::new(Mutex::new(net)));
        cards.push(api::Card {
            id: interface.iface_id.clone(),
            handle,
        });
    }
    Ok((cards, outposts))
}

/// A card with a network of its own.
fn open_user(
    interface: &NetworkInterface,
    user: &UserNetwork,
    index: u32,
) -> Result<(Net, Outpost), Failure> {
    let mac = address_of(interface, &host_identity()).bytes();
    let mtu = interface.mtu.unwrap_or(plan::MTU);
    let (tap, outpost) = user_network::open(user, mac, mtu, &format!("usernet{index}"))?;
    let options = Options {
        taps: vec![tap],
        mac,
        // Its network takes frames from no other.
        pinned: true,
        mtu,
        id: interface.iface_id.clone(),
    };
    let net = Net::new(options, format!("net{index}"));
    let net = net.map_err(|error| Failure::new("--net user", error))?;
    Ok((net, outpost))
}

/// Cards that a guest may get while it runs.
const SPARES: usize = 4;

/// Cards without a TAP yet, and what it takes to give them one.
#[derive(Default)]
pub(crate) struct Spares {
    /// By their number among the machine's spare devices.
    free: VecDeque<(usize, Handle)>,
    /// By which the kernel is asked about interfaces.
    inquirer: Option<OwnedFd>,
    /// This host's identity, of which addresses are made.
    host: String,
    /// Why there are none.
    none: Option<NoSpare>,
}

/// Why a guest gets no further card.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoSpare {
    /// Its bus has no slots.
    #[error("a card can come to a running guest over PCI only: start it with --transport pci")]
    NoPci,
    /// All slots are taken.
    #[error(
        "there is no slot left: a guest takes up to {SPARES} more cards while it runs, as far as its bus has room"
    )]
    NoSlot,
    /// The host has no TAPs.
    #[error("there were no TAPs to be had when the guest was started: {0}")]
    NoTap(String),
    /// The TAP is not to be had.
    #[error("TAP {0}: {1}")]
    Tap(String, String),
}

/// Spare cards for up to `slots` slots, and their devices.
pub(super) fn open_spares(slots: usize) -> (Vec<SharedDevice>, Spares) {
    let mut devices: Vec<SharedDevice> = Vec::new();
    let mut spares = Spares {
        none: Some(NoSpare::NoSlot),
        host: host_identity(),
        ..Spares::default()
    };
    match tap::inquirer() {
        Ok(socket) => spares.inquirer = Some(socket),
        Err(error) => spares.none = Some(NoSpare::NoTap(error.to_string())),
    }
    let wanted = if spares.inquirer.is_some() {
        SPARES.min(slots)
    } else {
        0
    };
    for index in 0..wanted {
        match open_spare(index) {
            Ok(net) => {
                spares.free.push_back((index, net.handle()));
                devices.push(Arc::new(Mutex::new(net)));
            }
            Err(why) => {
                spares.none = Some(NoSpare::NoTap(why));
                break;
            }
        }
    }
    (devices, spares)
}

fn open_spare(index: usize) -> Result<Net, String> {
    let tap = tap::spare().map_err(|error| error.why)?;
    let options = Options {
        taps: vec![Tap::spare(tap)],
        mac: [0; 6],
        pinned: false,
        mtu: 0,
        id: format!("{index} (added)"),
    };
    Net::new(options, format!("net+{index}")).map_err(|error| error.to_string())
}

impl Spares {
    /// Those of a machine whose guest finds its devices otherwise than over PCI.
    pub(crate) fn without_pci() -> Self {
        Self {
            none: Some(NoSpare::NoPci),
            ..Self::default()
        }
    }

    /// Makes the next spare card what `interface` says; its number, and by what it is changed. The guest does not know of it yet.
    ///
    /// # Errors
    /// When there is none left, or its TAP is not to be had: then it can be asked for again.
    pub(crate) fn equip(
        &mut self,
        interface: &NetworkInterface,
    ) -> Result<(usize, Handle), NoSpare> {
        let (Some((number, handle)), Some(socket)) = (self.free.front(), &self.inquirer) else {
            return Err(self.none.clone().unwrap_or(NoSpare::NoSlot));
        };
        let name = &interface.host_dev_name;
        let refused = |why: String| NoSpare::Tap(name.clone(), why);
        let (mtu, _) = tap::join(handle.spare_tap(), socket.as_fd(), name).map_err(|error| {
            let hint = error.hint.map(|hint| format!(" (hint: {hint})"));
            refused(error.why + &hint.unwrap_or_default())
        })?;
        let identity = Identity {
            mac: address_of(interface, &self.host).bytes(),
            pinned: interface.guest_mac.is_some(),
            mtu: interface.mtu.unwrap_or(mtu),
        };
        let equipped = handle.equip(identity).map(|()| (*number, handle.clone()));
        // Whatever it is now, it is no spare one.
        self.free.pop_front();
        let (number, handle) = equipped.map_err(|error| refused(error.to_string()))?;
        limit(&handle, interface);
        Ok((number, handle))
    }
}

/// Sets both limits of a card to what `interface` says.
fn limit(handle: &Handle, interface: &NetworkInterface) {
    let (bandwidth, ops) = limits(&interface.rx_rate_limiter);
    handle.limit_rx(bandwidth, ops);
    let (bandwidth, ops) = limits(&interface.tx_rate_limiter);
    handle.limit_tx(bandwidth, ops);
}

fn open_card(interface: &NetworkInterface, index: u32) -> Result<Net, Failure> {
    let name = &interface.host_dev_name;
    let what = || format!("TAP {name}");
    let opened = tap::open(name, interface.queues.unwrap_or(1), interface.mtu)
        .map_err(|error| Failure::new(what(), error.why).hint_if(error.hint))?;
    let mtu = interface.mtu.unwrap_or(opened.mtu);
    if mtu > opened.mtu {
        eprintln!(
            "ampoule: note: TAP {name} takes packets of {} bytes, less than mtu={mtu} (hint: sudo ip link set {name} mtu {mtu})",
            opened.mtu
        );
    }
    if !opened.made && !opened.up {
        eprintln!("ampoule: note: TAP {name} is down (hint: sudo ip link set {name} up)");
    }
    let options = Options {
        taps: opened.taps,
        mac: address_of(interface, &host_identity()).bytes(),
        pinned: interface.guest_mac.is_some(),
        mtu,
        id: interface.iface_id.clone(),
    };
    Net::new(options, format!("net{index}")).map_err(|error| Failure::new(what(), error))
}

/// The address of a card, whether it was given one or not.
fn address_of(interface: &NetworkInterface, host: &str) -> Mac {
    let made_up = || made_up(interface, host);
    interface.guest_mac.unwrap_or_else(made_up)
}

/// What tells this host from others. One without an identity has its names.
fn host_identity() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default()
}

/// An address that is the same at each start, and on no other host.
fn made_up(interface: &NetworkInterface, host: &str) -> Mac {
    let parts = [host.trim(), &interface.host_dev_name, &interface.iface_id];
    Mac::local(address_seed(&parts))
}

/// Both limits of `limiter`, set or lifted.
fn limits(limiter: &RateLimiter) -> (Change, Change) {
    let [bandwidth, ops] = [&limiter.bandwidth, &limiter.ops];
    (
        Some(bandwidth.as_ref().map(disk::rate)),
        Some(ops.as_ref().map(disk::rate)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(text: &str, index: usize) -> NetworkInterface {
        match text.parse() {
            Ok(NetArg::Card(card)) => card.interface(index),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_name_is_enough() {
        assert_eq!(card("tap=tap0", 2), NetworkInterface::new("net2", "tap0"));
        let user = NetworkInterface::on_user_network("net0", UserNetwork::default());
        assert_eq!(card("user", 0), user);
        assert_eq!("none".parse(), Ok(NetArg::None));
    }

    #[test]
    fn options_follow() {
        let interface = card("tap=t,mac=06:00:ac:10:00:02,mtu=9000,queues=2,id=a", 0);
        assert_eq!(
            interface.guest_mac.unwrap().to_string(),
            "06:00:ac:10:00:02"
        );
        assert_eq!((interface.mtu, interface.queues), (Some(9000), Some(2)));
        assert_eq!(interface.iface_id, "a");
        let interface = card("user,flows=100,mtu=1500", 0);
        assert_eq!(interface.mtu, Some(1500));
        assert_eq!(interface.user.unwrap().flows, Some(100));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for text in [
            "",
            "tap0",
            "tap=",
            "mac=06:00:ac:10:00:02",
            "tap=t,mac=x",
            "tap=t,mac=01:00:ac:10:00:02",
            "tap=t,mtu=67",
            "tap=t,mtu=65536",
            "tap=t,queues=0",
            "tap=t,queues=17",
            "tap=t,speed=1",
            "tap=t,flows=100",
            "user=x",
            "user,",
            "user,queues=2",
            "user,flows=15",
            "user,flows=65537",
            "none,id=a",
            "none=1",
        ] {
            assert!(text.parse::<NetArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_that_was_made_up_stays() {
        let card = |tap| NetworkInterface::new("a", tap);
        let one = made_up(&card("tap0"), "here");
        assert_eq!(one, made_up(&card("tap0"), "here"));
        assert_ne!(one, made_up(&card("tap1"), "here"));
        assert_ne!(one, made_up(&card("tap0"), "there"));
    }
}
