//! A power sensor as energy: what it said now and before, over the time between; and whether it can be believed.

use super::source::{Fault, Hints};

/// The same figure for this long while the load changed is a sensor that hangs: power meters of servers show whole watts,
/// so that an idle one may well stay for minutes.
const STUCK_MS: u64 = 300_000;
/// Two readings that are further apart say nothing about the time between, milliseconds.
const TOO_FAR_MS: u64 = 10_000;
/// Change of the load meanwhile, as a share of all CPU time.
const STUCK_LOAD: f64 = 0.3;

/// Integrates one power sensor.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    last: Option<u64>,
    /// What rounding left over, in halves of a nanojoule.
    carry: u64,
    same_ms: u64,
    load: Option<(f64, f64)>,
    zero_is_fine: bool,
    averages: bool,
}

impl Gauge {
    /// A gauge of something that may be switched off, such as a card.
    pub fn that_may_rest() -> Self {
        Self { zero_is_fine: true, ..Self::default() }
    }

    /// The same for a sensor whose figure is the average since it was last renewed, not the power of one moment.
    pub fn of_averages(self) -> Self {
        Self { averages: true, ..self }
    }

    /// Takes a reading in microwatts and gives the energy since the one before, microjoules.
    ///
    /// # Errors
    /// At the first reading, and for figures that cannot be.
    pub fn take(&mut self, microwatts: i64, hints: &Hints) -> Result<u64, Fault> {
        let checked = self.check(microwatts, hints);
        let before = self.last.filter(|_| hints.elapsed_ms <= TOO_FAR_MS);
        match checked {
            Ok(now) => {
                self.last = Some(now);
                let before = before.ok_or(Fault::First)?;
                let before = if self.averages { now } else { before };
                // Microwatts times milliseconds are nanojoules; the mean of two figures, in halves.
                let halves = u128::from(before) + u128::from(now);
                let halves = halves * u128::from(hints.elapsed_ms) + u128::from(self.carry);
                self.carry = (halves % 2_000) as u64;
                Ok(u64::try_from(halves / 2_000).unwrap_or(u64::MAX))
            }
            Err(fault) => {
                // A figure that hangs is still compared with the next one.
                if !matches!(fault, Fault::Stuck { .. }) {
                    self.last = None;
                }
                Err(fault)
            }
        }
    }

    /// Forgets the last reading: it was missed once.
    pub fn forget(&mut self) {
        self.last = None;
    }

    fn check(&mut self, microwatts: i64, hints: &Hints) -> Result<u64, Fault> {
        let now = u64::try_from(microwatts).map_err(|_| Fault::Negative)?;
        if now == 0 && !self.zero_is_fine {
            return Err(Fault::Zero);
        }
        if now > hints.limit_watts.saturating_mul(1_000_000) {
            return Err(Fault::Absurd { watts: now / 1_000_000, limit: hints.limit_watts });
        }
        if self.last != Some(now) {
            (self.same_ms, self.load) = (0, None);
        } else if let Some(load) = hints.utilization {
            self.same_ms = self.same_ms.saturating_add(hints.elapsed_ms);
            let (low, high) = self.load.get_or_insert((load, load));
            (*low, *high) = (low.min(load), high.max(load));
            if self.same_ms >= STUCK_MS && *high - *low >= STUCK_LOAD {
                return Err(Fault::Stuck { seconds: self.same_ms / 1_000 });
            }
        }
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hints(utilization: f64) -> Hints {
        Hints { elapsed_ms: 1_000, limit_watts: 5_000, utilization: Some(utilization) }
    }

    #[test]
    fn energy_is_the_mean_of_two_readings_over_the_time_between() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.take(100_000_000, &hints(0.1)), Err(Fault::First));
        assert_eq!(gauge.take(200_000_000, &hints(0.1)), Ok(150_000_000));
    }

    #[test]
    fn sensors_that_lie_give_a_word_and_no_energy() {
        let mut gauge = Gauge::default();
        let _ = gauge.take(100_000_000, &hints(0.1));
        assert_eq!(gauge.take(0, &hints(0.1)), Err(Fault::Zero));
        assert_eq!(gauge.take(-3, &hints(0.1)), Err(Fault::Negative));
        assert_eq!(gauge.take(9_000_000_000, &hints(0.1)), Err(Fault::Absurd { watts: 9_000, limit: 5_000 }));
        // After a figure that cannot be there is none to take the mean with.
        assert_eq!(gauge.take(100_000_000, &hints(0.1)), Err(Fault::First));
        assert_eq!(gauge.take(100_000_000, &hints(0.1)), Ok(100_000_000));
    }

    #[test]
    fn the_same_figure_is_only_suspect_while_the_load_changes() {
        let mut gauge = Gauge::default();
        let _ = gauge.take(100_000_000, &hints(0.1));
        for _ in 0..1_000 {
            assert!(gauge.take(100_000_000, &hints(0.1)).is_ok(), "an idle node stays the same");
        }
        assert_eq!(gauge.take(100_000_000, &hints(0.6)), Err(Fault::Stuck { seconds: 1_001 }));
        assert!(gauge.take(100_000_000, &hints(0.6)).is_err());
        assert!(gauge.take(150_000_000, &hints(0.6)).is_ok(), "it moves again");
    }

    proptest! {
        #[test]
        fn rounding_loses_nothing_over_time(microwatts in 1_i64..1_000_000, looks in 1_u64..500, elapsed_ms in 1_u64..2_000) {
            let mut gauge = Gauge::default();
            let hints = Hints { elapsed_ms, limit_watts: 5_000, utilization: None };
            let _ = gauge.take(microwatts, &hints);
            let sum: u64 = (0..looks).map(|_| gauge.take(microwatts, &hints).unwrap()).sum();
            let exact = microwatts as u64 * looks * elapsed_ms / 1_000;
            prop_assert!(exact.abs_diff(sum) <= 1, "{} {}", exact, sum);
        }
    }
}
