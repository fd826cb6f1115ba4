use super::fields::whole;
use serde::{Deserialize, Serialize};

/// Most seconds between two questions for statistics.
pub const MAX_STATS_INTERVAL: u64 = u16::MAX as u64;

/// A memory balloon: memory that the guest gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Balloon {
    /// MiB that the guest is asked to give, of those that it has.
    pub amount_mib: u32,
    /// Whether the guest may take memory back before it kills a program for want of it.
    pub deflate_on_oom: bool,
    /// Seconds between two questions for statistics; 0 for none.
    #[serde(default, deserialize_with = "interval")]
    #[cfg_attr(feature = "schema", schemars(range(max = MAX_STATS_INTERVAL)))]
    pub stats_polling_interval_s: u32,
    /// Whether the guest can be asked to name its free memory.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// Whether the guest names memory as it becomes free.
    #[serde(default)]
    pub free_page_reporting: bool,
}

pub(super) fn interval<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole::<_, _, 0, MAX_STATS_INTERVAL>(deserializer)
}
