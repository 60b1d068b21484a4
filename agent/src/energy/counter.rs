//! How an energy counter moved between two readings: growth, wraps, several wraps, resets.

use super::source::Fault;

/// Leave for late reads when a step is judged, milliseconds.
const SLACK_MS: u64 = 2_000;

/// How a counter moved between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It grew.
    Grew {
        /// By at least this much, microjoules.
        microjoules: u64,
        /// It began again at zero in between.
        wrapped: bool,
        /// It may have begun again more often than can be seen: by at most this much more, microjoules.
        unseen: u64,
    },
    /// It was set back, or jumped: what happened in between is not known.
    Reset,
}

/// Judges two readings of a counter that begins again at zero after `modulus` microjoules, taken `elapsed_ms` apart on a
/// thing that draws `limit_watts` at most.
pub fn step(before: u64, now: u64, modulus: u64, elapsed_ms: u64, limit_watts: u64) -> Step {
    let most = most_microjoules(elapsed_ms, limit_watts);
    let (microjoules, wrapped) = if now >= before {
        (now - before, false)
    } else if modulus > before {
        (modulus - before + now, true)
    } else {
        return Step::Reset;
    };
    if microjoules > most {
        return Step::Reset;
    }
    let unseen = match modulus {
        0 => 0,
        modulus => (most - microjoules) / modulus * modulus,
    };
    Step::Grew { microjoules, wrapped, unseen }
}

/// Microjoules that `limit_watts` make at most: 1,000 a watt and millisecond.
fn most_microjoules(elapsed_ms: u64, limit_watts: u64) -> u64 {
    limit_watts.saturating_mul(1_000).saturating_mul(elapsed_ms.saturating_add(SLACK_MS))
}

/// The counter of a powercap zone, which ends at `max_energy_range_uj`.
#[derive(Clone, Debug)]
pub struct RangedCounter {
    last: Option<u64>,
    range: u64,
    /// Whether every value so far is one that 32 bits of raw counts can give.
    raw: bool,
}

impl RangedCounter {
    /// A counter with the range that its zone states.
    pub fn new(range: u64) -> Self {
        Self { last: None, range, raw: range >= u64::from(u32::MAX) }
    }

    /// Where the counter begins again. The hardware counts 2^32 units, and the stated range is the microjoules of
    /// 2^32 - 1 of them, rounded down, so that the true modulus is one unit (15 to 61 microjoules) more. A counter with
    /// values between the units is no such hardware and ends one microjoule after its range.
    fn modulus(&self) -> u64 {
        let unit = (self.range as f64 / f64::from(u32::MAX)).round() as u64;
        self.range.saturating_add(if self.raw { unit.max(1) } else { 1 })
    }

    /// Takes a reading.
    ///
    /// # Errors
    /// At the first reading, and when the counter was set back.
    pub fn take(&mut self, now: u64, elapsed_ms: u64, limit_watts: u64) -> Result<(u64, bool, u64), Fault> {
        self.raw = self.raw && is_multiple_of_raw_unit(now, self.range);
        let Some(before) = self.last.replace(now) else { return Err(Fault::First) };
        match step(before, now, self.modulus(), elapsed_ms, limit_watts) {
            Step::Grew { microjoules, wrapped, unseen } => Ok((microjoules, wrapped, unseen)),
            Step::Reset => Err(Fault::Reset),
        }
    }

    /// Forgets the last reading: it was missed once.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// Whether `value` is some raw count times the unit, rounded down by the kernel.
fn is_multiple_of_raw_unit(value: u64, range: u64) -> bool {
    let unit = range as f64 / f64::from(u32::MAX);
    let count = (value as f64 / unit).round();
    (count * unit - value as f64).abs() <= 1.5
}

/// A counter of 64 bits that has no stated end: it may only grow.
#[derive(Clone, Debug, Default)]
pub struct EndlessCounter {
    last: Option<u64>,
}

impl EndlessCounter {
    /// Takes a reading in microjoules and gives the growth.
    ///
    /// # Errors
    /// At the first reading, when it ran backwards, and when it grew by more than can be.
    pub fn take(&mut self, now: u64, elapsed_ms: u64, limit_watts: u64) -> Result<u64, Fault> {
        let Some(before) = self.last.replace(now) else { return Err(Fault::First) };
        let grown = now.checked_sub(before).ok_or(Fault::Backwards)?;
        if grown > most_microjoules(elapsed_ms, limit_watts) {
            let watts = grown / 1_000 / elapsed_ms.max(1);
            return Err(Fault::Absurd { watts, limit: limit_watts });
        }
        Ok(grown)
    }

    /// Forgets the last reading: it was missed once.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What an Intel server states.
    const RANGE: u64 = 262_143_328_850;

    #[test]
    fn a_wrap_is_counted_and_a_reset_is_not() {
        assert_eq!(
            step(90, 20, 100, 1000, 4000),
            Step::Grew { microjoules: 30, wrapped: true, unseen: 11_999_999_900 }
        );
        // The counter began anew half way through its range: no node takes 131 kJ in a second.
        assert_eq!(step(131_000_000_000, 5, RANGE + 1, 1000, 4000), Step::Reset);
        assert_eq!(step(500, 5, 100, 1000, 4000), Step::Reset);
    }

    #[test]
    fn several_wraps_that_nobody_saw_are_a_bound_and_not_a_figure() {
        // 1,000 s at 4 kW at most are up to 4,008 kJ: fifteen ends of 262 kJ.
        let Step::Grew { microjoules, wrapped, unseen } = step(RANGE - 10, 20, RANGE + 1, 1_000_000, 4_000) else {
            panic!("a wrap was taken for a reset")
        };
        assert_eq!((microjoules, wrapped), (31, true));
        assert_eq!(unseen, 15 * (RANGE + 1));
        // At one look a second there is nothing that could hide.
        assert!(matches!(step(10, 20, RANGE + 1, 1_000, 4_000), Step::Grew { unseen: 0, .. }));
    }

    #[test]
    fn a_raw_counter_of_32_bits_loses_no_unit_at_its_end() {
        let unit = RANGE as f64 / f64::from(u32::MAX);
        let mut counter = RangedCounter::new(RANGE);
        let shown = |raw: u32| (f64::from(raw) * unit) as u64;
        assert_eq!(counter.take(shown(u32::MAX), 1_000, 4_000), Err(Fault::First));
        // One raw count further is zero.
        assert_eq!(counter.take(0, 1_000, 4_000).unwrap().0, unit.round() as u64);
    }

    #[test]
    fn a_counter_without_an_end_that_runs_backwards_is_told() {
        let mut counter = EndlessCounter::default();
        assert_eq!(counter.take(1_000, 1_000, 500), Err(Fault::First));
        assert_eq!(counter.take(900, 1_000, 500), Err(Fault::Backwards));
        assert_eq!(counter.take(1_900, 1_000, 500), Ok(1_000));
        assert!(matches!(counter.take(9_000_000_000_000, 1_000, 500), Err(Fault::Absurd { .. })));
    }

    #[test]
    fn a_million_random_wraps_lose_not_a_microjoule() {
        // SplitMix64, so that the run is the same everywhere.
        let mut state = 42_u64;
        let mut random = move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let range = RANGE;
        let (mut counter, mut value) = (RangedCounter::new(range), 12_345_u64);
        let _ = counter.take(value, 600_000, 4_000);
        let (mut spent, mut seen, mut wraps) = (0_u128, 0_u128, 0_u32);
        while wraps < 1_000_000 {
            // Less than one range between two looks.
            let used = random() % (range / 2) + range / 2;
            value = (value + used) % (range + 1);
            spent += u128::from(used);
            let (microjoules, wrapped, _) = counter.take(value, 600_000, 4_000).unwrap();
            seen += u128::from(microjoules);
            wraps += u32::from(wrapped);
        }
        assert_eq!(seen, spent);
    }

    proptest! {
        #[test]
        fn no_energy_comes_from_nowhere(before in any::<u64>(), now in any::<u64>(), modulus in any::<u64>(), elapsed in 0_u64..10_000_000) {
            if let Step::Grew { microjoules, unseen, .. } = step(before, now, modulus, elapsed, 4_000) {
                prop_assert!(microjoules.saturating_add(unseen) <= 4_000 * 1_000 * (elapsed + SLACK_MS));
            }
        }
    }
}
