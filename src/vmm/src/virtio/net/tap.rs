//! The host's side of a network card: one queue of a TAP, or what stands in for it.
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::config::feature;

/// `TUNSETQUEUE` (`linux/if_tun.h`).
const SET_QUEUE: libc::Ioctl = 0x4004_54d9;
/// `TUNSETOFFLOAD`.
const SET_OFFLOAD: libc::Ioctl = 0x4004_54d0;
const ATTACH_QUEUE: libc::c_short = 0x200;
const DETACH_QUEUE: libc::c_short = 0x400;

/// `TUN_F_*`: what the guest takes of what the host can leave to it.
mod offload {
    pub(super) const CSUM: libc::c_ulong = 0x01;
    pub(super) const TSO4: libc::c_ulong = 0x02;
    pub(super) const TSO6: libc::c_ulong = 0x04;
    pub(super) const TSO_ECN: libc::c_ulong = 0x08;
    pub(super) const USO4: libc::c_ulong = 0x20;
    pub(super) const USO6: libc::c_ulong = 0x40;
}

/// What a host can do for a guest besides what all hosts can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// It cuts long UDP packets, and leaves them whole (Linux from 6.2 on).
    pub udp: bool,
}

/// One queue: each read and write is one frame behind a header of 12 bytes in the guest's byte order.
#[derive(Debug)]
pub struct Tap {
    file: File,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// It takes a TAP's commands.
    Real,
    /// It will be one, and belongs to no interface yet.
    Spare,
    /// It is a socket of packets, whose other end looks here for the features that the driver agreed to.
    StandIn(Arc<AtomicU64>),
}

/// Why the host did not take or give a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Not now: it tells when.
    Later,
    /// This one, for whatever reason.
    Refused,
    /// There is no interface any more.
    Gone,
}

impl Tap {
    /// A queue of a TAP, which is attached, does not block, and has been told of headers.
    pub fn new(file: OwnedFd) -> Self {
        Self {
            file: file.into(),
            kind: Kind::Real,
        }
    }

    /// What becomes one later: an open `/dev/net/tun` that does not block.
    pub fn spare(file: OwnedFd) -> Self {
        Self {
            file: file.into(),
            kind: Kind::Spare,
        }
    }

    /// What behaves as one: a socket of packets, whose other end sees in `agreed` what features the driver agreed to.
    pub fn stand_in(file: OwnedFd, agreed: Arc<AtomicU64>) -> Self {
        Self {
            file: file.into(),
            kind: Kind::StandIn(agreed),
        }
    }

    /// Whether it takes a TAP's commands: a spare one has got its interface when there is a driver.
    fn is_real(&self) -> bool {
        !matches!(self.kind, Kind::StandIn(_))
    }

    /// Whether it was open without an interface when its thread was made.
    pub(super) fn is_spare(&self) -> bool {
        matches!(self.kind, Kind::Spare)
    }

    /// What the host can do.
    pub fn probe(&self) -> Offload {
        let all = offload::CSUM | offload::USO4 | offload::USO6;
        let udp = self.is_real() && self.command(SET_OFFLOAD, all).is_ok();
        Offload { udp }
    }

    /// Lets the host leave to the guest what both agreed on.
    pub(super) fn set_offload(&self, features: u64) -> io::Result<()> {
        if let Kind::StandIn(agreed) = &self.kind {
            agreed.store(features, Ordering::Release);
            return Ok(());
        }
        let agreed = [
            (feature::GUEST_CSUM, offload::CSUM),
            (feature::GUEST_TSO4, offload::TSO4),
            (feature::GUEST_TSO6, offload::TSO6),
            (feature::GUEST_ECN, offload::TSO_ECN),
            (feature::GUEST_USO4, offload::USO4),
            (feature::GUEST_USO6, offload::USO6),
        ];
        let agreed = agreed.iter().filter(|(bit, _)| features & bit != 0);
        let flags = agreed.fold(0, |flags, (_, flag)| flags | flag);
        self.command(SET_OFFLOAD, flags)
    }

    /// There is no driver any more: what stands in for a TAP has nobody who agreed to anything.
    pub(super) fn forget_driver(&self) {
        if let Kind::StandIn(agreed) = &self.kind {
            agreed.store(0, Ordering::Release);
        }
    }

    /// Whether the host puts frames into this queue. What lies in one that is detached is lost.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn attach(&self, attach: bool) -> io::Result<()> {
        if !self.is_real() {
            return Ok(());
        }
        // SAFETY: all zeroes is a value of this structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = if attach { ATTACH_QUEUE } else { DETACH_QUEUE };
        // SAFETY: the descriptor is open, and the kernel reads the structure while the call lasts.
        let answer = unsafe { libc::ioctl(self.descriptor(), SET_QUEUE, &raw const request) };
        // It is as it was before where it is so already.
        match check(answer) {
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
            _ => Ok(()),
        }
    }

    fn command(&self, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
        if !self.is_real() {
            return Ok(());
        }
        // SAFETY: the descriptor is open, and the argument of these requests is a number.
        check(unsafe { libc::ioctl(self.descriptor(), request, value) })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Sends the frame that `vectors` make, as a whole.
    pub(super) fn send(&self, vectors: &[libc::iovec]) -> Result<(), Trouble> {
        let count = libc::c_int::try_from(vectors.len()).map_err(|_| Trouble::Refused)?;
        // SAFETY: the vectors lie in guest memory, which is mapped while their queue is there, or in the caller's; both are only read.
        let sent = unsafe { libc::writev(self.descriptor(), vectors.as_ptr(), count) };
        usize::try_from(sent).map(drop).map_err(|_| trouble())
    }

    /// Takes a frame into `vectors`; its bytes with the header. What they have no room for is lost.
    pub(super) fn receive(&self, vectors: &[libc::iovec]) -> Result<usize, Trouble> {
        let count = libc::c_int::try_from(vectors.len()).map_err(|_| Trouble::Refused)?;
        // SAFETY: the vectors lie in guest memory, which is mapped while their queue is there and which nothing here borrows.
        let received = unsafe { libc::readv(self.descriptor(), vectors.as_ptr(), count) };
        match usize::try_from(received) {
            // The other end of a stand-in is closed.
            Ok(0) => Err(Trouble::Gone),
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(trouble()),
        }
    }

    /// Throws away what was sent before anybody was there to receive it. What stands in for a TAP keeps nothing for long.
    pub(super) fn purge(&self) {
        if !self.is_real() {
            return;
        }
        let mut byte = 0u8;
        let vector = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        for _ in 0..MAX_STALE {
            // SAFETY: the byte outlives the call.
            let received = unsafe { libc::readv(self.descriptor(), &raw const vector, 1) };
            if received <= 0 {
                break;
            }
        }
    }
}

/// More than a TAP keeps, so that a flood does not hold anybody up.
const MAX_STALE: usize = 4096;

fn check(answer: libc::c_int) -> io::Result<()> {
    match answer {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn trouble() -> Trouble {
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Trouble::Later,
        Some(libc::EBADFD | libc::ENODEV | libc::ENXIO | libc::EPIPE | libc::ECONNREFUSED) => {
            Trouble::Gone
        }
        _ => Trouble::Refused,
    }
}
