//! What a limiter's buckets hold, in a form that outlives the process.
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Bucket, Buckets, LONGEST, Limiter, Rate, nanoseconds};

/// A limiter's state, version 1: its limits, which may have changed since it was made, and how far they are used up. One that no
/// limiter can be in is refused when it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimiterState {
    bandwidth: Option<BucketState>,
    ops: Option<BucketState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Numbers")]
struct BucketState(Numbers);

/// A bucket's, and anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    /// Tokens that it holds.
    size: u64,
    /// In what time an empty one is full, in nanoseconds.
    refill: u64,
    /// What is left of the burst, in tokens.
    burst: u64,
    /// In what time it is full, in nanoseconds: more than `refill` when more was taken than there was.
    until_full: u64,
}

#[derive(Debug, Error)]
enum Impossible {
    /// It would have no tokens, or have them at once or never.
    #[error(
        "a rate limiter of {size} tokens in {refill} ns: both are 1 or more, and the time is at most {LONGEST} ns"
    )]
    Rate { size: u64, refill: u64 },
    /// More is missing than a request can take.
    #[error(
        "a rate limiter that is full in {0} ns only: nothing that it let through takes as long"
    )]
    Level(u64),
}

impl Limiter {
    /// Its state now.
    pub fn save(&self) -> LimiterState {
        self.lock().save(Instant::now())
    }

    /// Goes on where another was saved, as if no time had passed since.
    pub fn restore(&self, saved: &LimiterState) {
        let mut buckets = self.lock();
        *buckets = Buckets::restored(saved, Instant::now());
        self.active.store(buckets.is_limited(), Ordering::Release);
    }
}

impl Buckets {
    fn save(&self, now: Instant) -> LimiterState {
        let save = |bucket: &Option<Bucket>| bucket.as_ref().map(|bucket| bucket.save(now));
        LimiterState {
            bandwidth: save(&self.bandwidth),
            ops: save(&self.ops),
        }
    }

    fn restored(saved: &LimiterState, now: Instant) -> Self {
        let restored = |saved: Option<BucketState>| saved.map(|saved| saved.bucket(now));
        Self {
            bandwidth: restored(saved.bandwidth),
            ops: restored(saved.ops),
        }
    }
}

impl Bucket {
    fn save(&self, now: Instant) -> BucketState {
        let refill = nanoseconds(self.rate.refill);
        BucketState(Numbers {
            size: self.rate.size,
            refill: u64::try_from(refill).unwrap_or(LONGEST),
            burst: self.burst,
            // Rounded up: nobody gets more by being saved. What takes longer than 584 years takes that long.
            until_full: self.time_of(Self::full(self.rate) - self.level(now)),
        })
    }
}

impl TryFrom<Numbers> for BucketState {
    type Error = Impossible;

    fn try_from(numbers: Numbers) -> Result<Self, Impossible> {
        let Numbers { size, refill, .. } = numbers;
        if size == 0 || !(1..=LONGEST).contains(&refill) {
            return Err(Impossible::Rate { size, refill });
        }
        // Rounding up has added less than a nanosecond, which brings `size` parts.
        if numbers.missing() >= numbers.most_missing() + u128::from(size) {
            return Err(Impossible::Level(numbers.until_full));
        }
        Ok(Self(numbers))
    }
}

impl BucketState {
    fn bucket(&self, now: Instant) -> Bucket {
        let Self(numbers) = self;
        let rate = Rate {
            size: numbers.size,
            refill: Duration::from_nanos(numbers.refill),
            burst: numbers.burst,
        };
        let missing = numbers.missing().min(numbers.most_missing());
        Bucket {
            rate,
            level: Bucket::full(rate) - i128::try_from(missing).unwrap_or(i128::MAX),
            burst: numbers.burst,
            filled_at: now,
        }
    }
}

impl Numbers {
    /// What it holds less than when it is full, in parts of a token.
    fn missing(&self) -> u128 {
        u128::from(self.until_full) * u128::from(self.size)
    }

    /// The same behind the largest request, which a full bucket lets through on credit: below 2^126.
    fn most_missing(&self) -> u128 {
        u128::from(u64::MAX) * u128::from(self.refill)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::Limits, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn buckets(bandwidth: Option<Rate>, now: Instant) -> Buckets {
        Buckets {
            bandwidth: bandwidth.and_then(|rate| Bucket::new(rate, now)),
            ops: None,
        }
    }

    /// By way of JSON.
    fn moved(buckets: &Buckets, at: Instant, to: Instant) -> Buckets {
        let saved = serde_json::to_string(&buckets.save(at)).unwrap();
        Buckets::restored(&serde_json::from_str(&saved).unwrap(), to)
    }

    #[test]
    fn what_is_used_up_stays_so_and_the_time_between_brings_nothing() {
        let now = Instant::now();
        let rate = Rate {
            size: 10,
            refill: SECOND,
            burst: 5,
        };
        let mut buckets = buckets(Some(rate), now);
        assert_eq!(buckets.admit(3, now), Ok(()));
        // The rest of the burst, and eight of the ten.
        assert_eq!(buckets.admit(10, now), Ok(()));
        let later = now + 100 * SECOND;
        let mut other = moved(&buckets, now, later);
        assert_eq!(other.admit(2, later), Ok(()));
        assert_eq!(other.admit(1, later), Err(later + SECOND / 10));
        // So does a debt.
        let full = later + SECOND;
        assert_eq!(other.admit(100, full), Ok(()));
        let mut other = moved(&other, full, now);
        assert_eq!(other.admit(1, now), Err(now + 9 * SECOND + SECOND / 10));
    }

    #[test]
    fn limits_come_along_and_no_limits_too() {
        let limiter = Limiter::default();
        let none = limiter.save();
        let slow = Rate {
            size: 1,
            refill: 1000 * SECOND,
            burst: 0,
        };
        limiter.set(Limits {
            bandwidth: None,
            ops: Some(slow),
        });
        let other = Limiter::default();
        other.restore(&limiter.save());
        assert!(other.admit(1).is_ok() && other.admit(1).is_err());
        other.restore(&none);
        assert!(other.admit(1).is_ok() && other.admit(1).is_ok());
    }

    #[test]
    fn what_no_limiter_can_be_is_refused() {
        let good = json!({"size": 2, "refill": LONGEST, "burst": 0, "until_full": u64::MAX});
        for (key, number, why) in [
            ("size", 0, "1 or more"),
            ("refill", 0, "1 or more"),
            ("refill", LONGEST + 1, "at most 4611686018427387904 ns"),
            ("size", u64::MAX, "is full in 18446744073709551615 ns only"),
            ("level", 1, "unknown field"),
        ] {
            let mut state = json!({"bandwidth": good, "ops": null});
            assert!(serde_json::from_value::<LimiterState>(state.clone()).is_ok());
            state["bandwidth"][key] = json!(number);
            let refused = serde_json::from_value::<LimiterState>(state).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
    }

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..3u64,
            any::<u32>().prop_map(u64::from),
            any::<u64>(),
            Just(LONGEST),
            Just(u64::MAX)
        ]
    }

    proptest! {
        /// A state of any numbers is refused, or is that of a limiter that goes on in whatever is asked of it.
        #[test]
        fn any_state_is_refused_or_works(
            numbers in proptest::array::uniform4(any_number()),
            asked in proptest::collection::vec((any_number(), any_number()), 0..8),
        ) {
            let [size, refill, burst, until_full] = numbers;
            let state = json!({"ops": null, "bandwidth": {
                "size": size, "refill": refill, "burst": burst, "until_full": until_full,
            }});
            let Ok(state) = serde_json::from_value::<LimiterState>(state) else {
                return Ok(());
            };
            let mut now = Instant::now();
            let mut buckets = Buckets::restored(&state, now);
            prop_assert_eq!(buckets.save(now), state);
            for (tokens, passed) in asked {
                now += Duration::from_nanos(passed >> 4);
                let _ = buckets.admit(tokens, now);
                let saved = buckets.save(now);
                prop_assert!(BucketState::try_from(saved.bandwidth.unwrap().0).is_ok());
            }
        }

        /// Whenever it moves, nothing passes that would not have passed, and what would passes a nanosecond later.
        #[test]
        fn a_move_changes_nothing(
            size in 1..u64::MAX,
            refill in 1..LONGEST,
            asked in proptest::collection::vec((1..1u64 << 40, 0..1u64 << 40), 1..20),
        ) {
            let mut now = Instant::now();
            let rate = Rate { size, refill: Duration::from_nanos(refill), burst: 0 };
            let mut buckets = buckets(Some(rate), now);
            for (tokens, passed) in asked {
                let mut other = moved(&buckets, now, now);
                let level = |buckets: &Buckets| buckets.bandwidth.as_ref().unwrap().level(now);
                let saved = buckets.save(now).bandwidth.unwrap().0;
                prop_assert!(level(&other) <= level(&buckets) || saved.until_full == u64::MAX);
                let passes = buckets.admit(tokens, now);
                let late = now + Duration::from_nanos(1);
                if other.admit(tokens, now).is_ok() {
                    prop_assert_eq!(passes, Ok(()));
                } else if passes.is_ok() {
                    prop_assert_eq!(other.admit(tokens, late), Ok(()));
                }
                now += Duration::from_nanos(passed);
            }
        }
    }
}
