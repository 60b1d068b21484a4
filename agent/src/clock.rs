//! The two clocks of the agent: one that counts on through suspend and never jumps, one for people.

use jiff::Timestamp;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since boot, suspend included.
    pub boot_ms: u64,
    /// Wall clock, only ever shown.
    pub wall: Timestamp,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { boot_ms: boot_ms(), wall: Timestamp::now() }
    }

    /// RFC 3339 with milliseconds.
    pub fn rfc3339(&self) -> String {
        format!("{:.3}", self.wall)
    }
}

/// Milliseconds since boot on `CLOCK_BOOTTIME`.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
    seconds.saturating_mul(1000).saturating_add(millis)
}
