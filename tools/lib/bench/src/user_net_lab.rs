//! What a network without privilege costs where the clock counts instructions: TCP streams between the bench and a guest, by our own network,
//! and by those that QEMU has.
use std::{
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    launch::Stamp,
    net_lab::{ip, with_peer},
    programs::{Guest, Kind, Net, Program, on_path},
    results::Results,
    sessions::{self, Case, FRAME, Findings, Plan, READY, Session},
    traffic::Peer,
};

/// Where the bench listens, and what the guest takes for that: its gateway.
const HERE: &str = "127.0.0.1:5000";
const GATEWAY: &str = "10.0.2.2";
/// What QEMU's networks are called in tables.
pub const SLIRP: &str = "qemu slirp";
/// The other one.
pub const PASST: &str = "qemu passt";

const STREAM: u64 = 16 << 20;
const BEFORE: u64 = 4 << 20;
const ECHOES: u64 = 300;

/// Measures those that have such a network.
///
/// # Errors
/// When the bench itself fails.
pub fn measure(
    plan: &Plan,
    programs: &[Program],
    stamp: &Stamp,
    work: &Path,
    results: &mut Results,
) -> io::Result<()> {
    outside()?;
    let passt = on_path("passt");
    if passt.is_none() {
        results.skip(PASST, "passt is not on PATH");
    }
    let socket = work.join("passt.sock");
    let cases = cases(plan, programs, passt.as_ref().map(|_| socket.as_path()));
    sessions::measure(plan, &cases, results, |case| {
        let helper = match (&case.guest.net, &passt) {
            (Some(Net::Passt(socket)), Some(passt)) => Some(Passt::start(passt, socket)?),
            _ => None,
        };
        let found = with_peer(case, stamp, work, HERE, ask);
        drop(helper);
        found
    });
    Ok(())
}

/// An interface with a way out, whose address and gateway are those of the other networks: passt has its guest take them.
fn outside() -> io::Result<()> {
    ip("link add outside type dummy")?;
    ip("addr add 10.0.2.15/24 dev outside")?;
    ip("link set outside up")?;
    ip(&format!("route add default via {GATEWAY}"))
}

fn cases<'a>(plan: &Plan, programs: &'a [Program], passt: Option<&Path>) -> Vec<Case<'a>> {
    let script = format!(
        "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via {GATEWAY}; echo {READY}; /guest-traffic tcp {GATEWAY}:5000"
    );
    let mut cases = Vec::new();
    for program in programs {
        let mut add = |name: &str, net, transport| {
            cases.push(Case {
                name: name.into(),
                program,
                guest: Guest {
                    net: Some(net),
                    transport,
                    ..plan.guest(script.clone())
                },
            });
        };
        match program.kind {
            Kind::Ampoule => add(&program.name, Net::User, Some("pci")),
            Kind::Qemu => {
                add(SLIRP, Net::User, None);
                if let Some(socket) = passt {
                    add(PASST, Net::Passt(socket.into()), None);
                }
            }
            _ => {}
        }
    }
    cases
}

/// A passt that waits for its guest.
struct Passt(Child);

impl Passt {
    fn start(program: &PathBuf, socket: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(socket);
        let mut command = Command::new(program);
        command.args(["--foreground", "--quiet", "--runas", "0", "--socket"]);
        command.arg(socket).stdin(Stdio::null());
        let passt = Self(command.spawn()?);
        for _ in 0..100 {
            if socket.exists() {
                return Ok(passt);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("passt makes no socket"))
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(session: &Session, peer: &mut Peer, findings: &mut Findings) -> io::Result<()> {
    let frames = STREAM / FRAME;
    peer.take(BEFORE)?;
    findings.add_elapsed(2, "user_tx", &session.time(|| peer.take(STREAM))?, frames);
    peer.give(BEFORE)?;
    findings.add_elapsed(2, "user_rx", &session.time(|| peer.give(STREAM))?, frames);
    peer.echo(ECHOES / 4)?;
    findings.add_elapsed(2, "user_rtt", &session.time(|| peer.echo(ECHOES))?, ECHOES);
    Ok(())
}
