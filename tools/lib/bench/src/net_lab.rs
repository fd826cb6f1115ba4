//! What moving frames costs where the clock counts instructions: TCP streams and datagrams between the bench and a guest, by a TAP; and what a
//! monitor keeps in memory for an idle guest with every device.
use std::{io, net::TcpListener, path::Path, process::Command, time::Duration};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::{
    counts,
    disk_path::fill,
    launch::Stamp,
    programs::{Absent, Guest, Kind, Net, Program},
    results::Results,
    sessions::{self, Case, FRAME, Findings, Plan, READY, Session, TIMEOUT},
    traffic::{self, Peer},
    user_net_lab,
};

const TAP: &str = "bench0";
const HERE: &str = "10.9.0.1:5000";
const GUEST: &str = "10.9.0.2:5000";

/// Bytes of each stream that is measured, and of that before it, by which windows open and buffers fill.
const STREAM: u64 = 16 << 20;
const BEFORE: u64 = 4 << 20;
/// Bytes of the stream of which system calls and exits are counted.
const COUNTED: u64 = 8 << 20;
/// Datagrams of each measurement: as many as both sides have room for at once, so that none is lost.
const DATAGRAMS: u64 = 2000;
const DATAGRAMS_BEFORE: u64 = 200;
/// Bytes that go to and fro alone.
const ECHOES: u64 = 300;

/// Measures every program.
///
/// # Errors
/// When the bench itself fails.
pub fn measure(
    plan: &Plan,
    programs: &[Program],
    absent: Vec<Absent>,
    work: &Path,
) -> io::Result<Results> {
    let mut results = Results::of(programs, absent);
    namespace()?;
    let stamp = Stamp::new()?;
    if plan.items.contains(&1) {
        let cases = cases(plan, programs);
        sessions::measure(plan, &cases, &mut results, |case| {
            with_tap(|| traffic(case, &stamp, work))
        });
    }
    if plan.items.contains(&2) {
        user_net_lab::measure(plan, programs, &stamp, work, &mut results)?;
    }
    if plan.items.contains(&3) {
        let cases = idle_cases(plan, programs, work)?;
        sessions::measure(plan, &cases, &mut results, |case| {
            with_tap(|| idle(case, &stamp, work))
        });
        results.skip(
            "item 3 with a random number generator",
            "there is no such device yet",
        );
    }
    Ok(results)
}

/// From here on this program, and what it starts, has a network of its own.
fn namespace() -> io::Result<()> {
    // SAFETY: nothing of this process, which has one thread, is shared that a network namespace is about.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    ip("link set lo up")
}

/// Runs iproute2's `ip`.
///
/// # Errors
/// What it says.
pub(crate) fn ip(words: &str) -> io::Result<()> {
    let output = Command::new("ip").args(words.split_whitespace()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {words}: {}", said.trim_end())))
}

/// Does `work` while there is a TAP, new for each, whose queue holds all datagrams of a measurement.
fn with_tap<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    ip(&format!("tuntap add dev {TAP} mode tap"))?;
    let outcome = ip(&format!("link set {TAP} txqueuelen 4000"))
        .and_then(|()| ip(&format!("addr add 10.9.0.1/24 dev {TAP}")))
        .and_then(|()| ip(&format!("link set {TAP} up")))
        .and_then(|()| work());
    ip(&format!("link del {TAP}"))?;
    outcome
}

/// Has the guest's card up.
const UP: &str = "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up";

/// Everybody; us by our other transport as well, and QEMU with the host's kernel in the place of its own code.
fn cases<'a>(plan: &Plan, programs: &'a [Program]) -> Vec<Case<'a>> {
    let script = format!("{UP}; echo {READY}; /guest-traffic tcp {HERE}");
    let mut cases = Vec::new();
    for program in programs {
        let mut add = |more: &str, transport, vhost| {
            cases.push(Case {
                name: format!("{}{more}", program.name),
                program,
                guest: Guest {
                    net: Some(Net::Tap {
                        name: TAP.into(),
                        vhost,
                    }),
                    transport,
                    ..plan.guest(script.clone())
                },
            });
        };
        match program.kind {
            Kind::Ampoule => {
                add("", Some("pci"), false);
                add(" mmio", Some("mmio"), false);
            }
            Kind::Qemu => {
                add("", None, false);
                if Path::new("/sys/module/vhost_net").exists() {
                    add(" vhost-net", None, true);
                }
            }
            _ => add("", None, false),
        }
    }
    cases
}

/// One guest: its streams, its datagrams, and what they take.
fn traffic(case: &Case<'_>, stamp: &Stamp, work: &Path) -> io::Result<Findings> {
    with_peer(case, stamp, work, HERE, |session, peer, findings| {
        streams(session, peer, findings)?;
        datagrams(session, peer, findings)
    })
}

/// Starts a guest, which connects to `here`, and has `ask` find out what there is to find out with it.
pub(crate) fn with_peer(
    case: &Case<'_>,
    stamp: &Stamp,
    work: &Path,
    here: &str,
    ask: impl FnOnce(&Session, &mut Peer, &mut Findings) -> io::Result<()>,
) -> io::Result<Findings> {
    let listener = TcpListener::bind(here)?;
    let mut session = Session::start(case, stamp, work)?;
    let mut findings = Findings::default();
    let asked = greet(&listener).and_then(|mut peer| {
        ask(&session, &mut peer, &mut findings)?;
        peer.end()
    });
    asked.map_err(|error| session.explain(&error))?;
    session.end()?;
    Ok(findings)
}

fn greet(listener: &TcpListener) -> io::Result<Peer> {
    if !traffic::knocks(listener, TIMEOUT)? {
        return Err(io::Error::other("the guest does not connect"));
    }
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Peer::new(stream)
}

fn streams(session: &Session, peer: &mut Peer, findings: &mut Findings) -> io::Result<()> {
    let frames = STREAM / FRAME;
    peer.take(BEFORE)?;
    findings.add_timed(1, "tcp_tx", &session.time(|| peer.take(STREAM))?, frames);
    let before = counts::received(TAP)?;
    let counted = session.count(|| peer.take(COUNTED))?;
    findings.add_counted(1, "tx", &counted, COUNTED / FRAME);
    let frames_sent = counts::received(TAP)? - before;
    findings.add_frames(1, "frames_tx", frames_sent, COUNTED / FRAME);
    peer.give(BEFORE)?;
    findings.add_timed(1, "tcp_rx", &session.time(|| peer.give(STREAM))?, frames);
    let counted = session.count(|| peer.give(COUNTED))?;
    findings.add_counted(1, "rx", &counted, COUNTED / FRAME);
    peer.echo(ECHOES / 4)?;
    findings.add_timed(1, "tcp_rtt", &session.time(|| peer.echo(ECHOES))?, ECHOES);
    Ok(())
}

fn datagrams(session: &Session, peer: &mut Peer, findings: &mut Findings) -> io::Result<()> {
    let socket = traffic::datagrams(HERE, GUEST)?;
    peer.take_datagrams(&socket, DATAGRAMS_BEFORE)?;
    let timed = session.time(|| peer.take_datagrams(&socket, DATAGRAMS))?;
    findings.add_timed(1, "udp_tx", &timed, DATAGRAMS);
    let counted = session.count(|| peer.take_datagrams(&socket, DATAGRAMS))?;
    findings.add_counted(1, "udp_tx", &counted, DATAGRAMS);
    peer.give_datagrams(&socket, DATAGRAMS_BEFORE)?;
    let timed = session.time(|| peer.give_datagrams(&socket, DATAGRAMS))?;
    findings.add_timed(1, "udp_rx", &timed, DATAGRAMS);
    let counted = session.count(|| peer.give_datagrams(&socket, DATAGRAMS))?;
    findings.add_counted(1, "udp_rx", &counted, DATAGRAMS);
    Ok(())
}

/// A guest with everything, which has used each device once and then sleeps.
fn idle_cases<'a>(plan: &Plan, programs: &'a [Program], work: &Path) -> io::Result<Vec<Case<'a>>> {
    let disk = work.join("idle.raw");
    fill(&disk, 16)?;
    let script = format!("{UP}; cat /dev/vda >/dev/null; echo {READY}; sleep 1000");
    let cases = programs.iter().map(|program| Case {
        name: program.name.clone(),
        program,
        guest: Guest {
            disk: Some(disk.clone()),
            net: Some(Net::Tap {
                name: TAP.into(),
                vhost: false,
            }),
            vsock: Some(work.join("idle.vsock")),
            balloon: true,
            transport: (program.kind == Kind::Ampoule).then_some("pci"),
            ..plan.guest(script.clone())
        },
    });
    Ok(cases.collect())
}

fn idle(case: &Case<'_>, stamp: &Stamp, work: &Path) -> io::Result<Findings> {
    if let Some(socket) = &case.guest.vsock {
        // Some monitors leave theirs.
        let _ = std::fs::remove_file(socket);
    }
    let session = Session::start(case, stamp, work)?;
    // Until all that the guest's start has set going is over.
    std::thread::sleep(Duration::from_millis(500));
    let mut findings = Findings::default();
    findings.add(3, "devices_dirty", "MiB", session.dirty()?);
    session.end()?;
    Ok(findings)
}
