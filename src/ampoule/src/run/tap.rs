//! TAP interfaces of this host, opened or made.
use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType},
};
use vmm::virtio::net::Tap;

const DEVICE: &str = "/dev/net/tun";

/// `linux/if_tun.h`.
mod request {
    pub(super) const SET_INTERFACE: libc::Ioctl = 0x4004_54ca;
    pub(super) const SET_HEADER_SIZE: libc::Ioctl = 0x4004_54d8;
    pub(super) const SET_LITTLE_ENDIAN: libc::Ioctl = 0x4004_54dc;
}

/// `linux/sockios.h`.
mod socket {
    pub(super) const GET_FLAGS: libc::Ioctl = 0x8913;
    pub(super) const SET_FLAGS: libc::Ioctl = 0x8914;
    pub(super) const GET_MTU: libc::Ioctl = 0x8921;
    pub(super) const SET_MTU: libc::Ioctl = 0x8922;
    pub(super) const ETHTOOL: libc::Ioctl = 0x8946;
}

/// `ETHTOOL_GDRVINFO`, and the bytes of `struct ethtool_drvinfo`.
const GET_DRIVER_INFO: u32 = 3;
const DRIVER_INFO_BYTES: usize = 196;

const IFF_TAP: libc::c_short = 0x0002;
const IFF_MULTI_QUEUE: libc::c_short = 0x0100;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
/// `struct virtio_net_hdr_v1`.
const HEADER_BYTES: libc::c_int = 12;

/// An interface that is open.
pub(super) struct Opened {
    /// One for each pair of queues.
    pub(super) taps: Vec<Tap>,
    pub(super) mtu: u16,
    /// Whether it was made here.
    pub(super) made: bool,
    pub(super) up: bool,
}

/// What TAPs are asked about, while the paths of this host are still there.
pub(crate) fn inquirer() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
    Ok(rustix::net::socket_with(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// What can be made a TAP without a path: it belongs to no interface yet.
///
/// # Errors
/// Why there is none.
pub(super) fn spare() -> Result<OwnedFd, NoTap> {
    device().map_err(|error| explain(&error, "", 1, true))
}

/// Makes `spare` the only queue of the TAP called `name`, which exists; the longest packet that it takes, and whether it is up.
///
/// # Errors
/// When there is no such TAP, it is in use or another user's, or of a wrong kind. Then nothing has changed.
pub(crate) fn join(
    spare: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    name: &str,
) -> Result<(u16, bool), NoTap> {
    let there = look(socket, name)?;
    // Before it is joined: who has joined one cannot join another.
    let known = there.then(|| nature(socket, name)).transpose()?;
    // It could not be made: this process has no privilege any more.
    let mut outcome = attach(spare, name, 0);
    if outcome.as_ref().is_err_and(is_wrong_kind) {
        outcome = attach(spare, name, IFF_MULTI_QUEUE);
    }
    outcome.map_err(|error| explain(&error, name, 1, there))?;
    known.map_or_else(|| nature(socket, name), Ok)
}

/// Why there is no TAP, and what to do about it.
#[derive(Clone, Debug)]
pub(crate) struct NoTap {
    pub(crate) why: String,
    pub(crate) hint: Option<String>,
}

impl NoTap {
    fn new(why: impl fmt::Display) -> Self {
        Self {
            why: why.to_string(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

/// Opens `queues` queues of the TAP called `name`, which is made if it does not exist, then with an MTU of `mtu`.
pub(super) fn open(name: &str, queues: u16, mtu: Option<u16>) -> Result<Opened, NoTap> {
    let socket = inquirer().map_err(NoTap::new)?;
    let there = look(socket.as_fd(), name)?;
    let taps = open_queues(name, queues, there)?;
    if !there {
        let up = bring_up(socket.as_fd(), name, mtu);
        up.map_err(|error| NoTap::new(format_args!("it cannot be brought up: {error}")))?;
    }
    let (mtu, up) = nature(socket.as_fd(), name)?;
    Ok(Opened {
        taps,
        mtu,
        made: !there,
        up,
    })
}

/// The longest packet that an interface takes, and whether it is up.
fn nature(socket: BorrowedFd<'_>, name: &str) -> Result<(u16, bool), NoTap> {
    let failed = |what: &'static str| move |error| NoTap::new(format_args!("{what}: {error}"));
    let number = |get| ask(socket, get, &mut named(name));
    let set = number(socket::GET_MTU).map_err(failed("its MTU is unknown"))?;
    // SAFETY: the request filled in this member.
    let set = unsafe { set.ifr_ifru.ifru_mtu };
    let flags = number(socket::GET_FLAGS).map_err(failed("its state is unknown"))?;
    // SAFETY: the request filled in this member.
    let flags = unsafe { flags.ifr_ifru.ifru_flags };
    let up = libc::c_int::from(flags) & libc::IFF_UP != 0;
    Ok((u16::try_from(set).unwrap_or(u16::MAX), up))
}

/// Whether there is an interface of this name. It is refused where it is no TAP.
fn look(socket: BorrowedFd<'_>, name: &str) -> Result<bool, NoTap> {
    match ask(socket, socket::GET_FLAGS, &mut named(name)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        Err(error) => return Err(NoTap::new(error)),
        Ok(_) => {}
    }
    let mut info = [0u8; DRIVER_INFO_BYTES];
    info[..4].copy_from_slice(&GET_DRIVER_INFO.to_ne_bytes());
    let mut request = named(name);
    request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
    let answer = ask(socket, socket::ETHTOOL, &mut request);
    let text = |at: usize| {
        let bytes = info[at..at + 32].split(|byte| *byte == 0).next();
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    };
    // The driver, and what it calls the bus.
    let (driver, bus) = (text(4), text(100));
    match (answer, driver.as_str(), bus.as_str()) {
        (Ok(_), "tun", "tap") => Ok(true),
        (Ok(_), "tun", _) => Err(NoTap::new("it is a TUN interface, and no TAP")
            .hint("one that was made with: ip tuntap add mode tap")),
        _ => Err(NoTap::new("it is no TAP interface")
            .hint(format_args!("a TAP, with {name} and it on one bridge"))),
    }
}

fn open_queues(name: &str, queues: u16, there: bool) -> Result<Vec<Tap>, NoTap> {
    let refused = |error: io::Error| explain(&error, name, queues, there);
    // One that was made for several may be used with one; the kernel wants to hear the same as when it was made.
    let kinds: &[libc::c_short] = match (queues, there) {
        (1, true) => &[0, IFF_MULTI_QUEUE],
        (1, false) => &[0],
        _ => &[IFF_MULTI_QUEUE],
    };
    let mut outcome = Err(io::Error::from_raw_os_error(libc::EINVAL));
    for kind in kinds {
        outcome = (0..queues).map(|_| open_queue(name, *kind)).collect();
        if !outcome.as_ref().is_err_and(is_wrong_kind) {
            break;
        }
    }
    outcome.map_err(refused)
}

/// Whether the interface was made for several queues, and not for one, or the other way round.
fn is_wrong_kind(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

fn open_queue(name: &str, kind: libc::c_short) -> io::Result<Tap> {
    let file = device()?;
    attach(file.as_fd(), name, kind)?;
    Ok(Tap::new(file))
}

fn device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(DEVICE, flags, Mode::empty())?)
}

/// Makes `file` a queue of the interface called `name`.
fn attach(file: BorrowedFd<'_>, name: &str, kind: libc::c_short) -> io::Result<()> {
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | kind;
    ask(file, request::SET_INTERFACE, &mut request)?;
    set(file, request::SET_HEADER_SIZE, HEADER_BYTES)?;
    set(file, request::SET_LITTLE_ENDIAN, 1)
}

fn bring_up(socket: BorrowedFd<'_>, name: &str, mtu: Option<u16>) -> io::Result<()> {
    if let Some(mtu) = mtu {
        let mut request = named(name);
        request.ifr_ifru.ifru_mtu = mtu.into();
        ask(socket, socket::SET_MTU, &mut request)?;
    }
    let mut request = ask(socket, socket::GET_FLAGS, &mut named(name))?;
    let up = libc::c_short::try_from(libc::IFF_UP).expect("a small number");
    // SAFETY: the request filled in this member.
    request.ifr_ifru.ifru_flags = unsafe { request.ifr_ifru.ifru_flags } | up;
    ask(socket, socket::SET_FLAGS, &mut request).map(drop)
}

/// What the kernel's answer means, and what to do.
fn explain(error: &io::Error, name: &str, queues: u16, there: bool) -> NoTap {
    let several = if queues > 1 { " multi_queue" } else { "" };
    let make = format!(
        "sudo ip tuntap add dev {name} mode tap user $USER{several} && sudo ip link set {name} up"
    );
    match (error.raw_os_error(), there) {
        (Some(libc::ENOENT), _) => {
            NoTap::new(format_args!("there is no {DEVICE}")).hint("sudo modprobe tun")
        }
        (Some(libc::EACCES), _) => NoTap::new(format_args!("{DEVICE} does not open: {error}"))
            .hint(format_args!("sudo chmod 666 {DEVICE}")),
        (Some(libc::EPERM), false) => {
            NoTap::new("there is no such TAP interface, and this user may not make one").hint(make)
        }
        (Some(libc::EPERM), true) => NoTap::new("it is another user's").hint(format_args!(
            "sudo ip tuntap del dev {name} mode tap{several}; {make}"
        )),
        (Some(libc::EBUSY), _) => {
            NoTap::new("another program is using it").hint("each guest needs a TAP of its own")
        }
        (Some(libc::EINVAL), true) if queues > 1 => {
            NoTap::new(format_args!("it is not made for {queues} queues")).hint(format_args!(
                "sudo ip tuntap del dev {name} mode tap; {make}"
            ))
        }
        (Some(libc::E2BIG), _) => NoTap::new("another program is using its queues")
            .hint("each guest needs a TAP of its own"),
        _ => NoTap::new(error),
    }
}

/// A request about the interface called `name`, which was checked to fit.
fn named(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a value of this structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from.cast_signed();
    }
    request
}

/// The request as the kernel answers it.
fn ask(
    file: BorrowedFd<'_>,
    number: libc::Ioctl,
    request: &mut libc::ifreq,
) -> io::Result<libc::ifreq> {
    // SAFETY: the descriptor is open; the structure, and what it points to, live while the call lasts.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), number, &raw mut *request) };
    match answer {
        0.. => Ok(*request),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(file: BorrowedFd<'_>, number: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads the number while the call lasts.
    match unsafe { libc::ioctl(file.as_raw_fd(), number, &raw const value) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
