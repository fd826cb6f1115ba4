use std::{
    env,
    time::{Duration, Instant},
};

const SECONDS: u64 = 60;

/// When a guest has taken too long: a test then fails instead of hanging. No test depends on its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// In a minute, or in `$AMPOULE_TEST_TIMEOUT` seconds, for slow machines.
    pub(crate) fn from_now() -> Self {
        let seconds = match env::var("AMPOULE_TEST_TIMEOUT") {
            Ok(text) => text
                .parse()
                .expect("AMPOULE_TEST_TIMEOUT is a number of seconds"),
            Err(_) => SECONDS,
        };
        Self(Instant::now() + Duration::from_secs(seconds))
    }

    /// The time left; none when it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }
}

/// Waits until something holds of which nobody tells: `what`, for whoever reads why a test failed.
///
/// # Panics
/// When it takes too long.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::from_now();
    while !holds() {
        assert!(deadline.left().is_some(), "not in time: {what}");
        // Whoever is waited for may have the same processor.
        std::thread::sleep(Duration::from_millis(10));
    }
}
