//! `drives`: block devices.
use std::path::PathBuf;

/// Most of them: each has a place and an interrupt of its own.
pub const MAX_DRIVES: usize = 64;
/// Bytes of a serial number (virtio 1.3 §5.2.6).
pub const MAX_SERIAL: usize = 20;

/// A raw image, or a block device of the host, that the guest has as a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// What it is called on the host.
    pub drive_id: String,
    /// The image, relative to the working directory.
    pub path_on_host: PathBuf,
    /// Whether the guest cannot write to it.
    pub is_read_only: bool,
    /// When what the guest writes reaches the host's disk.
    pub cache_type: CacheType,
    /// The serial number that the guest reads: `drive_id` without one.
    pub serial: Option<String>,
}

string_enum! {
    /// When what the guest writes reaches the host's disk.
    CacheType {
        /// When the guest flushes, as disks do it.
        #[default]
        WriteBack = "writeback",
        /// Before the guest is told that it is written.
        WriteThrough = "writethrough",
    }
}
