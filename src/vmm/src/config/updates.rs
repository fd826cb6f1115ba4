//! What is changed of a machine while it runs: bodies of Firecracker's API.
use super::fields::optional_object;
use super::rate_limiter::RateLimiter;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `PATCH /vm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmUpdate {
    /// What becomes of the guest.
    pub state: VmState,
}

string_enum! {
    /// What becomes of a guest.
    VmState {
        /// It stands still.
        #[default]
        Paused = "Paused",
        /// It goes on.
        Resumed = "Resumed",
    }
}

/// `PUT /actions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Which one.
    pub action_type: ActionType,
}

string_enum! {
    /// What a machine can be told to do.
    ActionType {
        /// To write its metrics.
        #[default]
        FlushMetrics = "FlushMetrics",
        /// To start its guest.
        InstanceStart = "InstanceStart",
        /// To ask its guest to end.
        SendCtrlAltDel = "SendCtrlAltDel",
    }
}

/// `PATCH /balloon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// MiB that the guest is asked for from now on.
    pub amount_mib: u32,
}

/// `PATCH /balloon/statistics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatisticsUpdate {
    /// Seconds between two questions from now on; 0 for none.
    #[serde(deserialize_with = "super::balloon::interval")]
    pub stats_polling_interval_s: u32,
}

/// `PATCH /balloon/hinting/start`, whose body may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HintingStart {
    /// Whether the guest has its memory back as soon as it has named it.
    #[serde(default = "yes")]
    pub acknowledge_on_stop: bool,
}

impl Default for HintingStart {
    fn default() -> Self {
        Self {
            acknowledge_on_stop: true,
        }
    }
}

fn yes() -> bool {
    true
}

/// `PATCH /drives/{drive_id}`. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveUpdate {
    /// Which drive.
    pub drive_id: String,
    /// Its image from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<PathBuf>,
    /// How much of it the guest may use in how much time from now on. Of its buckets too, one that is absent stays as it is.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub rate_limiter: Option<RateLimiter>,
}
