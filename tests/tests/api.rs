//! The control socket: what it answers, and that no client can harm it, another client, or the guest.
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::{fd::AsFd, unix::fs::MetadataExt},
    process::Command,
};

use ampoule_tests::{
    Guest,
    api::{Answer, Connection, Socket, request},
    handmade, wait_until,
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

#[test]
fn curl_is_answered() {
    let (guest, socket) = served(&handmade::commands(), &[]);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "60",
                "--unix-socket",
            ])
            .arg(socket.path())
            .args(arguments)
            .output()
            .expect("curl is installed");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = curl(&["http://localhost/", "http://localhost/"]);
    assert_eq!(told.matches(r#""state":"Running""#).count(), 2, "{told}");
    let state = |state: &str, more: &[&str]| {
        let body = json!({"state": state}).to_string();
        let own = ["-X", "PATCH", "http://localhost/vm", "-d", &body];
        curl(&[&own, more, &["-w", "%{http_code}"]].concat())
    };
    assert_eq!(state("Paused", &[]), "204");
    assert_eq!(socket.state(), "Paused");
    assert_eq!(state("Resumed", &["-H", "Expect: 100-continue"]), "204");
    let chunked = state("Paused", &["-H", "Transfer-Encoding: chunked"]);
    assert!(
        chunked.contains("Content-Length") && chunked.ends_with("400"),
        "{chunked}"
    );
    let status = [
        "-w",
        "%{http_code}",
        "-X",
        "PUT",
        "http://localhost/actions",
    ];
    let long = NamedTempFile::new().expect("there is room for a file");
    long.as_file().set_len(4 << 20).expect("it is sparse");
    let long = format!("@{}", long.path().display());
    let answer = curl(&[&status[..], &["--data-binary", &long]].concat());
    assert!(answer.ends_with("413"), "{answer}");
    assert_eq!(socket.state(), "Running");
    finish(guest);
}

/// What `/proc` says the first vCPU's thread does: R runs, S sleeps.
fn vcpu_does(guest: &Guest) -> char {
    let tasks = format!("/proc/{}/task", guest.pid().as_raw_nonzero());
    let states = fs::read_dir(tasks).expect("it runs").filter_map(|task| {
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once(") ")?;
        name.ends_with("(vcpu0").then(|| rest.chars().next())?
    });
    states.last().expect("it has a vCPU")
}

#[test]
fn a_paused_guest_stands_still_until_it_is_resumed() {
    let (guest, socket) = served(&handmade::busy(), &[]);
    let set = |state: &str| {
        let answer = socket.ask("PATCH", "/vm", &json!({"state": state}).to_string());
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (204, ""),
            "{answer:?}"
        );
    };
    for _ in 0..3 {
        set("Paused");
        assert_eq!(socket.state(), "Paused");
        wait_until("its vCPU sleeps", || vcpu_does(&guest) == 'S');
        set("Paused");
        set("Resumed");
        assert_eq!(socket.state(), "Running");
        wait_until("its vCPU runs", || vcpu_does(&guest) == 'R');
        set("Resumed");
    }
}

#[test]
fn what_was_typed_to_a_paused_guest_is_read_when_it_goes_on() {
    let (mut guest, socket) = served(&handmade::commands(), &[]);
    let mut client = socket.connect();
    assert_eq!(
        client.ask("PATCH", "/vm", r#"{"state": "Paused"}"#).status,
        204
    );
    guest.type_bytes(b"h");
    assert_eq!(
        client.ask("PATCH", "/vm", r#"{"state": "Resumed"}"#).status,
        204
    );
    guest.wait_for("hello\n");
    finish(guest);
}

#[test]
fn ctrl_alt_del_presses_the_power_button_and_is_answered_before_the_end() {
    let kernel = handmade::button();
    for _ in 0..10 {
        let (guest, socket) = served(&kernel, &[]);
        let answer = socket.ask("PUT", "/actions", r#"{"action_type": "SendCtrlAltDel"}"#);
        assert_eq!(answer.status, 204);
        assert_eq!(guest.finish().code, 0);
    }
}

#[test]
fn a_guest_that_is_powered_on_again_is_served_as_before() {
    let (mut guest, socket) = served(&handmade::commands(), &["--on-reboot", "restart"]);
    let mut client = socket.connect();
    for _ in 0..2 {
        guest.type_bytes(b"r");
        guest.wait_for("ready\n");
        assert_eq!(client.ask("GET", "/", "").status, 200);
        assert_eq!(
            client.ask("PATCH", "/vm", r#"{"state": "Paused"}"#).status,
            204
        );
        assert_eq!(
            client.ask("PATCH", "/vm", r#"{"state": "Resumed"}"#).status,
            204
        );
    }
    finish(guest);
}

#[test]
fn errors_are_firecrackers() {
    let (guest, socket) = served(&handmade::commands(), &[]);
    let mut client = socket.connect();
    let mut refused = |method: &str, path: &str, body: &str| {
        let answer = client.ask(method, path, body);
        assert!(answer.head.contains("Connection: keep-alive"), "{answer:?}");
        fault(&answer)
    };
    let started = refused("PUT", "/actions", r#"{"action_type": "InstanceStart"}"#);
    assert!(started.contains("started already"), "{started}");
    let unknown = refused("GET", "/unknown", "");
    assert!(unknown.contains("GET /unknown"), "{unknown}");
    let misspelt = refused("PATCH", "/vm", r#"{"state": "Pausd"}"#);
    assert!(
        misspelt.contains("expected `Paused` or `Resumed`"),
        "{misspelt}"
    );
    let no_drive = refused("PATCH", "/drives/d", r#"{"drive_id": "d"}"#);
    assert!(no_drive.contains("no drive \"d\""), "{no_drive}");
    assert_eq!(client.ask("GET", "/", "").status, 200);
    finish(guest);
}

fn image(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new().expect("there is room for an image");
    file.as_file().set_len(bytes).expect("it is sparse");
    file
}

/// Whether the guest's process has this file open.
fn is_open(guest: &Guest, file: &File) -> bool {
    let descriptors = format!("/proc/{}/fd", guest.pid().as_raw_nonzero());
    let wanted = file.metadata().expect("a file");
    fs::read_dir(descriptors).expect("it runs").any(|entry| {
        let data = entry.ok().and_then(|entry| fs::metadata(entry.path()).ok());
        data.is_some_and(|data| (data.dev(), data.ino()) == (wanted.dev(), wanted.ino()))
    })
}

#[test]
fn another_image_comes_with_the_request() {
    let (disk, other) = (image(1 << 20), image(2 << 20));
    let argument = format!("{},id=data", disk.path().display());
    let (guest, socket) = served(&handmade::commands(), &["--disk", &argument]);
    let path = other.path().to_str().expect("a plain path");
    let body = json!({"drive_id": "data", "path_on_host": path}).to_string();
    let mut client = socket.connect();
    let refused = fault(&client.ask("PATCH", "/drives/data", &body));
    assert!(
        refused.contains(path) && refused.contains("SCM_RIGHTS"),
        "{refused}"
    );
    let asked = request("PATCH", "/drives/data", &body);
    let opened = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file");
    client
        .send_with(&asked, &[opened.as_fd()])
        .expect("it listens");
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(is_open(&guest, other.as_file()));
    // Each of the disk's threads lets it go when it comes to that.
    wait_until("it is closed", || !is_open(&guest, disk.as_file()));
    let config = json_of(&client.ask("GET", "/vm/config", ""));
    assert_eq!(config["drives"][0]["path_on_host"], path);
    let resized = json!({"drive_id": "data", "path_on_host": path}).to_string();
    assert_eq!(client.ask("PATCH", "/drives/data", &resized).status, 204);
    finish(guest);
}

#[test]
fn requests_that_follow_at_once_are_answered_in_their_order() {
    let (guest, socket) = served(&handmade::commands(), &[]);
    let mut client = socket.connect();
    let asked = [
        request("GET", "/version", ""),
        request("PATCH", "/vm", r#"{"state": "Paused"}"#),
        request("GET", "/", ""),
        request("PATCH", "/vm", r#"{"state": "Resumed"}"#),
        request("GET", "/", ""),
    ];
    let asked = asked.concat();
    for piece in [asked.clone(), asked.clone()] {
        client.send(&piece).expect("it listens");
    }
    for byte in &asked {
        client.send(&[*byte]).expect("it listens");
    }
    for _ in 0..3 {
        let mut next = || client.answer().expect("an answer");
        assert!(next().body.contains("version"));
        assert_eq!(next().status, 204);
        assert!(next().body.contains("Paused"));
        assert_eq!(next().status, 204);
        assert!(next().body.contains("Running"));
    }
    client
        .send(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        .expect("it listens");
    let last = client.answer().expect("an answer");
    assert!(last.head.contains("Connection: close"), "{last:?}");
    assert!(client.ends());
    finish(guest);
}

#[test]
fn a_body_is_asked_for_where_the_client_waits_for_that() {
    let (guest, socket) = served(&handmade::commands(), &[]);
    let mut client = socket.connect();
    let head = b"PATCH /vm HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 19\r\n\r\n";
    client.send(head).expect("it listens");
    assert_eq!(client.answer().expect("an answer").status, 100);
    client.send(br#"{"state": "Paused"}"#).expect("it listens");
    assert_eq!(client.answer().expect("an answer").status, 204);
    assert_eq!(
        client.ask("PATCH", "/vm", r#"{"state": "Resumed"}"#).status,
        204
    );
    finish(guest);
}

/// A guest that says hello and an API that tells its state: all is well.
fn assert_well(guest: &mut Guest, socket: &Socket) {
    assert_eq!(socket.state(), "Running");
    guest.type_bytes(b"h");
    guest.wait_for("hello\n");
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_ends() {
    let (mut guest, socket) = served(&handmade::commands(), &[]);
    let long = |bytes: usize| format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(bytes)).into_bytes();
    let huge = b"PUT /actions HTTP/1.1\r\nContent-Length: 51201\r\n\r\n".to_vec();
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\n".to_vec(), 400),
        (b"hello\r\n\r\n".to_vec(), 400),
        (
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            400,
        ),
        (long(9000), 400),
        (long(100_000), 400),
        (huge.clone(), 413),
        ([huge, vec![b'x'; 60_000]].concat(), 413),
    ] {
        let mut client = socket.connect();
        client.send(&bytes).expect("it listens");
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains("fault_message"), "{answer:?}");
        assert!(answer.head.contains("Connection: close"), "{answer:?}");
        assert!(client.ends());
        assert_well(&mut guest, &socket);
    }
    finish(guest);
}

#[test]
fn clients_that_are_slow_keep_nobody_waiting() {
    let (mut guest, socket) = served(&handmade::commands(), &[]);
    let slow: Vec<Connection> = (0..200)
        .map(|_| {
            let mut client = socket.connect();
            // One that had to go for another is told nothing.
            let _ = client.send(b"GET / HTTP/1.1\r\nX: ");
            client
        })
        .collect();
    assert_well(&mut guest, &socket);
    finish(guest);
    drop(slow);
}

#[test]
fn a_thousand_connections_keep_nobody_waiting() {
    let (mut guest, socket) = served(&handmade::commands(), &[]);
    for _ in 0..4 {
        let idle: Vec<Connection> = (0..250).map(|_| socket.connect()).collect();
        assert_well(&mut guest, &socket);
        drop(idle);
    }
    finish(guest);
}

#[test]
fn clients_that_never_read_keep_nobody_waiting() {
    let (mut guest, socket) = served(&handmade::commands(), &[]);
    let asked = request("GET", "/vm/config", "").repeat(100);
    let deaf: Vec<Connection> = (0..10)
        .map(|_| {
            let mut client = socket.connect();
            let nonblocking = client.stream().set_nonblocking(true);
            nonblocking.expect("it is a socket");
            let stalled = loop {
                if let Err(error) = client.send(&asked) {
                    break error.kind();
                }
            };
            assert_eq!(stalled, ErrorKind::WouldBlock);
            client
        })
        .collect();
    assert_well(&mut guest, &socket);
    finish(guest);
    drop(deaf);
}

#[test]
fn clients_that_ask_and_go_harm_nobody() {
    let (mut guest, socket) = served(&handmade::commands(), &[]);
    for _ in 0..200 {
        let mut client = socket.connect();
        let asked = request("GET", "/vm/config", "").repeat(3);
        client.send(&asked).expect("it listens");
    }
    assert_well(&mut guest, &socket);
    finish(guest);
}

fn open_descriptors(guest: &Guest) -> usize {
    let descriptors = format!("/proc/{}/fd", guest.pid().as_raw_nonzero());
    fs::read_dir(descriptors).expect("it runs").count()
}

#[test]
fn descriptors_that_nobody_wants_are_closed() {
    let (mut guest, socket) = served(&handmade::commands(), &[]);
    let file = image(512);
    let before = open_descriptors(&guest);
    let mut client = socket.connect();
    for count in [1, 2] {
        let descriptors = vec![file.as_file().as_fd(); count];
        let asked = request("GET", "/", "");
        client.send_with(&asked, &descriptors).expect("it listens");
        assert_eq!(client.answer().expect("an answer").status, 200);
    }
    assert!(!is_open(&guest, file.as_file()));
    for _ in 0..50 {
        let mut flood = socket.connect();
        let descriptors = vec![file.as_file().as_fd(); 253];
        flood.send_with(b"GET", &descriptors).expect("it listens");
        assert!(fault(&flood.answer().expect("an answer")).contains("descriptors"));
        let mut trickle = socket.connect();
        for byte in b"GET " {
            // It is refused before the last.
            let _ = trickle.send_with(&[*byte], &[file.as_file().as_fd()]);
        }
        assert!(fault(&trickle.answer().expect("an answer")).contains("descriptors"));
    }
    assert!(!is_open(&guest, file.as_file()));
    drop(client);
    wait_until("they are closed", || open_descriptors(&guest) <= before);
    assert_well(&mut guest, &socket);
    finish(guest);
}

#[test]
fn a_socket_that_is_taken_is_refused_and_one_that_is_left_is_replaced() {
    let kernel = handmade::commands();
    let (guest, socket) = served(&kernel, &[]);
    let mode = fs::metadata(socket.path()).expect("it is there").mode();
    assert_eq!(mode & 0o7777, 0o600);
    let second = kernel.run(&["--api-sock", socket.argument()]).finish();
    assert_eq!((second.code, second.stdout.len()), (125, 0));
    let expected = format!(
        "ampoule: --api-sock {}: a running program listens there already (hint: give each guest a socket of its own)\n",
        socket.argument()
    );
    assert_eq!(second.stderr, expected);
    assert_eq!(socket.state(), "Running");
    finish(guest);
    let mut third = kernel.run(&["--api-sock", socket.argument()]);
    third.wait_for("ready\n");
    assert_eq!(socket.state(), "Running");
    finish(third);
    fs::remove_file(socket.path()).expect("it is left");
    fs::write(socket.path(), "precious").expect("there is room for a file");
    let refused = kernel.run(&["--api-sock", socket.argument()]).finish();
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("no socket"), "{}", refused.stderr);
    let kept = fs::read(socket.path()).expect("it is there");
    assert_eq!(kept, b"precious");
}
