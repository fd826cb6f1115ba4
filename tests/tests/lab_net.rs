//! Network cards: what a guest sends is what this side of its TAP receives, and the other way round.
use std::{
    env, fs,
    process::{Child, Command, Output, Stdio},
};

use ampoule_tests::{
    Guest, Launch,
    api::Socket,
    linux::{Image, Linux, linux},
    network::{GUEST, HOST, ip, namespace, program, succeed, tap},
    shell::{power_off, run},
    trace, wait_until,
};

fn is_stock() -> bool {
    Image::Given.path() == Image::Cloud.path()
}

/// A guest with drivers, and a card.
fn with_net(options: &str) -> Linux {
    let guest = linux().initrd(Image::DriversInitrd);
    guest.with_more(&format!("--net {options}"))
}

/// The same, with programs that use the network.
fn loaded(options: &str) -> Linux {
    let guest = linux().initrd(Image::NetInitrd);
    let guest = guest.with("--memory 512M");
    let guest = guest.with_more(&format!("--net {options}"));
    match is_stock() {
        // Transports go pairwise.
        true => guest.with("--transport pci"),
        false => guest,
    }
}

/// Brings the card up, in the guest.
const UP: &str = "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up";

/// A guest at its shell, with its card up.
fn start(guest: Linux) -> Guest {
    brought_up(guest.start())
}

fn brought_up(mut guest: Guest) -> Guest {
    guest.wait_for("user space");
    guest.wait_for("# ");
    run(&mut guest, UP);
    guest
}

/// Whether the guest answers.
fn answers(size: u32) -> bool {
    let size = size.to_string();
    let ping = ["-c", "1", "-W", "2", "-s", &size, GUEST];
    let output: Output = Command::new("busybox")
        .arg("ping")
        .args(ping)
        .output()
        .expect("busybox");
    output.status.success()
}

/// The guest answers, once its link is up.
fn reach(size: u32) {
    wait_until("the guest answers", || answers(size));
}

#[test]
fn a_guest_pings_and_is_pinged() {
    for transport in ["mmio", "pci"] {
        namespace();
        tap("tap0", "", 1500);
        let guest =
            with_net("tap=tap0,mac=06:00:ac:10:00:02").with(&format!("--transport {transport}"));
        let mut guest = start(guest);
        run(
            &mut guest,
            &format!("ping -c 2 {HOST} && ping -c 1 -s 9000 {HOST}"),
        );
        run(
            &mut guest,
            "grep 06:00:ac:10:00:02 /sys/class/net/eth0/address",
        );
        for size in [56, 1472, 20_000] {
            reach(size);
        }
        power_off(guest);
    }
}

#[test]
fn a_tap_that_is_not_there_is_made_and_gone_at_the_end() {
    namespace();
    let mut guest = start(with_net("tap=made0,mtu=1400"));
    ip(&format!("addr add {HOST}/24 dev made0"));
    run(&mut guest, "grep 1400 /sys/class/net/eth0/mtu");
    run(&mut guest, &format!("ping -c 1 {HOST}"));
    power_off(guest);
    let there = Command::new("ip").args(["link", "show", "made0"]).output();
    assert!(!there.expect("iproute2").status.success());
}

/// An iperf3 in the guest that serves one client, at `port`.
fn serve_one(guest: &mut Guest, port: &str) {
    guest.type_line(&format!("iperf3 -s -1 -p {port} &"));
    guest.wait_for(&format!("Server listening on {port}"));
}

/// This side's iperf3, on its way to the one that is served at `port`.
fn client(port: &str, options: &[&str]) -> Child {
    let mut command = program("iperf3");
    command.args(["--client", GUEST, "--port", port, "--json"]);
    let piped = command.args(options).stdout(Stdio::piped());
    piped.spawn().expect("iperf3 runs")
}

/// What it reports at its end.
fn report(client: Child) -> serde_json::Value {
    let output = client.wait_with_output().expect("iperf3 ends");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["error"].is_null(), "{}", report["error"]);
    report["end"].clone()
}

const FORWARD: &str = "5201";
const REVERSE: &str = "5202";

/// Moves so many bytes both ways at once by TCP, over `parallel` connections each: in which time is this host's matter.
fn move_by_tcp(guest: &mut Guest, parallel: u32) {
    const BYTES: u64 = 4 << 20;
    serve_one(guest, FORWARD);
    serve_one(guest, REVERSE);
    let (bytes, parallel) = (BYTES.to_string(), parallel.to_string());
    let options = ["--bytes", &bytes, "--parallel", &parallel];
    // What lies in buffers when all is sent counts as not received.
    let forward = client(FORWARD, &[&options[..], &["--window", "64K"]].concat());
    let reverse = client(REVERSE, &[&options[..], &["--reverse"]].concat());
    let (forward, reverse) = (report(forward), report(reverse));
    let received = |of: &serde_json::Value| of["sum_received"]["bytes"].as_u64();
    assert!(received(&forward) >= Some(BYTES / 2), "{forward}");
    assert!(received(&reverse) >= Some(BYTES), "{reverse}");
}

/// Sends packets one way and then the other, slowly enough for the slowest host.
fn move_by_udp(guest: &mut Guest) {
    let options = [
        "--udp",
        "--bitrate",
        "1M",
        "--length",
        "1000",
        "--bytes",
        "300K",
    ];
    for (port, way) in [(FORWARD, "--get-server-output"), (REVERSE, "--reverse")] {
        serve_one(guest, port);
        let report = report(client(port, &[&options[..], &[way]].concat()));
        let count = |what: &str| report["sum"][what].as_u64();
        let (packets, lost) = (count("packets"), count("lost_packets"));
        let lost = lost.expect("a number");
        assert!(packets >= Some(300) && lost < 150, "{way}: {report}");
    }
}

/// Moves bytes and packets both ways.
fn measure(queues: u32, mtu: u32, parallel: u32) {
    namespace();
    let several = if queues > 1 { "multi_queue" } else { "" };
    tap("tap0", several, mtu);
    let guest = loaded(&format!("tap=tap0,queues={queues}")).with(&format!("--cpus {queues}"));
    let mut guest = start(guest);
    run(&mut guest, &format!("grep {mtu} /sys/class/net/eth0/mtu"));
    if queues > 1 {
        run(
            &mut guest,
            &format!("[ $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l) = {queues} ]"),
        );
    }
    move_by_tcp(&mut guest, parallel);
    move_by_udp(&mut guest);
    power_off(guest);
}

#[test]
fn bytes_go_both_ways_by_one_queue() {
    measure(1, 9000, 1);
}

#[test]
fn bytes_go_both_ways_by_two_queues() {
    measure(2, 1500, 4);
}

/// Bytes of what a web server serves: 100 MB where there is time.
fn big() -> u64 {
    match env::var_os("AMPOULE_TEST_FULL") {
        Some(_) => 100_000_000,
        None => 16_000_000,
    }
}

/// A web server in a guest, with so many bytes of which no two blocks are alike.
fn serve(guest: &mut Guest) {
    let bytes = big();
    run(
        guest,
        &format!(
            "mkdir -p /www; mount -t tmpfs tmpfs /www; seq 10000000 10500000 | head -c 4000000 >/www/part; for i in $(seq 25); do echo $i; \
             cat /www/part; done | head -c {bytes} >/www/big; rm /www/part; echo hello >/www/small"
        ),
    );
    run(guest, "nginx");
}

#[test]
fn a_web_server_gives_and_takes_what_it_should() {
    namespace();
    tap("tap0", "", 1500);
    let mut guest = start(loaded("tap=tap0"));
    serve(&mut guest);
    let big = format!("http://{GUEST}/big");
    let file = tempfile::NamedTempFile::new_in("/scratch").expect("there is room");
    let path = file.path().to_str().expect("a plain path");
    succeed(Command::new("curl").args(["--silent", "--fail", "--output", path, &big]));
    let sum = succeed(Command::new("md5sum").arg(path));
    let sum = sum.split(' ').next().expect("a sum").to_owned();
    run(&mut guest, &format!("md5sum /www/big | grep {sum}"));
    // The same the other way, byte by byte.
    succeed(Command::new("curl").args([
        "--silent",
        "--fail",
        "--upload-file",
        path,
        &format!("http://{GUEST}/copy"),
    ]));
    run(&mut guest, "cmp /www/big /www/copy");
    power_off(guest);
}

/// A thousand connections at once, each of which asks again and again.
fn serve_a_thousand() {
    namespace();
    tap("tap0", "", 1500);
    let mut guest = start(loaded("tap=tap0"));
    serve(&mut guest);
    let load = [
        "-t",
        "1",
        "-c",
        "1000",
        "-d",
        "5",
        "--timeout",
        "60",
        &format!("http://{GUEST}/small"),
    ];
    let report = succeed(program("wrk").args(load));
    assert!(
        report.contains("requests in") && !report.contains("Socket errors"),
        "{report}"
    );
    assert!(!report.contains("Non-2xx"), "{report}");
    power_off(guest);
}

#[test]
fn a_thousand_clients_at_once_are_served_by_the_own_kernel() {
    if !is_stock() {
        serve_a_thousand();
    }
}

#[test]
fn a_thousand_clients_at_once_are_served_by_a_stock_kernel() {
    if is_stock() {
        serve_a_thousand();
    }
}

#[test]
fn a_driver_goes_and_comes_back() {
    namespace();
    tap("tap0", "", 1500);
    let mut guest = start(with_net("tap=tap0"));
    for _ in 0..3 {
        run(
            &mut guest,
            "cd /sys/bus/virtio/drivers/virtio_net && D=$(echo virtio*) && echo $D >unbind && [ ! -e /sys/class/net/eth0 ] && echo $D >bind",
        );
        run(&mut guest, UP);
        reach(1000);
        run(&mut guest, &format!("ping -c 1 -s 5000 {HOST}"));
    }
    power_off(guest);
}

#[test]
fn a_guest_cannot_send_from_another_address_than_its_own() {
    namespace();
    tap("tap0", "", 1500);
    let mut guest = start(with_net("tap=tap0,mac=06:00:ac:10:00:02"));
    reach(56);
    run(
        &mut guest,
        "ip link set eth0 down; ip link set eth0 address 06:00:ac:10:00:03; ip link set eth0 up",
    );
    ip("neigh flush dev tap0");
    assert!(!answers(56));
    run(
        &mut guest,
        "ip link set eth0 down; ip link set eth0 address 06:00:ac:10:00:02; ip link set eth0 up",
    );
    reach(56);
    power_off(guest);
    // Without one that is pinned it may have any.
    namespace();
    tap("tap0", "", 1500);
    let mut guest = start(with_net("tap=tap0"));
    run(
        &mut guest,
        "ip link set eth0 down; ip link set eth0 address 06:00:ac:10:00:03; ip link set eth0 up",
    );
    reach(56);
    power_off(guest);
}

#[test]
fn a_tap_that_is_deleted_is_a_link_that_is_down() {
    namespace();
    tap("tap0", "", 1500);
    let mut guest = start(with_net("tap=tap0"));
    reach(56);
    ip("link delete tap0");
    run(
        &mut guest,
        &format!(
            "ping -c 1 -W 1 {HOST}; until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do :; done"
        ),
    );
    guest.wait_for_message("its interface is gone");
    run(&mut guest, "echo it lives");
    power_off(guest);
}

/// Starts fetching 100 MB from a guest.
fn fetch(path: &str) -> Child {
    let big = format!("http://{GUEST}/big");
    let words = ["--silent", "--fail", "--output", path, &big];
    Command::new("curl").args(words).spawn().expect("curl runs")
}

fn length(path: &str) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}

#[test]
fn a_transfer_survives_pauses_and_follows_its_limits() {
    namespace();
    tap("tap0", "", 1500);
    let socket = Socket::default();
    let guest = loaded("tap=tap0,id=n").with_more(&format!("--api-sock {}", socket.argument()));
    let mut guest = start(guest);
    serve(&mut guest);
    let file = tempfile::NamedTempFile::new_in("/scratch").expect("there is room");
    let path = file.path().to_str().expect("a plain path").to_owned();
    let patch = |path: &str, body: &str| {
        let answer = socket.ask("PATCH", path, body);
        assert_eq!(answer.status, 204, "{answer:?}");
    };
    // A mebibyte a second: it takes until the limit goes.
    let limit = |size: u64| {
        let body = format!(
            r#"{{"iface_id": "n", "tx_rate_limiter": {{"bandwidth": {{"size": {size}, "refill_time": 1000}}}}}}"#
        );
        patch("/network-interfaces/n", &body);
    };
    limit(1 << 20);
    let mut transfer = fetch(&path);
    wait_until("bytes come", || length(&path) > 1 << 18);
    assert!(transfer.try_wait().expect("a child").is_none() && length(&path) < big() / 2);
    for _ in 0..3 {
        patch("/vm", r#"{"state": "Paused"}"#);
        let before = length(&path);
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(length(&path) < before + (4 << 20));
        patch("/vm", r#"{"state": "Resumed"}"#);
    }
    limit(0);
    assert!(transfer.wait().expect("a child").success());
    let sum = succeed(Command::new("md5sum").arg(&path));
    let sum = sum.split(' ').next().expect("a sum").to_owned();
    run(&mut guest, &format!("md5sum /www/big | grep {sum}"));
    power_off(guest);
}

/// A guest with a PCI bus that gets further cards while it runs.
#[test]
fn a_card_comes_to_a_running_guest() {
    namespace();
    tap("tap0", "", 1500);
    let socket = Socket::default();
    let more = format!(
        "--transport pci --on-reboot restart --api-sock {}",
        socket.argument()
    );
    let mut guest = linux()
        .initrd(Image::NetInitrd)
        .with("--memory 512M")
        .with_more(&more)
        .start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    run(&mut guest, "[ ! -e /sys/class/net/eth0 ]");
    let put = |id: &str, body: &str| socket.ask("PUT", &format!("/network-interfaces/{id}"), body);
    let refused = put("a", r#"{"iface_id": "a", "host_dev_name": "tap9"}"#);
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .body
            .contains("TAP tap9: there is no such TAP interface"),
        "{refused:?}"
    );
    let card = r#"{"iface_id": "a", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}"#;
    assert_eq!(put("a", card).status, 204);
    assert_eq!(put("a", card).status, 400);
    run(
        &mut guest,
        "until grep 06:00:ac:10:00:02 /sys/class/net/eth0/address; do sleep 0.1; done",
    );
    run(&mut guest, UP);
    run(&mut guest, &format!("ping -c 2 {HOST}"));
    reach(9000);
    // All slots but those of the first.
    for index in 1..4 {
        ip(&format!("tuntap add dev more{index} mode tap multi_queue"));
        let body = format!(r#"{{"iface_id": "b{index}", "host_dev_name": "more{index}"}}"#);
        assert_eq!(put(&format!("b{index}"), &body).status, 204);
    }
    run(
        &mut guest,
        "until [ -e /sys/class/net/eth3 ]; do sleep 0.1; done",
    );
    ip("tuntap add dev last mode tap");
    let none = put("c", r#"{"iface_id": "c", "host_dev_name": "last"}"#);
    assert!(none.body.contains("no slot left"), "{none:?}");
    let config = socket.ask("GET", "/vm/config", "");
    assert!(
        config.body.contains("more3") && !config.body.contains("last"),
        "{config:?}"
    );
    // What came is there from the start of the next kernel on.
    guest.type_line("reboot -f");
    guest.wait_for("user space");
    guest.wait_for("# ");
    run(&mut guest, "[ -e /sys/class/net/eth3 ]");
    run(&mut guest, UP);
    run(&mut guest, &format!("ping -c 2 {HOST}"));
    power_off(guest);
}

/// What is said of a card that cannot be had.
fn refusal(command: Command) -> String {
    let mut guest = Launch::command(command).start();
    guest.close_input();
    let finished = guest.finish();
    assert_eq!(finished.code, 125, "{}", finished.stderr);
    finished.stderr
}

fn ampoule(prefix: &[&str], net: &str) -> Command {
    let program = ampoule_tests::ampoule();
    let mut words = prefix.to_vec();
    words.push(program.to_str().expect("a plain path"));
    let mut command = Command::new(words[0]);
    let kernel = Image::Given.path();
    command
        .args(&words[1..])
        .arg("run")
        .arg("--kernel")
        .arg(kernel);
    command.args(["--net", net]);
    command
}

#[test]
fn what_cannot_be_a_card_is_refused_with_what_to_do() {
    namespace();
    ip("tuntap add dev tun0 mode tun");
    ip("link add br0 type bridge");
    ip("tuntap add dev tap0 mode tap");
    ip("tuntap add dev theirs mode tap user 12345");
    let holder = start(with_net("tap=busy0"));
    let unprivileged = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    for (prefix, net, expected) in [
        (
            &[][..],
            "tap=tun0",
            "TAP tun0: it is a TUN interface, and no TAP",
        ),
        (&[], "tap=br0", "TAP br0: it is no TAP interface"),
        (&[], "tap=busy0", "TAP busy0: another program is using it"),
        (
            &[],
            "tap=tap0,queues=2",
            "TAP tap0: it is not made for 2 queues (hint: sudo ip tuntap del",
        ),
        (
            &unprivileged,
            "tap=new0",
            "TAP new0: there is no such TAP interface, and this user may not make one (hint: sudo ip tuntap add dev new0 mode tap user $USER && sudo ip link set new0 up)",
        ),
        (
            &unprivileged,
            "tap=theirs",
            "TAP theirs: it is another user's (hint: sudo ip tuntap del dev theirs mode tap; sudo",
        ),
    ] {
        let said = refusal(ampoule(prefix, net));
        assert!(said.starts_with(&format!("ampoule: {expected}")), "{said}");
    }
    power_off(holder);
}

#[test]
fn a_card_uses_every_rule_of_its_own_and_no_other_call() {
    namespace();
    tap("tap0", "", 1500);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut command = trace::traced(directory.path());
    command.args(with_net("tap=tap0").command_line());
    let mut guest = brought_up(Launch::command(command).start());
    reach(56);
    run(
        &mut guest,
        "cd /sys/bus/virtio/drivers/virtio_net && D=$(echo virtio*) && echo $D >unbind && echo $D >bind",
    );
    run(&mut guest, UP);
    reach(56);
    ip("link delete tap0");
    guest.wait_for_message("its interface is gone");
    power_off(guest);
    let threads = trace::threads(directory.path());
    let card = threads
        .iter()
        .find(|(before, ..)| before.contains("\"net0"));
    let (_, calls, _) = card.expect("there is such a thread");
    trace::compare("net", &[(0, calls)]);
}
