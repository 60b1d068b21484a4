//! What a cumulative counter of joules says between two samples. Pure.
//!
//! - Joules become microjoules by rounding each sample, so increments telescope: their sum is exactly last minus first.
//! - A value below the one before is a reset: what it shows was used since then. What was used between the last sample
//!   and the reset is lost and is never guessed.
//! - A counter that restarts with a higher value (its sender kept its ledger) goes on; its start time alone resets nothing.
//! - The first sample of a series counts from zero only when the series is known to be new in the world (a pod that
//!   began while its node was heard); else it is a baseline, for its joules may be years old.
//! - Between samples further apart than three intervals the joules are still exact, but when they were used is not
//!   known: the span is reported as a gap and nothing is spread over it.

use crate::model::SeriesKind;

/// Samples further apart than this many intervals leave a gap.
pub const GAP_INTERVALS: i64 = 3;

/// One sample of a counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Unix milliseconds.
    pub time_ms: i64,
    /// Unix milliseconds since which it counts, if said.
    pub start_ms: Option<i64>,
    /// Joules.
    pub joules: f64,
}

/// What a run of samples adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Energy, microjoules; 64 bits hold no more than 2.56 GWh.
    pub microjoules: i128,
    /// Time between samples too far apart, milliseconds.
    pub gap_ms: i64,
    /// First sample, Unix milliseconds.
    pub first_ms: Option<i64>,
    /// Last sample, Unix milliseconds.
    pub last_ms: Option<i64>,
}

impl Tally {
    /// Adds another run of the same series.
    pub fn add(&mut self, other: Self) {
        self.microjoules += other.microjoules;
        self.gap_ms += other.gap_ms;
        self.first_ms = [self.first_ms, other.first_ms].into_iter().flatten().min();
        self.last_ms = [self.last_ms, other.last_ms].into_iter().flatten().max();
    }
}

/// Joules to whole microjoules, to the nearest.
pub fn microjoules(joules: f64) -> i128 {
    // Saturating by the cast's definition; a facility's meter passes 64 bits within days.
    (joules * 1e6).round() as i128
}

/// Microjoules that `next` adds to `previous`. `from_zero` says whether a first sample counts from zero.
pub fn increment(kind: SeriesKind, previous: Option<&Sample>, next: &Sample, from_zero: bool) -> i128 {
    let now = microjoules(next.joules).max(0);
    if kind == SeriesKind::Delta {
        return now;
    }
    match previous {
        Some(previous) => {
            let before = microjoules(previous.joules).max(0);
            if now >= before { now - before } else { now }
        }
        None if from_zero => now,
        None => 0,
    }
}

/// The time between two samples when it is too long, milliseconds.
pub fn gap(previous: &Sample, next: &Sample, interval_ms: i64) -> i64 {
    let apart = next.time_ms - previous.time_ms;
    if apart > GAP_INTERVALS * interval_ms { apart } else { 0 }
}

/// The usual time between samples: the median, once there are enough to have one.
pub fn usual_interval_ms(previous: Option<&Sample>, samples: &[Sample]) -> Option<i64> {
    let mut apart: Vec<i64> = previous
        .into_iter()
        .chain(samples)
        .collect::<Vec<_>>()
        .windows(2)
        .map(|w| w[1].time_ms - w[0].time_ms)
        .collect();
    if apart.len() < 4 {
        return None;
    }
    let middle = apart.len() / 2;
    Some(*apart.select_nth_unstable(middle).1)
}

/// Adds up a run of samples in order of time, `previous` being the one right before it.
pub fn tally(
    kind: SeriesKind,
    previous: Option<&Sample>,
    samples: &[Sample],
    from_zero: bool,
    interval_ms: i64,
) -> Tally {
    let mut sum = Tally {
        first_ms: samples.first().map(|s| s.time_ms),
        last_ms: samples.last().map(|s| s.time_ms),
        ..Tally::default()
    };
    let mut before = previous;
    for sample in samples {
        sum.microjoules += increment(kind, before, sample, from_zero);
        sum.gap_ms += before.map_or(0, |b| gap(b, sample, interval_ms));
        before = Some(sample);
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(time_ms: i64, joules: f64) -> Sample {
        Sample { time_ms, start_ms: Some(0), joules }
    }

    fn sum(samples: &[Sample]) -> Tally {
        tally(SeriesKind::Counter, None, samples, false, 10_000)
    }

    #[test]
    fn the_first_sample_of_an_old_counter_is_a_baseline() {
        assert_eq!(sum(&[sample(10_000, 5e6), sample(20_000, 5e6 + 1.25)]).microjoules, 1_250_000);
    }

    #[test]
    fn a_counter_that_is_new_in_the_world_counts_from_zero() {
        assert_eq!(increment(SeriesKind::Counter, None, &sample(60_000, 2.0), true), 2_000_000);
        assert_eq!(increment(SeriesKind::Counter, None, &sample(60_000, 2.0), false), 0);
    }

    #[test]
    fn a_reset_counts_what_the_new_counter_shows() {
        assert_eq!(sum(&[sample(10_000, 100.0), sample(20_000, 110.0), sample(30_000, 4.0)]).microjoules, 14_000_000);
    }

    #[test]
    fn a_restart_that_kept_its_ledger_goes_on() {
        let restarted = Sample { time_ms: 20_000, start_ms: Some(15_000), joules: 103.0 };
        assert_eq!(sum(&[sample(10_000, 100.0), restarted]).microjoules, 3_000_000);
    }

    #[test]
    fn a_long_silence_is_a_gap_and_its_joules_stay_exact() {
        let tally = sum(&[sample(10_000, 0.0), sample(20_000, 1.0), sample(80_000, 9.0)]);
        assert_eq!((tally.microjoules, tally.gap_ms), (9_000_000, 60_000));
        assert_eq!((tally.first_ms, tally.last_ms), (Some(10_000), Some(80_000)));
    }

    #[test]
    fn the_usual_interval_is_not_moved_by_one_silence() {
        let times = [0, 2_000, 4_000, 6_000, 60_000, 62_000, 64_000];
        let samples: Vec<_> = times.map(|t| sample(t, 0.0)).into();
        assert_eq!(usual_interval_ms(None, &samples), Some(2_000));
        assert_eq!(usual_interval_ms(None, &samples[..3]), None);
    }

    proptest! {
        #[test]
        fn adjacent_windows_add_up_exactly(steps in prop::collection::vec(0.0_f64..1e4, 2..40), cut in 1_usize..38) {
            let mut joules = 0.0;
            let samples: Vec<_> = steps.iter().enumerate().map(|(i, step)| { joules += step; sample(i as i64 * 10_000, joules) }).collect();
            let cut = cut.min(samples.len() - 1);
            let (left, right) = samples.split_at(cut);
            let whole = sum(&samples);
            let mut parts = sum(left);
            parts.add(tally(SeriesKind::Counter, left.last(), right, false, 10_000));
            prop_assert_eq!(parts, whole);
            prop_assert_eq!(whole.microjoules, microjoules(samples[samples.len() - 1].joules) - microjoules(samples[0].joules));
        }
    }
}
