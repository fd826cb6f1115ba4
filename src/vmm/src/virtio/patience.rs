//! How long a thread looks at a ring for more before it sleeps.
//!
//! A sleep costs both sides: a driver has to leave its guest to ring, and the thread comes back some ten microseconds later. Where the next
//! request comes sooner than that, it is cheaper to look for it. How long is learned, as KVM does for halted processors and
//! QEMU for its I/O threads: where looking would have sufficed it looks for longer the next time, and where the ring was quiet for
//! longer than it would ever look, it does not look at all.
use std::{
    hint,
    time::{Duration, Instant},
};

use rustix::thread::sched_getaffinity;

/// The first step.
const SHORT: Duration = Duration::from_micros(4);
/// It never looks for longer.
const LONG: Duration = Duration::from_micros(32);

/// What one thread has learned.
#[derive(Debug)]
pub(crate) struct Patience {
    now: Duration,
    most: Duration,
}

impl Patience {
    /// None yet; never any where there is a single processor: whoever is waited for needs it.
    pub(crate) fn new() -> Self {
        let alone = sched_getaffinity(None).is_ok_and(|processors| processors.count() == 1);
        Self {
            now: Duration::ZERO,
            most: if alone { Duration::ZERO } else { LONG },
        }
    }

    /// Since when there is nothing to do, where that is worth knowing.
    pub(crate) fn begin(&self) -> Option<Instant> {
        (!self.most.is_zero()).then(Instant::now)
    }

    /// Looks until there is something to do or patience is at its end; whether there is.
    pub(crate) fn look(&self, begun: Option<Instant>, found: impl Fn() -> bool) -> bool {
        let Some(end) = begun.map(|begun| begun + self.now) else {
            return false;
        };
        while !self.now.is_zero() && Instant::now() < end {
            if found() {
                return true;
            }
            hint::spin_loop();
        }
        false
    }

    /// It slept until now, after it had looked.
    pub(crate) fn learn(&mut self, begun: Option<Instant>) {
        let Some(quiet) = begun.map(|begun| begun.elapsed()) else {
            return;
        };
        self.now = match quiet > self.most {
            true => Duration::ZERO,
            false => (self.now * 2).clamp(SHORT, self.most),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn patience(now: Duration) -> Patience {
        Patience { now, most: LONG }
    }

    fn ago(time: Duration) -> Option<Instant> {
        Instant::now().checked_sub(time)
    }

    #[test]
    fn it_looks_for_longer_where_that_would_have_sufficed_up_to_a_bound() {
        let mut patience = patience(Duration::ZERO);
        let expected = [4, 8, 16, 32, 32].map(Duration::from_micros);
        for expected in expected {
            // Nothing but a moment has passed; a busy host may make it long, and is then taken for one that was quiet.
            let begun = patience.begin();
            patience.learn(begun);
            if patience.now.is_zero() {
                return;
            }
            assert_eq!(patience.now, expected);
        }
    }

    #[test]
    fn it_does_not_look_after_a_long_sleep() {
        let mut patience = patience(LONG);
        patience.learn(ago(Duration::from_millis(1)));
        assert_eq!(patience.now, Duration::ZERO);
        assert!(!patience.look(patience.begin(), || unreachable!("it does not look")));
    }

    #[test]
    fn it_finds_what_comes_while_it_looks_and_gives_up_on_what_does_not() {
        let patience = patience(Duration::from_secs(60));
        let looks = Cell::new(0);
        let found = patience.look(patience.begin(), || {
            looks.set(looks.get() + 1);
            looks.get() == 3
        });
        assert!(found);
        assert!(!super::tests::patience(LONG).look(ago(LONG), || false));
    }

    #[test]
    fn alone_it_never_looks() {
        let mut patience = Patience {
            now: Duration::ZERO,
            most: Duration::ZERO,
        };
        assert_eq!(patience.begin(), None);
        patience.learn(None);
        assert!(!patience.look(None, || unreachable!("it does not look")));
    }
}
