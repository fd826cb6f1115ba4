//! `rate_limiter`: how much a guest may use of a device in how much time.
use super::fields::optional_object;
use serde::{Deserialize, Serialize};

/// Limits of bytes and of operations. Without one: as much as there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RateLimiter {
    /// Bytes.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "super::schema::section::<TokenBucket>")
    )]
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "super::schema::section::<TokenBucket>")
    )]
    pub ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// Whether it limits nothing.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.bandwidth.is_none() && self.ops.is_none()
    }

    /// Takes over the buckets that `update` has: one that limits nothing takes the limit away.
    pub fn take(&mut self, update: &Self) {
        for (own, new) in [
            (&mut self.bandwidth, update.bandwidth),
            (&mut self.ops, update.ops),
        ] {
            if new.is_some() {
                *own = new.filter(|bucket| bucket.size > 0 && bucket.refill_time > 0);
            }
        }
    }
}

/// A bucket of tokens. It is full at first, and an empty one is full again after `refill_time`. Unknown keys are ignored, as by
/// Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenBucket {
    /// Tokens that it holds: bytes, or operations. 0: no limit.
    pub size: u64,
    /// In what time an empty one is full, in milliseconds. 0: no limit.
    pub refill_time: u64,
    /// Tokens that there are besides, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
}
