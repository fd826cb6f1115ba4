//! `drives`: block devices.
use super::fields::{object_or_null, whole_or_null};
use super::not_yet::TextNotYet;
use super::rate_limiter::RateLimiter;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Most of them: each has a place and an interrupt of its own.
pub const MAX_DRIVES: usize = 64;
/// Bytes of a serial number (virtio 1.3 §5.2.6).
pub const MAX_SERIAL: usize = 20;
/// Most virtqueues of a drive.
pub const MAX_QUEUES: u64 = 16;

/// A raw image, or a block device of the host, that the guest has as a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = super::schema::require_path))]
pub struct Drive {
    /// What it is called on the host: letters, digits and `_`.
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[A-Za-z0-9_]+$"), example = &"rootfs")
    )]
    pub drive_id: String,
    /// The image, relative to the working directory. No format is guessed: it is raw.
    #[serde(default)]
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1),
            regex(pattern = r"^[^\u0000]*$"),
            example = "rootfs.ext4"
        )
    )]
    pub path_on_host: PathBuf,
    /// Whether it is the root file system. It becomes the first disk, `/dev/vda`, and `root=` says so unless `boot_args` have one.
    #[cfg_attr(feature = "schema", schemars(example = true))]
    pub is_root_device: bool,
    /// The partition of the root device that is the root, by its GPT or MBR identifier: `root=PARTUUID=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9A-Fa-f-]{1,36}$")))]
    pub partuuid: Option<String>,
    /// Whether the guest cannot write to it.
    #[serde(default, deserialize_with = "super::fields::bool_or_null")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<bool>"))]
    pub is_read_only: bool,
    /// When what the guest writes reaches the host's disk.
    #[serde(default)]
    pub cache_type: CacheType,
    /// Which of Firecracker's engines. Either is served by the best that the host has: `io_uring`, else threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_engine: Option<IoEngine>,
    /// How much of it the guest may use in how much time.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "RateLimiter::is_unlimited"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "super::schema::section::<RateLimiter>")
    )]
    pub rate_limiter: RateLimiter,
    /// A vhost-user back end's socket.
    #[serde(default, skip_serializing)]
    pub(super) socket: TextNotYet,
    /// The serial number that the guest reads, up to 20 characters: `drive_id` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_SERIAL), regex(pattern = r"^[!-~]*$"), extend("x-ours" = true)))]
    pub serial: Option<String>,
    /// Virtqueues, each with a thread of its own. Without it: one for each vCPU, up to 4.
    #[serde(
        default,
        deserialize_with = "whole_or_null::<_, _, 1, MAX_QUEUES>",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_QUEUES), extend("x-ours" = true)))]
    pub queues: Option<u16>,
}

impl Drive {
    /// The image at `path_on_host`, with everything else at its default.
    #[must_use]
    pub fn new(drive_id: impl Into<String>, path_on_host: impl Into<PathBuf>) -> Self {
        Self {
            drive_id: drive_id.into(),
            path_on_host: path_on_host.into(),
            is_root_device: false,
            partuuid: None,
            is_read_only: false,
            cache_type: CacheType::default(),
            io_engine: None,
            rate_limiter: RateLimiter::default(),
            socket: TextNotYet::default(),
            serial: None,
            queues: None,
        }
    }
}

string_enum! {
    /// When what the guest writes reaches the host's disk.
    CacheType {
        /// When the host likes: the guest cannot flush, and a host that fails may lose what it wrote.
        #[default]
        Unsafe = "Unsafe",
        /// When the guest flushes, as disks do it.
        Writeback = "Writeback",
        /// Before the guest is told that it is written. (Not in Firecracker.)
        Writethrough = "Writethrough",
        /// When the guest flushes, and around the host's page cache. (Not in Firecracker.)
        None = "None",
    }
}

string_enum! {
    /// An engine of Firecracker's.
    IoEngine {
        /// One call after the other.
        #[default]
        Sync = "Sync",
        /// `io_uring`.
        Async = "Async",
    }
}
