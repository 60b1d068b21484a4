//! The data center's clock: it follows tokio's time, so that paused time moves it too.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::objects::meta;

/// A wall clock that starts at a given time and runs with tokio's (possibly paused) clock.
#[derive(Debug, Clone)]
pub struct Clock {
    base: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that shows `base` now.
    pub fn starting_at(base: Timestamp) -> Self {
        Clock { base, started: Instant::now() }
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        self.base.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    /// The time in the API's format with seconds.
    pub fn seconds(&self) -> String {
        meta::seconds(self.now())
    }

    /// The time in the API's format with microseconds.
    pub fn micros(&self) -> String {
        meta::micros(self.now())
    }
}
