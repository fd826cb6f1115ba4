use std::{cell::Cell, fs::File, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use vmm::{
    config::{BootSource, Drive, NetworkInterface},
    virtio::{
        block::{Block, Cache, Choice, Image, Options},
        net,
    },
};

use super::*;
use crate::api::Status;

/// A machine that only remembers.
pub(in crate::api) struct Fake {
    state: Cell<State>,
    presses: Cell<u32>,
}

impl Fake {
    fn become_(&self, state: State) -> Result<(), ControlError> {
        if self.state.get() == State::Stopped {
            return Err(ControlError::Ended);
        }
        self.state.set(state);
        Ok(())
    }
}

impl Vm for Fake {
    fn state(&self) -> Result<State, ControlError> {
        Ok(self.state.get())
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.become_(State::Paused)
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.become_(State::Running)
    }

    fn press_power_button(&self) -> Result<(), ControlError> {
        self.presses.set(self.presses.get() + 1);
        self.become_(self.state.get())
    }

    fn plug(&self, _: usize) -> Result<(), ControlError> {
        self.become_(self.state.get())
    }
}

fn image(sectors: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(sectors * 512).unwrap();
    file
}

/// A machine with these drives.
pub(in crate::api) fn resources(drives: Vec<Drive>) -> Resources<Fake> {
    let disks = drives.iter().map(|drive| {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&drive.path_on_host);
        let options = Options {
            image: Image::cached(file.unwrap()),
            read_only: drive.is_read_only,
            cache: Cache::WriteBack,
            id: drive.drive_id.clone(),
            serial: String::new(),
            queues: 1,
        };
        let block = Block::new(options, "disk0".into(), Choice::Best).unwrap();
        Disk {
            id: drive.drive_id.clone(),
            handle: block.handle(),
        }
    });
    let devices = Handles {
        cards: Vec::new(),
        spares: Spares::default(),
        disks: disks.collect(),
        balloon: None,
    };
    let mut definition = Definition::new(BootSource::new("vmlinuz"));
    definition.drives = drives;
    let about = About {
        id: "g".into(),
        definition,
        devices,
    };
    let vm = Fake {
        state: Cell::new(State::Running),
        presses: Cell::default(),
    };
    Resources::new(about, vm)
}

fn ask_with(
    resources: &mut Resources<Fake>,
    line: &str,
    body: &str,
    descriptors: Vec<OwnedFd>,
) -> Response {
    let (method, path) = line.split_once(' ').unwrap();
    let method = match method {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "PATCH" => Method::Patch,
        _ => Method::Other,
    };
    let request = Request {
        method,
        line: line.into(),
        path: path.into(),
        body: body.into(),
        keep_alive: true,
    };
    resources.answer(&request, descriptors)
}

pub(in crate::api) fn ask(resources: &mut Resources<Fake>, line: &str, body: &str) -> Response {
    ask_with(resources, line, body, Vec::new())
}

pub(in crate::api) fn json_of(response: &Response) -> Value {
    assert_eq!(response.status, Status::Ok, "{response:?}");
    serde_json::from_str(&response.body).unwrap()
}

pub(in crate::api) fn assert_fault(response: &Response, why: &str) {
    assert_eq!(response.status, Status::BadRequest, "{response:?}");
    let body: Value = serde_json::from_str(&response.body).unwrap();
    let message = body["fault_message"].as_str().unwrap();
    assert!(message.contains(why), "{why:?} is not in {message:?}");
}

#[test]
fn the_state_is_told_in_firecrackers_words() {
    let mut resources = resources(vec![]);
    for (state, name) in [
        (State::Created, "Not started"),
        (State::Running, "Running"),
        (State::Paused, "Paused"),
    ] {
        resources.vm.state.set(state);
        let info = json_of(&ask(&mut resources, "GET /", ""));
        assert_eq!(
            info,
            json!({"id": "g", "state": name, "vmm_version": VERSION, "app_name": "Ampoule"})
        );
    }
    resources.vm.state.set(State::Stopped);
    assert_fault(&ask(&mut resources, "GET /", ""), "ended");
}

#[test]
fn to_pause_what_is_paused_is_no_error_and_neither_is_to_resume_what_runs() {
    let mut resources = resources(vec![]);
    for state in ["Resumed", "Paused", "Paused", "Resumed", "Resumed"] {
        let body = format!(r#"{{"state": "{state}"}}"#);
        let response = ask(&mut resources, "PATCH /vm", &body);
        assert_eq!(response, Response::done());
        let expected = match state {
            "Paused" => State::Paused,
            _ => State::Running,
        };
        assert_eq!(resources.vm.state.get(), expected);
    }
    resources.vm.state.set(State::Stopped);
    assert_fault(
        &ask(&mut resources, "PATCH /vm", r#"{"state": "Paused"}"#),
        "ended",
    );
}

#[test]
fn ctrl_alt_del_presses_the_power_button_and_a_guest_starts_once() {
    let mut resources = resources(vec![]);
    let action = |name: &str| format!(r#"{{"action_type": "{name}"}}"#);
    let response = ask(&mut resources, "PUT /actions", &action("SendCtrlAltDel"));
    assert_eq!(response, Response::done());
    assert_eq!(resources.vm.presses.get(), 1);
    for (name, why) in [
        ("InstanceStart", "started already"),
        ("FlushMetrics", "no metrics"),
        ("Explode", "unknown variant `Explode`"),
    ] {
        assert_fault(&ask(&mut resources, "PUT /actions", &action(name)), why);
    }
}

#[test]
fn what_no_resource_takes_is_refused_with_the_reason() {
    let mut resources = resources(vec![]);
    for (line, body, why) in [
        ("GET /nothing", "", "no such resource"),
        ("GET /vm", "", "no such resource"),
        ("GET /vm/config/more", "", "no such resource"),
        ("DELETE /drives/d", "", "no such resource"),
        ("GET *", "", "no such resource"),
        ("GET /", "{}", "no body"),
        ("PATCH /vm", "", "body is missing"),
        ("PATCH /vm", "{", "EOF"),
        ("PATCH /vm", "\u{ff}", "expected value"),
        ("PATCH /vm", "[\"Paused\"]", "an object"),
        ("PATCH /vm", "{}", "missing field `state`"),
        (
            "PATCH /vm",
            r#"{"state": "Paused", "more": 1}"#,
            "unknown field `more`",
        ),
        (
            "PATCH /vm",
            r#"{"state": {"Paused": null}}"#,
            "invalid type",
        ),
        ("PUT /boot-source", "{}", "after the start"),
        ("PUT /drives/d", "{}", "after the start"),
        ("PATCH /drives", "{}", "no such resource"),
    ] {
        assert_fault(&ask(&mut resources, line, body), why);
    }
    let deep = "[".repeat(50_000);
    assert_fault(&ask(&mut resources, "PATCH /vm", &deep), "");
}

#[test]
fn the_definition_is_told_with_firecrackers_empty_keys() {
    let disk = image(8);
    let mut resources = resources(vec![Drive::new("d", disk.path())]);
    let config = json_of(&ask(&mut resources, "GET /vm/config", ""));
    assert_eq!(config["boot-source"]["kernel_image_path"], "vmlinuz");
    assert_eq!(config["drives"][0]["drive_id"], "d");
    assert_eq!(config["pmem"], json!([]));
    assert!(config.as_object().unwrap().contains_key("balloon"));
    assert_eq!(config["lifecycle"]["stop_timeout_s"], 10);
    let machine = json_of(&ask(&mut resources, "GET /machine-config/", ""));
    assert_eq!(machine, config["machine-config"]);
    // What is told can be read again.
    let definition: Definition = serde_json::from_value(config).unwrap();
    assert_eq!(definition, resources.about.definition);
}

fn sectors(resources: &Resources<Fake>) -> u64 {
    resources.about.devices.disks[0].handle.resize().unwrap()
}

#[test]
fn a_drive_has_the_size_that_its_image_has_when_asked() {
    let disk = image(8);
    let mut resources = resources(vec![Drive::new("d", disk.path())]);
    disk.as_file().set_len(16 * 512).unwrap();
    let same = format!(
        r#"{{"drive_id": "d", "path_on_host": "{}"}}"#,
        disk.path().display()
    );
    for body in [r#"{"drive_id": "d"}"#, &same] {
        assert_eq!(
            ask(&mut resources, "PATCH /drives/d", body),
            Response::done()
        );
    }
    assert_eq!(sectors(&resources), 16);
}

#[test]
fn limits_that_are_given_replace_those_that_are_there() {
    let disk = image(8);
    let mut resources = resources(vec![Drive::new("d", disk.path())]);
    let mut limits = |body: &str| {
        let body = format!(r#"{{"drive_id": "d", "rate_limiter": {body}}}"#);
        let response = ask(&mut resources, "PATCH /drives/d", &body);
        assert_eq!(response, Response::done());
        let config = json_of(&ask(&mut resources, "GET /vm/config", ""));
        config["drives"][0]["rate_limiter"].clone()
    };
    let (slow, slower) = (
        json!({"size": 1000, "refill_time": 100}),
        json!({"size": 10, "refill_time": 100}),
    );
    let set = limits(&json!({"bandwidth": slow, "ops": slower}).to_string());
    assert_eq!(set, json!({"bandwidth": slow, "ops": slower}));
    let kept = limits(&json!({"ops": slow, "bandwidth": null}).to_string());
    assert_eq!(kept, json!({"bandwidth": slow, "ops": slow}));
    let lifted = limits(r#"{"bandwidth": {"size": 0, "refill_time": 0}}"#);
    assert_eq!(lifted, json!({"ops": slow}));
    assert_eq!(limits("null"), json!({"ops": slow}));
}

#[test]
fn another_image_comes_as_a_descriptor() {
    let (disk, other) = (image(8), image(32));
    let mut resources = resources(vec![Drive::new("d", disk.path())]);
    let body = r#"{"drive_id": "d", "path_on_host": "other.img"}"#;
    let refused = ask(&mut resources, "PATCH /drives/d", body);
    assert_fault(&refused, "SCM_RIGHTS");
    let opened = vec![other.reopen().unwrap().into()];
    let response = ask_with(&mut resources, "PATCH /drives/d", body, opened);
    assert_eq!(response, Response::done());
    assert_eq!(sectors(&resources), 32);
    let config = json_of(&ask(&mut resources, "GET /vm/config", ""));
    assert_eq!(config["drives"][0]["path_on_host"], "other.img");
}

#[test]
fn what_is_no_image_does_not_replace_one() {
    let (disk, other) = (image(8), image(32));
    let mut read_only = Drive::new("r", disk.path());
    read_only.is_read_only = true;
    let mut around = Drive::new("around", disk.path());
    around.cache_type = config::CacheType::None;
    let drives = vec![Drive::new("d", disk.path()), read_only, around];
    let mut resources = resources(drives);
    let open = |flags| rustix::fs::open(other.path(), flags, Mode::empty()).unwrap();
    let socket = || -> OwnedFd { std::os::unix::net::UnixStream::pair().unwrap().0.into() };
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let directory: OwnedFd = File::open("/").unwrap().into();
    let cases = [
        ("d", vec![socket()], "neither a file nor"),
        ("d", vec![null], "neither a file nor"),
        ("d", vec![directory], "neither a file nor"),
        ("d", vec![open(OFlags::RDONLY)], "reading and writing"),
        ("d", vec![open(OFlags::WRONLY)], "reading and writing"),
        ("r", vec![open(OFlags::WRONLY)], "for reading"),
        ("d", vec![open(OFlags::PATH)], "O_PATH"),
        ("d", vec![open(OFlags::RDWR | OFlags::APPEND)], "O_APPEND"),
        ("around", vec![open(OFlags::RDWR)], "cache_type"),
        ("d", vec![socket(), socket()], "2 descriptors"),
    ];
    for (id, descriptors, why) in cases {
        let body = format!(r#"{{"drive_id": "{id}", "path_on_host": "new"}}"#);
        let line = format!("PATCH /drives/{id}");
        let response = ask_with(&mut resources, &line, &body, descriptors);
        assert_fault(&response, why);
    }
    let unnamed = ask_with(
        &mut resources,
        "PATCH /drives/d",
        r#"{"drive_id": "d"}"#,
        vec![open(OFlags::RDWR)],
    );
    assert_fault(&unnamed, "path_on_host");
    let used = NamedTempFile::new().unwrap();
    crate::run::claim::lock(used.as_file(), false).unwrap();
    let body = r#"{"drive_id": "d", "path_on_host": "new"}"#;
    let descriptors = vec![used.reopen().unwrap().into()];
    let response = ask_with(&mut resources, "PATCH /drives/d", body, descriptors);
    assert_fault(&response, "another program");
    assert_eq!(sectors(&resources), 8);
    assert_eq!(
        resources.about.definition.drives[0].path_on_host,
        disk.path()
    );
}

#[test]
fn a_drive_is_named_twice_alike() {
    let disk = image(8);
    let mut resources = resources(vec![Drive::new("d", disk.path())]);
    for (id, body, why) in [
        ("x", r#"{"drive_id": "x"}"#, "no drive"),
        ("x", r#"{"drive_id": "d"}"#, "the path says"),
        ("d", "{}", "missing field `drive_id`"),
        (
            "d",
            r#"{"drive_id": "d", "is_read_only": true}"#,
            "unknown field",
        ),
        ("d", r#"{"drive_id": "d", "rate_limiter": []}"#, "an object"),
    ] {
        assert_fault(
            &ask(&mut resources, &format!("PATCH /drives/{id}"), body),
            why,
        );
    }
}

#[test]
fn a_card_s_limits_are_changed_one_by_one() {
    let mut resources = resources(Vec::new());
    let (tap, _host) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let options = net::Options {
        taps: vec![net::Tap::stand_in(tap.into(), Default::default())],
        mac: [2; 6],
        pinned: false,
        mtu: 1500,
        id: "n".into(),
    };
    let net = net::Net::new(options, "net0".into()).unwrap();
    let interface = NetworkInterface::new("n", "tap0");
    resources
        .about
        .definition
        .network_interfaces
        .push(interface);
    resources.about.devices.cards.push(Card {
        id: "n".into(),
        handle: net.handle(),
    });
    let path = "PATCH /network-interfaces/n";
    let mut patched = |body: Value| {
        assert_eq!(
            ask(&mut resources, path, &body.to_string()),
            Response::done()
        );
        let config = json_of(&ask(&mut resources, "GET /vm/config", ""));
        config["network-interfaces"][0].clone()
    };
    let slow = json!({"size": 1000, "refill_time": 100});
    let lifted = json!({"size": 0, "refill_time": 0});
    let limited = patched(json!({"iface_id": "n", "tx_rate_limiter": {"ops": slow}}));
    assert_eq!(limited["tx_rate_limiter"], json!({"ops": slow}));
    assert_eq!(limited["rx_rate_limiter"], Value::Null);
    let both = patched(json!({"iface_id": "n", "rx_rate_limiter": {"bandwidth": slow}}));
    assert_eq!(both["tx_rate_limiter"], json!({"ops": slow}));
    assert_eq!(both["rx_rate_limiter"], json!({"bandwidth": slow}));
    let none = patched(json!({"iface_id": "n", "rx_rate_limiter": {"bandwidth": lifted}}));
    assert_eq!(none["rx_rate_limiter"], Value::Null);
    for (path, body, why) in [
        (path, r#"{"iface_id": "m"}"#, "the body says"),
        (
            "PATCH /network-interfaces/m",
            r#"{"iface_id": "m"}"#,
            "there is no network interface",
        ),
        (path, r#"{"iface_id": "n", "mtu": 9000}"#, "unknown field"),
    ] {
        let refused = format!("{:?}", ask(&mut resources, path, body));
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_card_that_cannot_come_is_refused_and_nothing_changes() {
    let mut resources = resources(vec![]);
    let path = "PUT /network-interfaces/n";
    let tap = |more: &str| format!(r#"{{"iface_id": "n", "host_dev_name": "tap9"{more}}}"#);
    resources.about.devices.spares = Spares::without_pci();
    for (path, body, why) in [
        ("PUT /network-interfaces/m", tap(""), "the body says"),
        (path, tap(r#", "queues": 2"#), "one pair of queues"),
        (path, tap(r#", "mtu": 1"#), "from 68 to 65535"),
        (
            path,
            r#"{"iface_id": "n", "user": {}}"#.into(),
            "is on a TAP",
        ),
        (path, tap(r#", "speed": 1"#), "unknown field"),
        (
            path,
            tap("").replace("tap9", "a/b"),
            "network-interfaces[0].host_dev_name",
        ),
        (path, tap(""), "start it with --transport pci"),
    ] {
        assert_fault(&ask(&mut resources, path, &body), why);
    }
    resources.about.devices.spares = Spares::default();
    assert_fault(&ask(&mut resources, path, &tap("")), "no slot left");
    let config = json_of(&ask(&mut resources, "GET /vm/config", ""));
    assert_eq!(config["network-interfaces"], json!([]));
    assert!(resources.about.devices.cards.is_empty());
}
