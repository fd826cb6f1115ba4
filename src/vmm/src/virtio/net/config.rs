//! What a driver is told of a network card (virtio 1.3 §5.1.3, §5.1.4).
use super::tap::Offload;
use crate::virtio::ConfigSpace;

/// Feature bits (§5.1.3).
pub(super) mod feature {
    pub(in super::super) const CSUM: u64 = 1 << 0;
    pub(in super::super) const GUEST_CSUM: u64 = 1 << 1;
    pub(in super::super) const MTU: u64 = 1 << 3;
    pub(in super::super) const MAC: u64 = 1 << 5;
    pub(in super::super) const GUEST_TSO4: u64 = 1 << 7;
    pub(in super::super) const GUEST_TSO6: u64 = 1 << 8;
    pub(in super::super) const GUEST_ECN: u64 = 1 << 9;
    pub(in super::super) const HOST_TSO4: u64 = 1 << 11;
    pub(in super::super) const HOST_TSO6: u64 = 1 << 12;
    pub(in super::super) const HOST_ECN: u64 = 1 << 13;
    pub(in super::super) const MRG_RXBUF: u64 = 1 << 15;
    pub(in super::super) const STATUS: u64 = 1 << 16;
    pub(in super::super) const CTRL_VQ: u64 = 1 << 17;
    pub(in super::super) const GUEST_ANNOUNCE: u64 = 1 << 21;
    pub(in super::super) const MQ: u64 = 1 << 22;
    pub(in super::super) const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub(in super::super) const GUEST_USO4: u64 = 1 << 54;
    pub(in super::super) const GUEST_USO6: u64 = 1 << 55;
    pub(in super::super) const HOST_USO: u64 = 1 << 56;

    /// With any of these a frame for the guest may be longer than the MTU says.
    pub(in super::super) const LONG_FRAMES: u64 = GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6;
}

/// Bytes of `struct virtio_net_config` up to the MTU.
const BYTES: usize = 12;
/// Where the address stands.
pub(super) const MAC: usize = 0;
/// Where the status stands.
pub(super) const STATUS: usize = 6;

/// Where the longest packet's length stands.
pub(super) const MTU: usize = 10;

/// Bits of the status.
pub(super) mod status {
    /// The link is up.
    pub(in super::super) const LINK_UP: u16 = 1;
    /// The driver is to tell its neighbours where it is.
    pub(in super::super) const ANNOUNCE: u16 = 2;
}

/// What the device offers, on a host that takes `offload`; `pinned` says whether its address stays as it is.
pub(super) fn features(offload: Offload, pairs: u16, pinned: bool) -> u64 {
    let when = |condition: bool, bits: u64| if condition { bits } else { 0 };
    let always = feature::CSUM
        | feature::GUEST_CSUM
        | feature::MTU
        | feature::MAC
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::GUEST_ECN
        | feature::HOST_TSO4
        | feature::HOST_TSO6
        | feature::HOST_ECN
        | feature::MRG_RXBUF
        | feature::STATUS
        | feature::CTRL_VQ
        | feature::GUEST_ANNOUNCE;
    let uso = feature::GUEST_USO4 | feature::GUEST_USO6 | feature::HOST_USO;
    always
        | when(offload.udp, uso)
        | when(pairs > 1, feature::MQ)
        | when(!pinned, feature::CTRL_MAC_ADDR)
}

/// The configuration space.
pub(super) fn space(mac: [u8; 6], pairs: u16, mtu: u16) -> ConfigSpace {
    let mut config = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(MAC, &mac);
    put(STATUS, &status::LINK_UP.to_le_bytes());
    put(8, &pairs.to_le_bytes()); // max_virtqueue_pairs
    put(MTU, &mtu.to_le_bytes());
    ConfigSpace::new(&config)
}
