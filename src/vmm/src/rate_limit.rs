//! Token buckets: how much a device may do in how much time.
mod state;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub use state::LimiterState;

/// A bucket of `size` tokens that an empty one is filled with in `refill`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that the bucket holds.
    pub size: u64,
    /// In what time that many come back.
    pub refill: Duration,
    /// Tokens that there are besides, once.
    pub burst: u64,
}

/// What is limited. Without a rate: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub bandwidth: Option<Rate>,
    /// Operations.
    pub ops: Option<Rate>,
}

/// Limits that several threads keep to together, and that change while they do.
#[derive(Debug, Default)]
pub struct Limiter {
    /// Spares the lock where nothing is limited.
    active: AtomicBool,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// What is left, in parts of a token: tokens times nanoseconds of `refill`. Less than nothing when more was taken than there was.
    level: i128,
    burst: u64,
    filled_at: Instant,
}

impl Limiter {
    /// From now on it is `limits`, with full buckets.
    pub fn set(&self, limits: Limits) {
        self.change(Some(limits.bandwidth), Some(limits.ops));
    }

    /// Sets each limit that is given, `None` inside to lift it, and leaves the other as it is.
    pub fn change(&self, bandwidth: Option<Option<Rate>>, ops: Option<Option<Rate>>) {
        let mut buckets = self.lock();
        let now = Instant::now();
        let bucket = |rate: Option<Rate>| rate.and_then(|rate| Bucket::new(rate, now));
        if let Some(rate) = bandwidth {
            buckets.bandwidth = bucket(rate);
        }
        if let Some(rate) = ops {
            buckets.ops = bucket(rate);
        }
        self.active.store(buckets.is_limited(), Ordering::Release);
    }

    /// Takes one operation of `bytes` bytes, or says when to ask again.
    ///
    /// What is larger than a bucket passes when it is full, on credit: what comes later waits for it, and the rate is kept.
    ///
    /// # Errors
    /// The time at which there may be enough.
    pub fn admit(&self, bytes: u64) -> Result<(), Instant> {
        if !self.active.load(Ordering::Acquire) {
            return Ok(());
        }
        self.lock().admit(bytes, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn is_limited(&self) -> bool {
        self.bandwidth.is_some() || self.ops.is_some()
    }

    fn admit(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        let asked = [(&mut self.bandwidth, bytes), (&mut self.ops, 1)];
        let mut wait = Duration::ZERO;
        for (bucket, tokens) in &asked {
            let bucket = bucket.as_ref();
            wait = wait.max(bucket.map_or(wait, |bucket| bucket.wait(*tokens, now)));
        }
        if wait > Duration::ZERO {
            return Err(now + wait);
        }
        for (bucket, tokens) in asked {
            if let Some(bucket) = bucket {
                bucket.take(tokens, now);
            }
        }
        Ok(())
    }
}

impl Bucket {
    /// A full bucket; none for a rate that limits nothing.
    fn new(rate: Rate, now: Instant) -> Option<Self> {
        (rate.size > 0 && !rate.refill.is_zero()).then(|| Self {
            rate,
            level: Self::full(rate),
            burst: rate.burst,
            filled_at: now,
        })
    }

    fn full(rate: Rate) -> i128 {
        i128::from(rate.size) * nanoseconds(rate.refill)
    }

    fn level(&self, now: Instant) -> i128 {
        let passed = nanoseconds(now.saturating_duration_since(self.filled_at));
        (self.level + passed * i128::from(self.rate.size)).min(Self::full(self.rate))
    }

    /// How long until `tokens` are in it, or it is full.
    fn wait(&self, tokens: u64, now: Instant) -> Duration {
        let from_bucket = tokens.saturating_sub(self.burst).min(self.rate.size);
        let needed = i128::from(from_bucket) * nanoseconds(self.rate.refill);
        let missing = (needed - self.level(now)).max(0);
        match from_bucket {
            0 => Duration::ZERO,
            _ => Duration::from_nanos(self.time_of(missing)),
        }
    }

    /// In how many nanoseconds `parts`, of which there are none or more, come back.
    fn time_of(&self, parts: i128) -> u64 {
        let size = i128::from(self.rate.size);
        let time = parts / size + i128::from(parts % size > 0);
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    fn take(&mut self, tokens: u64, now: Instant) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        let rest = i128::from(tokens - from_burst) * nanoseconds(self.rate.refill);
        self.level = self.level(now) - rest;
        self.filled_at = now;
    }
}

/// The longest time that counts, in nanoseconds: 146 years. Longer ones are as long.
const LONGEST: u64 = 1 << 62;

/// At most [`LONGEST`]: 2^64 tokens times 2^62 nanoseconds, and as much on credit, are below 2^127.
fn nanoseconds(duration: Duration) -> i128 {
    u64::try_from(duration.as_nanos())
        .map_or(LONGEST, |time| time.min(LONGEST))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn buckets(bandwidth: u64, ops: u64) -> (Buckets, Instant) {
        let now = Instant::now();
        let bucket = |size| {
            let rate = Rate {
                size,
                refill: SECOND,
                burst: 0,
            };
            Bucket::new(rate, now)
        };
        let buckets = Buckets {
            bandwidth: bucket(bandwidth),
            ops: bucket(ops),
        };
        (buckets, now)
    }

    #[test]
    fn what_is_not_limited_always_passes() {
        let limiter = Limiter::default();
        for _ in 0..1000 {
            assert_eq!(limiter.admit(u64::MAX), Ok(()));
        }
    }

    #[test]
    fn a_full_bucket_is_spent_and_comes_back_in_its_time() {
        let (mut buckets, now) = buckets(0, 4);
        for _ in 0..4 {
            assert_eq!(buckets.admit(512, now), Ok(()));
        }
        let again = buckets.admit(512, now).unwrap_err();
        assert!(again > now && again <= now + SECOND / 4);
        assert_eq!(buckets.admit(512, again), Ok(()));
        assert!(buckets.admit(512, again).is_err());
        // It never holds more than its size.
        let later = again + 100 * SECOND;
        let passed = (0..100).filter(|_| buckets.admit(512, later).is_ok());
        assert_eq!(passed.count(), 4);
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_on_credit() {
        let (mut buckets, now) = buckets(1000, 0);
        assert_eq!(buckets.admit(3000, now), Ok(()));
        let again = buckets.admit(1, now).unwrap_err();
        assert!(again >= now + 2 * SECOND && again <= now + 2 * SECOND + SECOND / 100);
    }

    #[test]
    fn a_burst_comes_once() {
        let now = Instant::now();
        let rate = Rate {
            size: 10,
            refill: SECOND,
            burst: 90,
        };
        let mut buckets = Buckets {
            bandwidth: None,
            ops: Bucket::new(rate, now),
        };
        assert_eq!(
            (0..200).filter(|_| buckets.admit(1, now).is_ok()).count(),
            100
        );
        let later = now + 100 * SECOND;
        assert_eq!(
            (0..200).filter(|_| buckets.admit(1, later).is_ok()).count(),
            10
        );
    }

    #[test]
    fn limits_change_one_by_one_and_go_again() {
        let limiter = Limiter::default();
        let slow = Rate {
            size: 1,
            refill: 1000 * SECOND,
            burst: 0,
        };
        limiter.set(Limits {
            bandwidth: None,
            ops: Some(slow),
        });
        assert!(limiter.admit(1).is_ok() && limiter.admit(1).is_err());
        limiter.change(Some(None), None);
        assert!(limiter.admit(1).is_err());
        limiter.change(None, Some(None));
        assert!(limiter.admit(1).is_ok() && limiter.admit(1).is_ok());
    }

    proptest! {
        /// Whoever asks whenever it is told to gets the rate, and no more.
        #[test]
        fn the_rate_is_kept(
            size in 1..u64::MAX,
            refill in 1..u64::MAX,
            requests in proptest::collection::vec(1..1u64 << 40, 1..50),
        ) {
            let now = Instant::now();
            let rate = Rate { size, refill: Duration::from_nanos(refill >> 8 | 1), burst: 0 };
            let mut buckets = Buckets { bandwidth: Bucket::new(rate, now), ops: None };
            let (mut time, mut taken) = (now, 0u128);
            for bytes in requests {
                while let Err(again) = buckets.admit(bytes, time) {
                    prop_assert!(again > time);
                    // Clocks end somewhere, and so does this test.
                    if again > now + Duration::from_secs(1 << 33) {
                        return Ok(());
                    }
                    time = again;
                }
                let passed = time.duration_since(now).as_nanos();
                // Before this one: a full bucket, and what came since, at most.
                prop_assert!(taken <= u128::from(size) + u128::from(size) * (passed + 1) / rate.refill.as_nanos() + (1 << 40));
                taken += u128::from(bytes);
            }
        }
    }
}
