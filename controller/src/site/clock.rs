//! The process's own monotonic clock.

use rustix::time::{ClockId, clock_gettime};

use crate::quorum::Mono;

/// `CLOCK_BOOTTIME`: goes on while the machine sleeps, so that a lease cannot outlive a suspend.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl BootClock {
    /// Time since this machine booted.
    pub fn now(self) -> Mono {
        let time = clock_gettime(ClockId::Boottime);
        Mono::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}
