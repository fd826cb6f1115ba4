//! `lifecycle`: how the machine ends.
use super::fields::whole;
use serde::{Deserialize, Serialize};

/// What happens when the guest or its owner wants the machine to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lifecycle {
    /// What a reboot asked for by the guest does.
    #[cfg_attr(feature = "schema", schemars(extend("x-flag" = "--on-reboot")))]
    pub on_reboot: OnReboot,
    /// Seconds from the power button's press to the kill, when the machine is told to stop.
    #[serde(deserialize_with = "whole::<_, _, 0, { u32::MAX as u64 }>")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = u32::MAX), extend("x-flag" = "--stop-timeout")))]
    pub stop_timeout_s: u32,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            on_reboot: OnReboot::Exit,
            stop_timeout_s: 10,
        }
    }
}

string_enum! {
    /// What a reboot asked for by the guest does.
    OnReboot {
        /// End the machine, as a power-off does.
        #[default]
        Exit = "exit",
        /// Boot it again, in the same process.
        Restart = "restart",
    }
}
