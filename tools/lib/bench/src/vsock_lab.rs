//! What moving bytes by vsock costs where the clock counts instructions, between the bench and a guest. The guest connects to the host: to a unix
//! socket where the monitor has one, by Firecracker's protocol, and else to a socket of the host's kernel.
use std::{
    fs, io, mem,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use rustix::net::accept;

use crate::{
    launch::Stamp,
    programs::{Absent, Guest, Kind, Program},
    results::Results,
    sessions::{self, Case, FRAME, Findings, Plan, READY, Session, TIMEOUT},
    traffic::{self, Peer},
};

const PORT: u32 = 5000;
/// Bytes of each stream that is measured, of that before it, and of that of which system calls and exits are counted.
const STREAM: u64 = 16 << 20;
const BEFORE: u64 = 2 << 20;
const COUNTED: u64 = 8 << 20;
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
    let stamp = Stamp::new()?;
    let cases = cases(plan, programs, work, &mut results);
    sessions::measure(plan, &cases, &mut results, |case| {
        streams(case, &stamp, work)
    });
    Ok(results)
}

/// Everybody, and us by our other transport as well.
fn cases<'a>(
    plan: &Plan,
    programs: &'a [Program],
    work: &Path,
    results: &mut Results,
) -> Vec<Case<'a>> {
    let script = format!("echo {READY}; /guest-traffic vsock {PORT}");
    let mut cases = Vec::new();
    for program in programs {
        let mut add = |more: &str, transport| {
            cases.push(Case {
                name: format!("{}{more}", program.name),
                program,
                guest: Guest {
                    vsock: Some(work.join("vsock")),
                    transport,
                    ..plan.guest(script.clone())
                },
            });
        };
        match program.kind {
            Kind::Ampoule => {
                add("", Some("pci"));
                add(" mmio", Some("mmio"));
            }
            Kind::Qemu if !Path::new("/sys/module/vhost_vsock").exists() => {
                results.skip(&program.name, "this host's kernel has no vhost_vsock");
            }
            Kind::Qemu => add(" vhost-vsock", None),
            _ => add("", None),
        }
    }
    cases
}

/// What the guest connects to, for this kind of program.
fn listen(case: &Case<'_>) -> io::Result<OwnedFd> {
    if case.program.kind == Kind::Qemu {
        return listen_in_kernel();
    }
    let socket = case.guest.vsock.clone().unwrap_or_default();
    let server = socket.with_file_name(format!("vsock_{PORT}"));
    for path in [&socket, &server] {
        // Left by the one before.
        let _ = fs::remove_file(path);
    }
    Ok(UnixListener::bind(server)?.into())
}

/// A socket of vsock(7).
fn listen_in_kernel() -> io::Result<OwnedFd> {
    let check = |answer| match answer {
        0.. => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: numbers in, a new descriptor or -1 out.
    let socket = check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) })?;
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeroes is a value of this structure.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or(0);
    address.svm_port = PORT;
    address.svm_cid = libc::VMADDR_CID_ANY;
    let length = u32::try_from(mem::size_of_val(&address)).unwrap_or(0);
    // SAFETY: the address lives during the call and is as long as said.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: the descriptor is open.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    Ok(socket)
}

/// One guest.
fn streams(case: &Case<'_>, stamp: &Stamp, work: &Path) -> io::Result<Findings> {
    let listener = listen(case)?;
    let mut session = Session::start(case, stamp, work)?;
    let findings = ask(&session, &listener);
    let findings = findings.map_err(|error| session.explain(&error))?;
    session.end()?;
    Ok(findings)
}

fn ask(session: &Session, listener: &OwnedFd) -> io::Result<Findings> {
    if !traffic::knocks(listener, TIMEOUT)? {
        return Err(io::Error::other("the guest does not connect"));
    }
    let mut peer = Peer::new(accept(listener)?)?;
    let (mut findings, frames) = (Findings::default(), STREAM / FRAME);
    peer.take(BEFORE)?;
    findings.add_timed(2, "vsock_tx", &session.time(|| peer.take(STREAM))?, frames);
    let counted = session.count(|| peer.take(COUNTED))?;
    findings.add_counted(2, "vsock_tx", &counted, COUNTED / FRAME);
    peer.give(BEFORE)?;
    findings.add_timed(2, "vsock_rx", &session.time(|| peer.give(STREAM))?, frames);
    let counted = session.count(|| peer.give(COUNTED))?;
    findings.add_counted(2, "vsock_rx", &counted, COUNTED / FRAME);
    peer.echo(ECHOES / 4)?;
    findings.add_timed(2, "vsock_rtt", &session.time(|| peer.echo(ECHOES))?, ECHOES);
    let counted = session.count(|| peer.echo(ECHOES))?;
    findings.add_counted(2, "vsock_rtt", &counted, ECHOES);
    peer.end()?;
    Ok(findings)
}
