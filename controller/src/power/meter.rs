//! Power to energy: whole microjoules, only between two good readings that are close to each other. Pure.
//!
//! Between readings the power is taken for a straight line. What lies between readings that are too far apart is a gap and
//! is not filled, unless the BMC counts energy itself: then the counter says exactly what was used in between, though not
//! when.

use std::time::Duration;

/// What the supplies of one machine can give at most; a counter that claims more was reset or lies. Milliwatts.
const MOST_MILLIWATTS: u128 = 50_000_000;

/// A good reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When, on the caller's monotonic clock.
    pub at: Duration,
    /// Power.
    pub milliwatts: u64,
    /// The BMC's own counter.
    pub energy_joules: Option<f64>,
}

/// What a reading added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Energy since the reading before.
    pub microjoules: u64,
    /// Time of which nothing is known.
    pub gap: Duration,
    /// The energy is from the BMC's own counter, over a gap in the readings.
    pub counted: bool,
}

/// Adds up one machine.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    last: Option<Point>,
    /// Half a microjoule that the last division left over.
    half: bool,
}

impl Meter {
    /// Takes a reading; `apart` is the longest time between two of them that is no gap.
    pub fn take(&mut self, point: Point, apart: Duration) -> Added {
        let Some(before) = self.last.replace(point) else { return Added::default() };
        let elapsed = point.at.saturating_sub(before.at);
        if elapsed <= apart {
            // Milliwatts times milliseconds are microjoules.
            let milliseconds = elapsed.as_millis();
            let twice = u128::from(before.milliwatts + point.milliwatts) * milliseconds
                + u128::from(std::mem::take(&mut self.half));
            self.half = twice % 2 == 1;
            // 50 kW for a minute are far below 2^64 uJ.
            return Added { microjoules: u64::try_from(twice / 2).unwrap_or(u64::MAX), ..Added::default() };
        }
        match counted(&before, &point, elapsed) {
            Some(microjoules) => Added { microjoules, gap: Duration::ZERO, counted: true },
            None => Added { gap: elapsed, ..Added::default() },
        }
    }
}

fn counted(before: &Point, now: &Point, elapsed: Duration) -> Option<u64> {
    let used = now.energy_joules? - before.energy_joules?;
    let most = MOST_MILLIWATTS * elapsed.as_millis();
    // A counter that stands still over a gap of a running machine has too coarse a step, or does not count.
    let plausible = used.is_finite() && used > 0.0;
    let microjoules = (used * 1e6).round();
    (plausible && microjoules <= most as f64).then_some(microjoules as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APART: Duration = Duration::from_secs(30);

    fn point(at_ms: u64, milliwatts: u64, energy_joules: Option<f64>) -> Point {
        Point { at: Duration::from_millis(at_ms), milliwatts, energy_joules }
    }

    #[test]
    fn energy_is_the_area_under_the_line_between_two_readings() {
        let mut meter = Meter::default();
        assert_eq!(meter.take(point(0, 100_000, None), APART), Added::default(), "the first is a beginning");
        assert_eq!(meter.take(point(10_000, 200_000, None), APART).microjoules, 1_500_000_000);
    }

    #[test]
    fn readings_far_apart_leave_a_gap() {
        let mut meter = Meter::default();
        meter.take(point(0, 100_000, None), APART);
        let added = meter.take(point(31_000, 100_000, None), APART);
        assert_eq!(added, Added { microjoules: 0, gap: Duration::from_secs(31), counted: false });
        assert_eq!(meter.take(point(41_000, 100_000, None), APART).microjoules, 1_000_000_000);
    }

    #[test]
    fn the_bmcs_own_counter_says_what_a_gap_took() {
        let mut meter = Meter::default();
        meter.take(point(0, 100_000, Some(5_000.0)), APART);
        let added = meter.take(point(600_000, 100_000, Some(65_000.0)), APART);
        assert_eq!(added, Added { microjoules: 60_000_000_000, gap: Duration::ZERO, counted: true });
    }

    #[test]
    fn a_counter_that_was_reset_stands_still_or_claims_the_absurd_fills_nothing() {
        for after in [Some(10.0), Some(5_000.0), Some(1e15), Some(f64::NAN), None] {
            let mut meter = Meter::default();
            meter.take(point(0, 100_000, Some(5_000.0)), APART);
            let added = meter.take(point(600_000, 100_000, after), APART);
            assert_eq!((added.microjoules, added.gap), (0, Duration::from_secs(600)), "{after:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_to_rounding(steps in proptest::collection::vec((1_u64..30_000, 0_u64..2_000_000), 2..100)) {
            let mut meter = Meter::default();
            let (mut at, mut sum, mut twice, mut before) = (0, 0_u128, 0_u128, None);
            for (step, milliwatts) in steps {
                at += step;
                sum += u128::from(meter.take(point(at, milliwatts, None), APART).microjoules);
                if let Some(before) = before.replace(milliwatts) {
                    twice += u128::from(before + milliwatts) * u128::from(step);
                }
            }
            prop_assert_eq!(sum, twice / 2);
        }
    }
}
