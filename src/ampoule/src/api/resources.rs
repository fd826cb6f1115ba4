//! The resources of the API, as Firecracker's `swagger/firecracker.yaml` has them.
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use vmm::{
    config::{self, Action, ActionType, Definition, VmState, VmUpdate},
    machine::{Control, ControlError, State},
    virtio::balloon::Handle,
};

use super::{
    balloon,
    cards::{self, Card},
    drives::{self, Disk},
    http::{Method, Request},
    response::Response,
};
use crate::run::net::Spares;

/// What the API tells of a machine that the machine does not know, and what it changes without the machine.
pub struct About {
    /// What the guest is called.
    pub id: String,
    /// What it was made from. What a client changes is changed in here.
    pub definition: Definition,
    /// Its devices, for those who change them.
    pub devices: Handles,
}

/// Devices of a running machine, by what they are changed by.
#[derive(Default)]
pub struct Handles {
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its balloon.
    pub balloon: Option<Handle>,
    /// Its network cards.
    pub cards: Vec<Card>,
    /// Those that it may get.
    pub(crate) spares: Spares,
}

/// What the API wants of a machine.
pub trait Vm {
    /// Where in its life it is.
    ///
    /// # Errors
    /// When the guest has ended.
    fn state(&self) -> Result<State, ControlError>;
    /// Takes its vCPUs out of the guest.
    ///
    /// # Errors
    /// When the guest has ended.
    fn pause(&self) -> Result<(), ControlError>;
    /// Lets the guest go on.
    ///
    /// # Errors
    /// When the guest has ended.
    fn resume(&self) -> Result<(), ControlError>;
    /// Presses its power button.
    ///
    /// # Errors
    /// When the guest has ended.
    fn press_power_button(&self) -> Result<(), ControlError>;
    /// Puts a spare device into its slot.
    ///
    /// # Errors
    /// When the guest has ended.
    fn plug(&self, spare: usize) -> Result<(), ControlError>;
}

impl Vm for Control {
    fn state(&self) -> Result<State, ControlError> {
        self.state()
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.pause()
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.resume()
    }

    fn press_power_button(&self) -> Result<(), ControlError> {
        self.press_power_button()
    }

    fn plug(&self, spare: usize) -> Result<(), ControlError> {
        self.plug(spare)
    }
}

/// The resources of one machine.
pub struct Resources<V> {
    pub(super) about: About,
    vm: V,
}

/// `GET /`: Firecracker's `InstanceInfo`.
#[derive(Serialize)]
struct InstanceInfo<'a> {
    id: &'a str,
    state: &'static str,
    vmm_version: &'static str,
    app_name: &'static str,
}

/// `GET /version`.
#[derive(Serialize)]
struct Version {
    /// What Firecracker's clients read: a version of ours all the same.
    firecracker_version: &'static str,
    ampoule_version: &'static str,
}

/// `GET /vm/config`: the definition, and Firecracker's keys for parts that do not exist here, as Firecracker has them when they are
/// not used. No `serde_json::Value`: that may be a hash map, which asks the kernel for random bytes.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FullConfig<'a> {
    #[serde(flatten)]
    definition: &'a Definition,
    cpu_config: (),
    entropy: (),
    logger: (),
    memory_hotplug: (),
    metrics: (),
    mmds_config: (),
    pmem: [(); 0],
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Resources of Firecracker's that describe a machine which is still to be started: here a definition does.
const BEFORE_THE_START: [&str; 11] = [
    "balloon",
    "boot-source",
    "cpu-config",
    "drives",
    "entropy",
    "logger",
    "machine-config",
    "metrics",
    "pmem",
    "serial",
    "vsock",
];

impl<V: Vm> Resources<V> {
    /// The resources of the machine that `vm` reaches.
    pub fn new(about: About, vm: V) -> Self {
        Self { about, vm }
    }

    /// Does what a request asks for. What it does not use of the `descriptors` that came along is closed.
    pub fn answer(&mut self, request: &Request, descriptors: Vec<OwnedFd>) -> Response {
        let path = request.path.trim_start_matches('/');
        let mut names = path.split_terminator('/');
        let resource = (names.next().unwrap_or_default(), names.next(), names.next());
        match (request.method, resource) {
            (Method::Get, _) if !request.body.is_empty() => {
                Response::fault("a GET request has no body")
            }
            (Method::Get, ("", None, None)) => self.instance_info(),
            (Method::Get, ("version", None, None)) => Response::json(&Version {
                firecracker_version: VERSION,
                ampoule_version: VERSION,
            }),
            (Method::Get, ("vm", Some("config"), None)) => self.config(),
            (Method::Get, ("machine-config", None, None)) => {
                Response::json(&self.about.definition.machine_config)
            }
            (Method::Patch, ("vm", None, None)) => with_body(request, |body| self.change(body)),
            (Method::Patch, ("drives", Some(id), None)) => {
                let About {
                    definition,
                    devices,
                    ..
                } = &mut self.about;
                with_body(request, |body| {
                    drives::change(definition, &devices.disks, id, body, descriptors)
                })
            }
            (Method::Get | Method::Patch, ("balloon", first, second)) => self
                .balloon(request, (first, second))
                .unwrap_or_else(|| unknown(request)),
            (Method::Patch, ("network-interfaces", Some(id), None)) => {
                let About {
                    definition,
                    devices,
                    ..
                } = &mut self.about;
                with_body(request, |body| {
                    cards::change(definition, &devices.cards, id, &body)
                })
            }
            (Method::Put, ("network-interfaces", Some(id), None)) => {
                let Self { about, vm } = self;
                with_body(request, |interface| {
                    cards::add(about, id, interface, |spare| vm.plug(spare))
                })
            }
            (Method::Put, ("actions", None, None)) => with_body(request, |body| self.act(body)),
            (Method::Put, (first, ..)) if BEFORE_THE_START.contains(&first) => {
                Response::fault(format_args!(
                    "{}: not possible after the start: the guest is what `ampoule run` was given (its flags, its --config)",
                    request.line
                ))
            }
            _ => unknown(request),
        }
    }

    fn balloon(
        &mut self,
        request: &Request,
        names: (Option<&str>, Option<&str>),
    ) -> Option<Response> {
        let About {
            definition,
            devices,
            ..
        } = &mut self.about;
        balloon::answer(definition, devices.balloon.as_ref(), request, names)
    }

    fn instance_info(&self) -> Response {
        match self.vm.state() {
            Ok(state) => match name_of(state) {
                Some(state) => Response::json(&InstanceInfo {
                    id: &self.about.id,
                    state,
                    vmm_version: VERSION,
                    app_name: "Ampoule",
                }),
                None => Response::fault(ControlError::Ended),
            },
            Err(error) => Response::fault(error),
        }
    }

    fn config(&self) -> Response {
        Response::json(&FullConfig {
            definition: &self.about.definition,
            cpu_config: (),
            entropy: (),
            logger: (),
            memory_hotplug: (),
            metrics: (),
            mmds_config: (),
            pmem: [],
        })
    }

    fn change(&self, update: VmUpdate) -> Response {
        done(match update.state {
            VmState::Paused => self.vm.pause(),
            VmState::Resumed => self.vm.resume(),
        })
    }

    fn act(&self, action: Action) -> Response {
        match action.action_type {
            ActionType::SendCtrlAltDel => done(self.vm.press_power_button()),
            ActionType::InstanceStart => Response::fault("the guest has been started already"),
            ActionType::FlushMetrics => Response::fault("there are no metrics yet"),
        }
    }
}

/// Firecracker's names.
fn name_of(state: State) -> Option<&'static str> {
    match state {
        State::Created => Some("Not started"),
        State::Running => Some("Running"),
        State::Paused => Some("Paused"),
        State::Stopped => None,
    }
}

fn done(outcome: Result<(), ControlError>) -> Response {
    match outcome {
        Ok(()) => Response::done(),
        Err(error) => Response::fault(error),
    }
}

fn unknown(request: &Request) -> Response {
    Response::fault(format_args!(
        "{}: there is no such resource, or it does not take this method",
        request.line
    ))
}

/// As [`with_body`], where no body is as good as an empty one.
pub(super) fn with_body_or_none<T: DeserializeOwned + Default>(
    request: &Request,
    answer: impl FnOnce(T) -> Response,
) -> Response {
    match request.body.is_empty() {
        true => answer(T::default()),
        false => with_body(request, answer),
    }
}

/// Answers by what the body says, if it says what it should.
pub(super) fn with_body<T: DeserializeOwned>(
    request: &Request,
    answer: impl FnOnce(T) -> Response,
) -> Response {
    /// An object and nothing else.
    struct Body<T>(T);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Body<T> {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            config::object(deserializer).map(Body)
        }
    }
    if request.body.is_empty() {
        return Response::fault(format_args!("{}: the body is missing", request.line));
    }
    match serde_json::from_slice::<Body<T>>(&request.body) {
        Ok(Body(value)) => answer(value),
        Err(error) => Response::fault(format_args!("{}: {error}", request.line)),
    }
}
#[cfg(test)]
pub(super) mod tests;
