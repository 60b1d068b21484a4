//! Which table answers for which part of a window: raw points at its edges and for what is not rolled up yet,
//! five-minute and hourly sums in between. Pure.
//!
//! A sample belongs to the window that holds its time, a roll-up bucket to the window that holds its start, so adjacent
//! windows never count one twice or lose one.

use super::{FIVE_MINUTES_MS, HOUR_MS};

/// A part of a window, from its first millisecond to the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Raw points.
    Raw(i64, i64),
    /// Five-minute sums.
    Five(i64, i64),
    /// Hourly sums.
    Hour(i64, i64),
}

/// How far back the tables reach, Unix milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floors {
    /// Raw points before this are gone.
    pub raw_ms: i64,
    /// Five-minute sums before this are gone.
    pub five_ms: i64,
}

fn floor(time_ms: i64, step_ms: i64) -> i64 {
    time_ms.div_euclid(step_ms) * step_ms
}

fn ceil(time_ms: i64, step_ms: i64) -> i64 {
    floor(time_ms + step_ms - 1, step_ms)
}

/// The parts that answer for `[from_ms, to_ms)` of a series that is rolled up until `rolled_until_ms` (whole buckets).
pub fn parts(from_ms: i64, to_ms: i64, rolled_until_ms: i64, floors: Floors) -> Vec<Part> {
    let mut parts = Vec::with_capacity(5);
    let mut push = |part: Part| {
        let (Part::Raw(a, b) | Part::Five(a, b) | Part::Hour(a, b)) = part;
        if a < b {
            parts.push(part);
        }
    };
    if rolled_until_ms <= from_ms {
        push(Part::Raw(from_ms, to_ms));
        return parts;
    }
    let first = ceil(from_ms, FIVE_MINUTES_MS);
    if from_ms >= floors.raw_ms {
        push(Part::Raw(from_ms, first.min(to_ms)));
    }
    if first >= to_ms {
        // Within one bucket: its raw points say it, or it belongs to the window that holds its start.
        return parts;
    }
    let last = if to_ms >= rolled_until_ms {
        rolled_until_ms
    } else if floor(to_ms, FIVE_MINUTES_MS) >= floors.raw_ms {
        floor(to_ms, FIVE_MINUTES_MS)
    } else {
        ceil(to_ms, FIVE_MINUTES_MS)
    };
    let last = last.max(first);
    // Where five-minute sums are gone the hours that start in the window answer, from there on both.
    let old = last.min(floors.five_ms);
    push(Part::Hour(ceil(first, HOUR_MS), ceil(old, HOUR_MS)));
    let fine = first.max(floors.five_ms);
    let (first_hour, last_hour) = (ceil(fine, HOUR_MS), floor(last, HOUR_MS));
    if first_hour < last_hour {
        push(Part::Five(fine, first_hour));
        push(Part::Hour(first_hour, last_hour));
        push(Part::Five(last_hour, last));
    } else {
        push(Part::Five(fine, last));
    }
    push(Part::Raw(last, to_ms));
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEPT: Floors = Floors { raw_ms: 0, five_ms: 0 };

    #[test]
    fn what_is_not_rolled_up_is_read_raw() {
        assert_eq!(parts(1_000, 9_000, i64::MIN, KEPT), [Part::Raw(1_000, 9_000)]);
    }

    #[test]
    fn a_day_is_hours_with_fine_edges() {
        let (from, to) = (HOUR_MS - 400_000, 5 * HOUR_MS + 700_000);
        assert_eq!(
            parts(from, to, 5 * HOUR_MS + 600_000, KEPT),
            [
                Part::Raw(3_200_000, 3_300_000),
                Part::Five(3_300_000, HOUR_MS),
                Part::Hour(HOUR_MS, 5 * HOUR_MS),
                Part::Five(5 * HOUR_MS, 5 * HOUR_MS + 600_000),
                Part::Raw(5 * HOUR_MS + 600_000, to),
            ]
        );
    }

    #[test]
    fn beyond_the_raw_points_whole_buckets_answer() {
        let floors = Floors { raw_ms: 100 * HOUR_MS, five_ms: 0 };
        assert_eq!(parts(1_000, 400_000, 100 * HOUR_MS, floors), [Part::Five(300_000, 600_000)]);
    }

    /// The stretches of time that the parts stand for.
    fn covered(parts: &[Part]) -> Vec<(i64, i64)> {
        parts
            .iter()
            .map(|p| match p {
                Part::Raw(a, b) | Part::Five(a, b) | Part::Hour(a, b) => (*a, *b),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn with_everything_kept_the_parts_are_the_window(from in 0_i64..50_000_000, length in 1_i64..50_000_000, rolled in 0_i64..400) {
            let to = from + length;
            let covered = covered(&parts(from, to, rolled * FIVE_MINUTES_MS, KEPT));
            prop_assert_eq!(covered.first().map(|c| c.0), Some(from));
            prop_assert_eq!(covered.last().map(|c| c.1), Some(to));
            prop_assert!(covered.windows(2).all(|w| w[0].1 == w[1].0), "{:?}", covered);
        }

        #[test]
        fn adjacent_windows_share_nothing(a in 0_i64..60_000_000, b in 0_i64..60_000_000, c in 0_i64..60_000_000, raw in 0_i64..16, five in 0_i64..10) {
            let mut cuts = [a, b, c];
            cuts.sort_unstable();
            let floors = Floors { raw_ms: raw * HOUR_MS, five_ms: five.min(raw) * HOUR_MS };
            let rolled = 17 * HOUR_MS;
            let mut both = covered(&parts(cuts[0], cuts[1], rolled, floors));
            both.extend(covered(&parts(cuts[1], cuts[2], rolled, floors)));
            prop_assert!(both.windows(2).all(|w| w[0].1 <= w[1].0), "{:?}", both);
        }
    }
}
