//! A network card without a TAP: an ordinary user's guest reaches out and is reached.
use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
    thread,
};

use ampoule_tests::{
    Guest, Launch,
    linux::{Image, Linux, linux},
    network::{ip, namespace, program, succeed},
    shell::{power_off, run},
    trace,
};

/// What the guest's DHCP client does with what it is told.
const CONFIGURE: &str = r#"printf '#!/bin/sh\n[ $1 = bound ] || exit 0\nip addr add $ip/$mask dev $interface\nip route add default via $router\nfor server in $dns; do echo nameserver $server; done >/etc/resolv.conf\n' >/configure; chmod +x /configure; mkdir -p /etc; ip link set lo up; ip link set eth0 up; udhcpc -q -n -i eth0 -s /configure"#;

/// A guest with a network of its own.
fn guest(options: &str) -> Linux {
    let stock = Image::Given.path() == Image::Cloud.path();
    let guest = linux().initrd(Image::NetInitrd).with("--memory 512M");
    let guest = guest.with_more(&format!("--net user {options}"));
    match stock {
        // Transports go pairwise.
        true => guest.with("--transport pci"),
        false => guest,
    }
}

/// The guest at its shell, with the address that it was given.
fn start(guest: Linux) -> Guest {
    configured(guest.start())
}

fn configured(mut guest: Guest) -> Guest {
    guest.wait_for("user space");
    guest.wait_for("# ");
    run(&mut guest, CONFIGURE);
    guest
}

/// A server on this host that sends back what it gets, until that ends; its port.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback is up");
    let port = listener.local_addr().expect("it has an address").port();
    serve(listener);
    port
}

/// Sends back what comes to `listener`.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut to = client.try_clone().expect("there is room");
                let mut from = client;
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

#[test]
fn a_guest_reaches_out_and_is_reached() {
    namespace();
    let port = echo();
    let rules = format!("--egress allow --egress allow=127.0.0.1:{port} --publish 7080:80");
    let mut guest = start(guest(&rules));
    run(&mut guest, "ip addr show eth0 | grep 'inet 10.0.2.15/24'");
    run(&mut guest, "ping -c 1 10.0.2.2");
    run(
        &mut guest,
        &format!("[ $(echo there and back | nc 10.0.2.2 {port} | wc -c) = 15 ]"),
    );
    // Another port of this host's is not for the guest.
    run(
        &mut guest,
        &format!("! echo | nc -w 5 10.0.2.2 {}", port ^ 1),
    );
    // What is published, byte by byte, and under load.
    run(
        &mut guest,
        "mkdir -p /www; head -c 4000000 /dev/urandom >/www/big; echo hello >/www/small; nginx",
    );
    let fetch = "curl --silent --fail http://127.0.0.1:7080/big | md5sum";
    let sum = succeed(Command::new("sh").args(["-c", fetch]));
    let sum = sum.split(' ').next().expect("a sum");
    run(&mut guest, &format!("md5sum /www/big | grep {sum}"));
    let load = ["-t", "1", "-c", "100", "-d", "3", "--timeout", "60"];
    let report = succeed(program("wrk").args(load).arg("http://127.0.0.1:7080/small"));
    assert!(
        report.contains("requests in") && !report.contains("Socket errors"),
        "{report}"
    );
    power_off(guest);
}

#[test]
fn an_ordinary_user_needs_no_right() {
    namespace();
    let port = echo();
    // Where anybody may read, which is not where this test's user keeps them.
    let directory = tempfile::tempdir().expect("there is room");
    let open = |path: &Path| {
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, readable).expect("it is ours");
    };
    open(directory.path());
    let rules = format!("--egress allow=127.0.0.1:{port} --publish 7080:80");
    let mut words = guest(&rules).command_line();
    for word in &mut words {
        if Path::new(&word).is_file() {
            let name = Path::new(&word).file_name().expect("a file");
            let copy = directory.path().join(name);
            fs::copy(&word, &copy).expect("there is room");
            open(&copy);
            *word = copy.into_os_string();
        }
    }
    let program = directory.path().join("ampoule");
    fs::copy(ampoule_tests::ampoule(), &program).expect("there is room");
    open(&program);
    let home = directory.path().join("home");
    fs::create_dir(&home).expect("there is room");
    let nobody = 65534;
    chown(&home, Some(nobody), Some(nobody)).expect("this test is root");
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
    ]);
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(program).arg("run").args(words);
    for variable in ["HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"] {
        command.env(variable, &home);
    }
    let mut guest = configured(Launch::command(command).start());
    run(
        &mut guest,
        &format!("[ $(echo there and back | nc 10.0.2.2 {port} | wc -c) = 15 ]"),
    );
    run(&mut guest, "mkdir -p /www; echo hello >/www/small; nginx");
    let small = "http://127.0.0.1:7080/small";
    let small = succeed(Command::new("curl").args(["--silent", "--fail", small]));
    assert_eq!(small, "hello\n");
    power_off(guest);
}

#[test]
fn bytes_and_packets_go_both_ways() {
    namespace();
    let port = "5201";
    let rules = "--egress allow=127.0.0.1:5201 --publish 5201:5201 --publish 5201:5201/udp";
    let mut guest = start(guest(rules));
    // What lies in buffers on the way when all is sent counts as not received.
    let tcp: &[&str] = &["--bytes", "16M", "--window", "64K"];
    let udp: &[&str] = &[
        "--udp",
        "--bitrate",
        "1M",
        "--length",
        "1000",
        "--bytes",
        "300K",
    ];
    for options in [tcp, udp] {
        for way in ["--get-server-output", "--reverse"] {
            guest.type_line(&format!("iperf3 -s -1 -p {port} &"));
            guest.wait_for(&format!("Server listening on {port}"));
            let mut client = program("iperf3");
            client.args(["--client", "127.0.0.1", "--port", port, "--json", way]);
            let report = succeed(client.args(options));
            let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
            assert!(report["error"].is_null(), "{}", report["error"]);
            let end = &report["end"];
            if options == tcp {
                let received = end["sum_received"]["bytes"].as_u64();
                assert!(received >= Some(4 << 20), "{way}: {end}");
            } else {
                let lost = end["sum"]["lost_packets"].as_u64().expect("a number");
                assert!(lost < 150, "{way}: {end}");
            }
        }
    }
    power_off(guest);
}

/// Names that this host's resolver knows.
const NAMES: [(&str, &str); 3] = [
    ("www.example.org", "192.0.2.1"),
    ("other.example.net", "192.0.2.2"),
    ("inside.example.org", "127.0.0.1"),
];

/// A resolver at 127.0.0.1:53 that knows those.
fn resolver() {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("this test is root");
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&answer(&bytes[..length]), client);
        }
    });
}

/// The answer to a question (RFC 1035 §4.1): an address, or that there is none.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut at = 12;
    let mut name = Vec::new();
    while let length @ 1.. = usize::from(query[at]) {
        name.push(String::from_utf8_lossy(&query[at + 1..=at + length]).into_owned());
        at += 1 + length;
    }
    let end = at + 5;
    let of_address = query[at + 1..at + 3] == [0, 1];
    let known = NAMES.iter().find(|(known, _)| *known == name.join("."));
    let address = known.filter(|_| of_address);
    let mut answer = query[..2].to_vec();
    answer.extend(if known.is_some() {
        [0x81, 0x80]
    } else {
        [0x81, 0x83]
    });
    answer.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(&query[12..end]);
    if let Some((_, address)) = address {
        let address: Ipv4Addr = address.parse().expect("an address");
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

#[test]
fn a_guest_reaches_what_it_may_and_nothing_else() {
    namespace();
    for address in ["192.0.2.1", "192.0.2.2"] {
        ip(&format!("addr add {address}/32 dev lo"));
    }
    let listener = TcpListener::bind("0.0.0.0:80").expect("this test is root");
    serve(listener);
    resolver();
    let rules = "--dns 127.0.0.1 --egress log --egress allow=*.example.org:80";
    let mut guest = start(guest(rules));
    let reach = |address: &str| format!("[ \"$(echo hi | nc -w 9 {address} 80)\" = hi ]");
    // Not before its name was asked for.
    run(&mut guest, &format!("! {}", reach("192.0.2.1")));
    guest.wait_for_message("denied: 192.0.2.1 port 80/tcp");
    run(
        &mut guest,
        "nslookup -type=a www.example.org | grep 192.0.2.1",
    );
    run(&mut guest, &reach("192.0.2.1"));
    run(&mut guest, "! nslookup -type=a other.example.net");
    run(&mut guest, &format!("! {}", reach("192.0.2.2")));
    // A name that leads back here leads nowhere.
    run(&mut guest, "! nslookup -type=a inside.example.org");
    run(&mut guest, &format!("! {}", reach("10.0.2.2")));
    run(&mut guest, &format!("! {}", reach("169.254.169.254")));
    power_off(guest);
}

#[test]
fn a_guest_has_ipv6_where_its_host_has() {
    namespace();
    ip("link add outside type dummy");
    ip("link set outside up");
    ip("addr add 2001:db8::1/64 dev outside nodad");
    let listener = TcpListener::bind("[2001:db8::1]:0").expect("it is this host's");
    let port = listener.local_addr().expect("it has an address").port();
    serve(listener);
    let mut guest = start(guest(""));
    run(
        &mut guest,
        "until ip -6 route show default | grep via && ! ip -6 addr show dev eth0 scope global | grep tentative; do sleep 0.1; done",
    );
    run(
        &mut guest,
        &format!("[ \"$(echo hi | nc -w 9 2001:db8::1 {port})\" = hi ]"),
    );
    power_off(guest);
}

#[test]
fn a_user_network_uses_every_rule_of_its_own_and_no_other_call() {
    namespace();
    ip("link add outside type dummy");
    ip("link set outside up");
    ip("addr add 2001:db8::1/64 dev outside nodad");
    let port = echo();
    resolver();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut command = trace::traced(directory.path());
    let rules = format!(
        "--dns 127.0.0.1 --egress log --egress allow --egress allow=127.0.0.1:{port} --publish 7080:80"
    );
    command.args(guest(&rules).command_line());
    let mut guest = configured(Launch::command(command).start());
    run(&mut guest, &format!("echo hi | nc 10.0.2.2 {port}"));
    run(
        &mut guest,
        &format!("! echo hi | nc -w 5 10.0.2.2 {}", port ^ 1),
    );
    run(&mut guest, "nslookup -type=a www.example.org");
    // Names by a stream; a client that breaks off; a client on this host; IPv6 by streams and datagrams.
    run(&mut guest, "echo | nc -w 5 10.0.2.3 53; true");
    run(
        &mut guest,
        &format!("head -c 1000000 /dev/zero | nc 10.0.2.2 {port} | sleep 1; true"),
    );
    let published = TcpStream::connect("127.0.0.1:7080").expect("it is published");
    drop(published);
    run(
        &mut guest,
        "until ip -6 route show default | grep via && ! ip -6 addr show dev eth0 scope global | grep tentative; do sleep 0.1; done",
    );
    run(
        &mut guest,
        "echo | nc -w 5 2001:db8::1 9; nslookup -type=a x 2001:db8::1; true",
    );
    run(
        &mut guest,
        "nslookup -type=a x 10.0.2.2; ping -c 1 10.0.2.2",
    );
    power_off(guest);
    let threads = trace::threads(directory.path());
    let network = threads
        .iter()
        .find(|(before, ..)| before.contains("\"usernet0"));
    let (_, calls, _) = network.expect("there is such a thread");
    trace::compare("user_network", &[(0, calls)]);
}
