//! Durations of the protocol. Every one is rounded to the side that keeps two writers apart.

use std::time::Duration;

use super::mutants::{Mutant, broken};

/// A reading of this process's own monotonic clock, which goes on while the machine sleeps; zero is arbitrary.
/// Readings of two machines are never compared.
pub type Mono = Duration;

/// Largest deviation of a clock's rate that the protocol allows, in percent (chrony may slew by 8 %).
const RHO_PERCENT: u32 = 10;

/// Timing of a site lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Duration D of a lease.
    pub lease: Duration,
    /// Time that the edge needs to stop once a grant has ended: a load balancer's check interval times its fall count,
    /// its time-out, and the killing of sessions.
    pub stop: Duration,
    /// A healthy site renews this often.
    pub renew: Duration,
    /// A failed request is tried again after this time. At 30 % loss a retry after 1 s would stop a healthy site some
    /// 270 times an hour, after 250 ms about 4 times.
    pub retry: Duration,
    /// One request may take this long, at most, before its fate counts as unknown.
    pub request: Duration,
    /// And this long at least: where answers come quickly a lost one is not waited for any longer.
    pub quick: Duration,
}

impl Timing {
    /// Timing for a lease duration.
    pub const fn of_lease(lease: Duration) -> Self {
        Self {
            lease,
            stop: Duration::from_secs(2),
            renew: Duration::from_secs(1),
            retry: Duration::from_millis(250),
            request: Duration::from_millis(900),
            quick: Duration::from_millis(150),
        }
    }

    /// How long after the send time of its oldest needed renewal a site may go on granting: D(1-rho) - t_stop.
    pub fn grant_for(&self) -> Duration {
        let slow = if broken(Mutant::NoSlowClocks) { 0 } else { RHO_PERCENT };
        (self.lease * (100 - slow) / 100).saturating_sub(self.stop)
    }

    /// How long a record must be seen unchanged before it may be superseded: D(1+rho).
    pub fn supersede_after(&self) -> Duration {
        if broken(Mutant::NoWait) {
            return Duration::ZERO;
        }
        let fast = if broken(Mutant::NoFastClocks) { 0 } else { RHO_PERCENT };
        (self.lease * (100 + fast)).div_ceil_by(100)
    }

    /// How long the edge needs to stop, on whatever clock it is counted: t_stop(1+rho)/(1-rho).
    pub fn edge_stops_within(&self) -> Duration {
        (self.stop * (100 + RHO_PERCENT)).div_ceil_by(100 - RHO_PERCENT)
    }

    /// How long a released group stays silent when not every agent acknowledged: D(1-rho)(1+rho)/(1-rho).
    pub fn release_wait(&self) -> Duration {
        self.supersede_after()
    }

    /// How long after the send time of its oldest needed renewal a site's incarnation may go on: D(1-rho). Before, nobody
    /// can have superseded it; after, nobody can tell without new records.
    pub fn life(&self) -> Duration {
        self.lease * (100 - RHO_PERCENT) / 100
    }

    /// A register that was not heard for this long may have been restored in between: what it shows is timed anew, and it
    /// counts again after D(1+rho). To restore an etcd interrupts its API server for longer.
    pub fn out_of_sight(&self) -> Duration {
        self.lease.min(Duration::from_secs(10)) * 5 / 6
    }

    /// A record that has not changed for this long raises a suspicion: two renewals and their retries are overdue.
    pub fn suspect_after(&self) -> Duration {
        self.renew * 2 + self.retry * 2
    }
}

trait DivCeil {
    fn div_ceil_by(self, by: u32) -> Self;
}

impl DivCeil for Duration {
    fn div_ceil_by(self, by: u32) -> Self {
        let nanos = self.as_nanos().div_ceil(u128::from(by));
        Self::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_six_seconds_a_site_stops_at_3_4_and_another_starts_at_6_6() {
        let timing = Timing::of_lease(Duration::from_secs(6));
        assert_eq!(timing.grant_for(), Duration::from_millis(3_400));
        assert_eq!(timing.supersede_after(), Duration::from_millis(6_600));
    }

    #[test]
    fn at_the_worst_clock_rates_the_old_holder_has_stopped_before_the_new_one_starts() {
        for seconds in [6, 30, 60] {
            let timing = Timing::of_lease(Duration::from_secs(seconds));
            // The old holder's clock runs slow, the superseder's fast.
            let stopped = (timing.grant_for() + timing.stop).as_secs_f64() / 0.9;
            let started = timing.supersede_after().as_secs_f64() / 1.1;
            assert!(stopped <= started + 1e-9, "{stopped} > {started}");
        }
    }
}
