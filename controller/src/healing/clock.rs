//! One clock for everything that healing decides: wall time at the start, carried on by the monotonic clock. A step of
//! the wall clock neither ends a cooldown nor stretches a hold.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

pub(crate) struct SteadyClock {
    wall: Timestamp,
    start: Instant,
}

impl SteadyClock {
    pub(crate) fn starting_at(wall: Timestamp) -> Self {
        Self { wall, start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::ZERO);
        self.wall.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    /// The moment on the monotonic clock, at the latest in a day: nobody sleeps longer without looking.
    pub(crate) fn instant_of(&self, at: Timestamp) -> Instant {
        let ahead = Duration::try_from(at.duration_since(self.now())).unwrap_or_default();
        Instant::now() + ahead.min(Duration::from_secs(86_400))
    }
}
