//! The control socket: what it answers, and that no client can harm it, another client, or the guest.
use std::{
    fs::File,
    io::Write,
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    process::Command,
};

use ampoule_tests::{
    Guest,
    api::{Answer, Socket, request},
    handmade,
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// A guest that does what it is told, and its control socket.
fn served(kernel: &handmade::Kernel, arguments: &[&str]) -> (Guest, Socket) {
    let socket = Socket::default();
    let mut guest = kernel.run(&[&["--api-sock", socket.argument()], arguments].concat());
    guest.wait_for("ready\n");
    (guest, socket)
}

/// Lets the guest power off.
fn finish(mut guest: Guest) {
    guest.type_bytes(b"p");
    assert_eq!(guest.finish().code, 0);
}

fn json_of(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// What a refusal says.
fn fault(answer: &Answer) -> String {
    assert_eq!(answer.status, 400, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    let members = body.as_object().expect("an object");
    assert_eq!(members.len(), 1, "{answer:?}");
    body["fault_message"].as_str().expect("a text").to_owned()
}

#[test]
fn it_tells_of_the_guest() {
    let (guest, socket) = served(&handmade::commands(), &["--memory", "64M"]);
    let info = json_of(&socket.ask("GET", "/", ""));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        info,
        json!({"id": "anonymous-instance", "state": "Running", "vmm_version": version, "app_name": "Ampoule"})
    );
    let told = json_of(&socket.ask("GET", "/version", ""));
    assert_eq!(told["firecracker_version"], version);
    let config = json_of(&socket.ask("GET", "/vm/config", ""));
    assert_eq!(config["machine-config"]["mem_size_mib"], 64);
    assert_eq!(config["network-interfaces"], json!([]));
    finish(guest);
}
