//! Sockets between host and guest: Linux's driver and socat in the guest, unix sockets on the host.
use std::{
    env,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use ampoule_tests::{
    Guest, Launch,
    api::Socket,
    linux::{Image, Linux, linux},
    trace, wait_until,
};
use rustix::{
    net::sockopt::{Timeout, set_socket_timeout},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tempfile::TempDir;

const CID: u32 = 3;
const MIB: usize = 1 << 20;
/// How long a client waits for a guest that has yet to listen, in milliseconds: longer than any test is given.
const WAIT: &str = " wait=600000";

/// After which nothing comes any more.
const PATIENCE: Duration = Duration::from_secs(280);

/// Where a guest's sockets are.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory can be made"))
    }

    fn path(&self, port: Option<u32>) -> PathBuf {
        let name = port.map_or("v".into(), |port| format!("v_{port}"));
        self.0.path().join(name)
    }

    /// A guest with socat, and a socket here.
    fn guest(&self) -> Linux {
        let guest = linux().initrd(Image::SocatInitrd);
        let guest = guest.with_more(&format!("--vsock {CID},{}", self.path(None).display()));
        // Transports go pairwise.
        if is_stock() {
            guest.with("--transport pci")
        } else {
            guest
        }
    }

    /// A client that has greeted.
    fn greet(&self, greeting: &str) -> UnixStream {
        let mut stream = None;
        // The program may have only just been started.
        wait_until("somebody listens", || {
            stream = UnixStream::connect(self.path(None)).ok();
            stream.is_some()
        });
        let mut stream = stream.expect("somebody listened");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is open");
        let sent = stream.write_all(greeting.as_bytes());
        sent.expect("it is listened to");
        stream
    }

    /// A client whom the guest has taken.
    fn connect(&self, port: u32) -> UnixStream {
        let mut stream = self.greet(&format!("CONNECT {port}{WAIT}\n"));
        let answer = line(&mut stream);
        assert!(answer.starts_with("OK "), "{answer:?}");
        stream
    }

    /// The guest's connection to a server.
    fn accept(server: &UnixListener) -> UnixStream {
        set_socket_timeout(server, Timeout::Recv, Some(PATIENCE)).expect("it is a socket");
        let (stream, _) = server.accept().expect("the guest connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is open");
        stream
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(Some(port))).expect("it can be made")
    }
}

fn is_stock() -> bool {
    Image::Given.path() == Image::Cloud.path()
}

/// A line, or what there is before the end.
fn line(stream: &mut UnixStream) -> String {
    let (mut line, mut byte) = (String::new(), [0]);
    while !line.ends_with('\n') && stream.read(&mut byte).is_ok_and(|read| read > 0) {
        line.push(char::from(byte[0]));
    }
    line
}

/// Bytes that say where in a stream they stand.
fn pattern(from: usize, length: usize) -> Vec<u8> {
    let words = (from / 8..).flat_map(|word| {
        (word as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes()
    });
    words.take(length).collect()
}

/// Sends `bytes` of the pattern and has all of it come back.
fn echo(mut stream: UnixStream, bytes: usize) {
    const PIECE: usize = 64 << 10;
    let mut writer = stream.try_clone().expect("a descriptor");
    let sender = thread::spawn(move || {
        for from in (0..bytes).step_by(PIECE) {
            writer
                .write_all(&pattern(from, PIECE.min(bytes - from)))
                .expect("it is read");
        }
        writer.shutdown(Shutdown::Write).expect("it is open");
    });
    for from in (0..bytes).step_by(PIECE) {
        let mut piece = vec![0; PIECE.min(bytes - from)];
        stream.read_exact(&mut piece).expect("it comes back");
        assert!(
            piece == pattern(from, piece.len()),
            "other bytes from {from} on"
        );
    }
    assert_eq!(stream.read(&mut [0]).expect("it ends"), 0);
    sender.join().expect("all is sent");
}

/// An echo for each connection to port 52. socat must not write more at a time than a pipe that has room takes for sure, or it waits for
/// itself; and not leave, half a second after it has read all, with what it is still to write.
const ECHO: &str = "socat -b 4096 -t 600 VSOCK-LISTEN:52,fork,backlog=128 PIPE &";
/// Waits for somebody who says that it is over.
const UNTIL_TOLD: &str = "socat -u VSOCK-LISTEN:99 STDOUT";

fn finish(place: &Place, guest: Guest) {
    drop(place.connect(99));
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
    assert_eq!(finished.stderr, "");
}

#[test]
fn a_hundred_megabytes_come_back_whole() {
    let place = Place::new();
    // The emulated processor and the own kernel's transport are slow: there, an eighth of it says the same.
    let bytes = if is_stock() || env::var_os("AMPOULE_TEST_FULL").is_some() {
        100 * MIB
    } else {
        12 * MIB
    };
    let guest = place
        .guest()
        .script(&format!("{ECHO} {UNTIL_TOLD}"))
        .start();
    echo(place.connect(52), bytes);
    finish(&place, guest);
}

#[test]
fn what_the_guest_sends_of_itself_arrives_whole_and_is_answered() {
    let place = Place::new();
    let (server, bytes) = (place.listen(77), 20 * MIB);
    let report = place.guest().script(
        "yes some words | head -c 20971520 | socat -t 60 - VSOCK-CONNECT:2:77 | md5sum | sed s/^/sum=/
socat - VSOCK-CONNECT:2:78 </dev/null 2>&1 | grep -c reset | sed s/^/refused=/",
    );
    let guest = report.start();
    let mut stream = Place::accept(&server);
    let mut all = Vec::with_capacity(bytes);
    stream.read_to_end(&mut all).expect("it arrives");
    assert_eq!(all.len(), bytes);
    assert!(all.iter().eq(b"some words\n".iter().cycle().take(bytes)));
    stream.write_all(b"thanks").expect("it is read");
    drop(stream);
    let finished = guest.finish();
    assert_eq!(finished.code, 0);
    let console = finished.console();
    // That of "thanks".
    assert!(
        console.contains("sum=71d3e8b42792b5e476804f4f7fbddc58"),
        "{console}"
    );
    assert!(console.contains("refused=1"), "{console}");
}

/// As many descriptors for this process as it may have.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("a process may have what it may have");
}

#[test]
fn a_thousand_connections_live_beside_each_other() {
    let place = Place::new();
    let guest = place
        .guest()
        .with("--memory 1G")
        .script(&format!("ulimit -n 4096; {ECHO} {UNTIL_TOLD}"));
    let guest = guest.start();
    drop(place.connect(52));
    // And clients that say nothing yet.
    raise_limit();
    let _silent: Vec<_> = (0..4000).map(|_| place.greet("")).collect();
    let greeted: Vec<_> = (0..1000)
        .map(|_| place.greet(&format!("CONNECT 52{WAIT}\n")))
        .collect();
    let mut taken: Vec<_> = greeted
        .into_iter()
        .map(|mut stream| {
            assert!(line(&mut stream).starts_with("OK "));
            stream
        })
        .collect();
    for (stream, number) in taken.iter_mut().zip(0..) {
        stream
            .write_all(format!("I am {number}\n").as_bytes())
            .expect("it is read");
    }
    for (stream, number) in taken.iter_mut().zip(0..) {
        assert_eq!(line(stream), format!("I am {number}\n"));
    }
    drop(taken);
    finish(&place, guest);
}

#[test]
fn where_nobody_listens_a_client_is_told_at_once_or_waits() {
    let place = Place::new();
    let guest = place.guest().script(&format!(
        "socat -u VSOCK-LISTEN:50 STDOUT; {ECHO} {UNTIL_TOLD}"
    ));
    let guest = guest.start();
    // Long before there is a kernel.
    let early = place.connect(50);
    assert_eq!(line(&mut place.greet("CONNECT 52\n")), "");
    assert_eq!(line(&mut place.greet("CONNECT 52 wait=50\n")), "");
    let mut waiting = place.greet(&format!("CONNECT 52{WAIT}\n"));
    drop(early);
    assert!(line(&mut waiting).starts_with("OK "));
    echo(waiting, 100);
    finish(&place, guest);
}

#[test]
fn a_peer_that_does_not_read_holds_up_nobody() {
    let place = Place::new();
    let server = place.listen(77);
    let guest = place.guest().script(&format!(
        "{ECHO} yes | head -c 3000000 | socat -u - VSOCK-CONNECT:2:77 & {UNTIL_TOLD}"
    ));
    let guest = guest.start();
    let mut deaf = Place::accept(&server);
    let mut mute = place.connect(52);
    mute.set_nonblocking(true).expect("it is open");
    // An echo that nobody reads, until there is no room anywhere.
    while mute.write(&[0; 4096]).is_ok() {
        thread::yield_now();
    }
    for _ in 0..3 {
        echo(place.connect(52), MIB);
    }
    let mut all = Vec::new();
    deaf.read_to_end(&mut all).expect("it arrives");
    assert_eq!(all.len(), 3_000_000);
    drop(mute);
    finish(&place, guest);
}

#[test]
fn a_driver_that_is_unbound_and_bound_again_starts_over() {
    let place = Place::new();
    let guest = place.guest().script(&format!(
        "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport; d=$(echo virtio*)
{ECHO} socat -u VSOCK-LISTEN:51 STDOUT; kill $!
echo $d >unbind; echo $d >bind; {ECHO} {UNTIL_TOLD}"
    ));
    let guest = guest.start();
    let mut before = place.connect(52);
    drop(place.connect(51));
    let mut waiting = place.greet(&format!("CONNECT 99{WAIT}\n"));
    assert_eq!(line(&mut before), "");
    echo(place.connect(52), MIB);
    assert!(line(&mut waiting).starts_with("OK "));
    drop(waiting);
    let finished = guest.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
}

#[test]
fn a_stream_goes_on_after_a_pause_and_the_definition_tells_of_the_socket() {
    let (place, socket) = (Place::new(), Socket::default());
    let guest = place
        .guest()
        .with_more(&format!("--api-sock {}", socket.argument()));
    let guest = guest.script(&format!("{ECHO} {UNTIL_TOLD}")).start();
    let stream = place.connect(52);
    let config = socket.ask("GET", "/vm/config", "");
    let expected = format!(
        r#""vsock":{{"guest_cid":{CID},"uds_path":"{}"}}"#,
        place.path(None).display()
    );
    assert!(config.body.contains(&expected), "{}", config.body);
    let echoed = thread::spawn(move || echo(stream, 8 * MIB));
    for _ in 0..5 {
        for state in ["Paused", "Resumed"] {
            let answer = socket.ask("PATCH", "/vm", &format!(r#"{{"state": "{state}"}}"#));
            assert_eq!(answer.status, 204);
            thread::sleep(Duration::from_millis(20));
        }
    }
    echoed.join().expect("it came back whole");
    finish(&place, guest);
}

#[test]
fn a_socket_uses_every_rule_of_its_own() {
    let place = Place::new();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let server = place.listen(77);
    let guest = place.guest().script(&format!(
        "{ECHO} echo hello | socat - VSOCK-CONNECT:2:77; {UNTIL_TOLD}"
    ));
    let mut command = trace::traced(directory.path());
    command.args(guest.command_line());
    let guest = Launch::command(command).start();
    echo(place.connect(52), MIB);
    let mut stream = Place::accept(&server);
    assert_eq!(line(&mut stream), "hello\n");
    drop(stream);
    finish(&place, guest);
    let threads = trace::threads(directory.path());
    let thread = threads
        .iter()
        .find(|(before, ..)| before.contains("\"vsock"));
    let (_, calls, _) = thread.expect("there is such a thread");
    trace::compare("vsock", &[(0, calls)]);
}
