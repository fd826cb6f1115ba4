//! `vsock`: a socket between host and guest.
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The first context id that a guest can have: those below are the hypervisor's, the loopback's and the host's.
pub const MIN_CID: u64 = 3;
/// The last one: the next stands for any (`VMADDR_CID_ANY`).
pub const MAX_CID: u64 = u32::MAX as u64 - 1;
/// What those outside are is told by [`super::Definition::validate`].
const ANY_CID: u64 = u32::MAX as u64;
/// Bytes that the address of a unix socket has room for.
pub const MAX_SOCKET_PATH: usize = 107;

/// A socket between host and guest: ports in the guest, unix sockets on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vsock {
    /// The guest's context id, from 3 on.
    #[serde(deserialize_with = "super::fields::whole::<_, _, 0, ANY_CID>")]
    #[cfg_attr(feature = "schema", schemars(range(min = MIN_CID, max = MAX_CID), example = 3))]
    pub guest_cid: u32,
    /// The unix socket that is made: clients connect to it and say `CONNECT PORT`. What the guest connects to is the socket whose name
    /// has `_PORT` behind this one.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = MAX_SOCKET_PATH),
            regex(pattern = r"^[^\u0000]*$"),
            example = "vsock.sock"
        )
    )]
    pub uds_path: PathBuf,
    /// Taken as Firecracker takes it, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
}

impl Vsock {
    /// The guest `guest_cid`, by the socket at `uds_path`.
    #[must_use]
    pub fn new(guest_cid: u32, uds_path: impl Into<PathBuf>) -> Self {
        Self {
            guest_cid,
            uds_path: uds_path.into(),
            vsock_id: None,
        }
    }
}
