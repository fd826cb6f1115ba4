//! The header of every frame (virtio 1.3 §5.1.6), and what is made of a driver's.
use super::config::feature;

/// Bytes of `struct virtio_net_hdr_v1`.
pub(super) const BYTES: usize = 12;
/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// What is copied in of a frame before it is judged, so that the guest cannot change it behind that.
pub(super) const PREFIX: usize = BYTES + ETHERNET;
/// Where the number of a received frame's buffers stands.
pub(super) const NUM_BUFFERS: usize = 10;
/// Two VLAN tags.
const TAGS: usize = 8;
/// Most bytes of a frame: what an IP packet's length can say, and what lies before it.
pub(super) const MAX_FRAME: usize = 65535 + ETHERNET + TAGS;

/// `flags`: the checksum is to be completed.
const NEEDS_CSUM: u8 = 1;

/// `gso_type`.
mod segmentation {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
    /// The TCP packet has ECN set.
    pub(super) const ECN: u8 = 0x80;
}

/// Smallest piece that a frame is cut into: what is left of the smallest segment that Linux sends when it is full of options.
const MIN_SEGMENT: u16 = 8;
/// What Linux takes for "the pieces are of different sizes".
const BY_FRAGMENTS: u16 = 0xffff;

/// The longest frame that is not to be cut, where the MTU is `mtu`.
pub(super) fn longest(mtu: u16) -> usize {
    usize::from(mtu) + ETHERNET + TAGS
}

/// A frame that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is shorter than an Ethernet header, or longer than anything can be.
    Size,
    /// Its header asks for what nobody agreed on, or for what cannot be done.
    Header,
    /// It does not come from the address that it must come from.
    Source,
}

/// What a driver may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The features that were agreed on.
    pub(super) features: u64,
    /// The longest packet that the driver was told of.
    pub(super) mtu: u16,
    /// The address that its frames must come from, if they must.
    pub(super) source: Option<[u8; 6]>,
}

/// Judges a frame of `length` bytes by its `prefix`, of which it makes what the host is told.
pub(super) fn judge(
    prefix: &mut [u8; PREFIX],
    length: usize,
    terms: &Terms,
) -> Result<(), Refused> {
    if !(ETHERNET..=MAX_FRAME).contains(&length) {
        return Err(Refused::Size);
    }
    if let Some(source) = terms.source
        && prefix[BYTES + 6..BYTES + 12] != source
    {
        return Err(Refused::Source);
    }
    // All other flags are the device's to set, and ignored where a driver sets them (§5.1.6.2.1).
    prefix[0] &= NEEDS_CSUM;
    prefix[NUM_BUFFERS..BYTES].fill(0);
    let needs_checksum = prefix[0] != 0;
    let field = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
    let (header_length, size) = (field(2), field(4));
    let (start, offset) = (usize::from(field(6)), usize::from(field(8)));
    let has = |bit: u64| terms.features & bit != 0;
    if needs_checksum && !(has(feature::CSUM) && start >= ETHERNET && start + offset + 2 <= length)
    {
        return Err(Refused::Header);
    }
    let kind = prefix[1];
    if kind == segmentation::NONE {
        // What the host is not to cut, it does not look at; but no packet is longer than the link takes.
        prefix[2..6].fill(0);
        return match length <= longest(terms.mtu) || !has(feature::MTU) {
            true => Ok(()),
            false => Err(Refused::Size),
        };
    }
    let agreed = match kind & !segmentation::ECN {
        segmentation::TCPV4 => has(feature::HOST_TSO4),
        segmentation::TCPV6 => has(feature::HOST_TSO6),
        segmentation::UDP_L4 => has(feature::HOST_USO) && kind & segmentation::ECN == 0,
        _ => false,
    };
    let with_ecn = kind & segmentation::ECN == 0 || has(feature::HOST_ECN);
    let fits = (MIN_SEGMENT..BY_FRAGMENTS).contains(&size) && usize::from(header_length) <= length;
    match agreed && with_ecn && needs_checksum && fits {
        true => Ok(()),
        false => Err(Refused::Header),
    }
}
