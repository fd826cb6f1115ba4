//! The frames' channel: a socket of packets to the device, each a frame behind a header of 12 bytes (virtio 1.3 §5.1.6).
use std::{
    io::IoSlice,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg},
};

use super::Counters;

/// Bytes of `struct virtio_net_hdr_v1`.
pub(super) const HEADER: usize = 12;
/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// What one message of the guest's can be long: a header, an Ethernet header, the longest packet; and one byte, by which longer ones
/// are known.
pub(super) const MOST: usize = HEADER + ETHERNET + 65535 + 1;

/// Feature bits of virtio-net (§5.1.3).
pub mod feature {
    /// The guest takes packets whose checksum is to be completed.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// It takes packets of TCP over IPv4 that are still to be cut.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// And over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
}

/// `flags`: the checksum is to be completed.
const NEEDS_CSUM: u8 = 1;

/// `gso_type`.
mod segmentation {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const ECN: u8 = 0x80;
}

/// What the guest left to be done about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Its transport's checksum: it comes from the memory that it was made in, there is nothing to check.
    pub(super) checksum: bool,
    /// It is TCP that is to be cut.
    pub(super) cut: bool,
}

/// What the guest is to do about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leave {
    /// Where the transport's header begins, behind the Ethernet header.
    pub(super) start: usize,
    /// Where in it the checksum is.
    pub(super) offset: u16,
    /// How long each piece's payload is to be, and where the payload begins, if it is to be cut.
    pub(super) cut: Option<(u16, usize)>,
}

/// What became of a frame for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way.
    Yes,
    /// There is no room now. An event will tell.
    Full,
    /// It never will be: it is too long, or nobody is there.
    Never,
}

/// What came from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A message of so many bytes.
    Message(usize),
    /// Nothing now.
    Nothing,
    /// The device is gone.
    End,
}

/// The engine's end.
pub(super) struct Channel {
    socket: OwnedFd,
    features: Arc<AtomicU64>,
    counters: Arc<Counters>,
    /// Whether there may be frames of the guest's.
    pub(super) readable: bool,
    /// Whether frames may be sent.
    pub(super) writable: bool,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd, features: Arc<AtomicU64>, counters: Arc<Counters>) -> Self {
        Self {
            socket,
            features,
            counters,
            readable: true,
            writable: true,
        }
    }

    /// Whether the guest's driver agreed to this.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.features.load(Ordering::Relaxed) & feature != 0
    }

    /// Whether the guest took all that was sent.
    pub(super) fn is_drained(&self) -> bool {
        super::host::unsent(&self.socket) == Some(0)
    }

    /// The next message.
    pub(super) fn receive(&mut self, buffer: &mut [u8; MOST]) -> Received {
        loop {
            return match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => Received::End,
                Ok((_, bytes)) => Received::Message(bytes),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    Received::Nothing
                }
                Err(_) => Received::End,
            };
        }
    }

    /// Sends one frame, made of `head` and `payload`.
    pub(super) fn send(&mut self, leave: Option<Leave>, head: &[u8], payload: &[u8]) -> Sent {
        if !self.writable {
            return Sent::Full;
        }
        let Some(header) = header(leave, head) else {
            return Sent::Never;
        };
        let pieces = [&header[..], head, payload].map(IoSlice::new);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            let sent = sendmsg(
                &self.socket,
                &pieces,
                &mut SendAncillaryBuffer::default(),
                flags,
            );
            return match sent {
                Ok(_) => {
                    self.counters.frames_to_guest.count();
                    Sent::Yes
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    self.writable = false;
                    Sent::Full
                }
                Err(_) => Sent::Never,
            };
        }
    }

    /// As [`send`](Self::send), of what its sender will say again, or nobody waits for: it is dropped where there is no room.
    pub(super) fn send_lossy(&mut self, frame: &[u8]) {
        if self.send(None, frame, &[]) != Sent::Yes {
            self.counters.dropped_full.count();
        }
    }
}

/// The header of a frame for the guest.
fn header(leave: Option<Leave>, head: &[u8]) -> Option<[u8; HEADER]> {
    let mut header = [0; HEADER];
    // One buffer, as far as the device does not say otherwise (§5.1.6.4).
    header[10] = 1;
    if let Some(leave) = leave {
        header[0] = NEEDS_CSUM;
        let start = u16::try_from(ETHERNET + leave.start).ok()?;
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&leave.offset.to_le_bytes());
        if let Some((size, payload)) = leave.cut {
            let v6 = head.get(ETHERNET)? >> 4 == 6;
            header[1] = if v6 {
                segmentation::TCPV6
            } else {
                segmentation::TCPV4
            };
            let length = u16::try_from(ETHERNET + payload).ok()?;
            header[2..4].copy_from_slice(&length.to_le_bytes());
            header[4..6].copy_from_slice(&size.to_le_bytes());
        }
    }
    Some(header)
}

/// Parts a message of the guest's: what is left to do, and the frame. None if it is none, or asks for what nobody does.
pub(super) fn part(message: &[u8]) -> Option<(Left, &[u8])> {
    let (header, frame) = message.split_at_checked(HEADER)?;
    let cut = match header[1] & !segmentation::ECN {
        segmentation::NONE => false,
        segmentation::TCPV4 | segmentation::TCPV6 => true,
        _ => return None,
    };
    let checksum = header[0] & NEEDS_CSUM != 0;
    let fits = message.len() < MOST && frame.len() >= ETHERNET;
    (fits && (checksum || !cut)).then_some((Left { checksum, cut }, frame))
}
