//! The smallest and the largest number of the last rows, in constant state.
//!
//! Rows are gathered in buckets and the oldest bucket is dropped as a whole: the memory is as long as asked for, less
//! at most one bucket. May not judge: how far outside is strange is the caller's to say.

use serde::Serialize;

/// Buckets that the memory is divided into; more would only sharpen the moment of forgetting.
const BUCKETS: usize = 16;

/// A closed range of values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Smallest value.
    pub low: f64,
    /// Largest value.
    pub high: f64,
}

impl Bounds {
    const NONE: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };

    fn widen(&mut self, other: Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }

    /// Width; never zero, so that it may be divided by: a series that stood still is as wide as a millionth of its value.
    pub fn width(&self) -> f64 {
        let still = self.high.abs().max(self.low.abs()) * 1e-6;
        (self.high - self.low).max(still).max(1e-12)
    }

    /// How far `value` lies above the middle: 1 where it passes the upper bound by `margin` widths.
    pub fn above(&self, value: f64, margin: f64) -> f64 {
        let middle = self.low + (self.high - self.low) / 2.0;
        (value - middle) / (self.high - middle + margin * self.width())
    }

    /// How far `value` lies below the middle: 1 where it passes the lower bound by `margin` widths.
    pub fn below(&self, value: f64, margin: f64) -> f64 {
        Self { low: -self.high, high: -self.low }.above(-value, margin)
    }

    /// How far `value` lies from the middle on whichever side: 1 where it passes a bound by `margin` widths.
    pub fn outside(&self, value: f64, margin: f64) -> f64 {
        self.above(value, margin).max(self.below(value, margin))
    }
}

/// Extremes of the last rows.
#[derive(Clone, Debug)]
pub struct Extremes {
    buckets: [Bounds; BUCKETS],
    current: usize,
    rows_in_current: u32,
    rows_per_bucket: u32,
    heard: u32,
    bounds: Bounds,
}

impl Extremes {
    /// Remembers about `rows` rows.
    pub fn new(rows: u32) -> Self {
        Self {
            buckets: [Bounds::NONE; BUCKETS],
            current: 0,
            rows_in_current: 0,
            rows_per_bucket: (rows / BUCKETS as u32).max(1),
            heard: 0,
            bounds: Bounds::NONE,
        }
    }

    /// How many values were pushed, ever; the count stops at its largest.
    pub fn heard(&self) -> u32 {
        self.heard
    }

    /// Bounds of what was pushed and is not forgotten; nothing before the first row.
    pub fn bounds(&self) -> Option<Bounds> {
        (self.bounds.low <= self.bounds.high).then_some(self.bounds)
    }

    /// Takes one finite value.
    pub fn push(&mut self, value: f64) {
        let one = Bounds { low: value, high: value };
        if self.rows_in_current == self.rows_per_bucket {
            self.rows_in_current = 0;
            self.current = (self.current + 1) % BUCKETS;
            self.buckets[self.current] = Bounds::NONE;
            self.bounds = Bounds::NONE;
            for bucket in self.buckets {
                self.bounds.widen(bucket);
            }
        }
        self.rows_in_current += 1;
        self.heard = self.heard.saturating_add(1);
        self.buckets[self.current].widen(one);
        self.bounds.widen(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_at_one_where_it_passes_a_bound_by_the_margin() {
        let bounds = Bounds { low: 0.0, high: 10.0 };
        assert!((bounds.above(10.2, 0.02) - 1.0).abs() < 1e-12);
        assert!((bounds.below(-0.2, 0.02) - 1.0).abs() < 1e-12);
        assert!(bounds.above(10.1, 0.02) < 1.0);
        assert!(bounds.above(0.0, 0.02) < 0.0, "below the middle is not above it at all");
    }

    #[test]
    fn a_series_that_stood_still_has_a_width_to_divide_by() {
        assert!(Bounds { low: 0.0, high: 0.0 }.above(1.0, 0.02) > 1e6);
        assert!(Bounds { low: 5e9, high: 5e9 }.above(5e9, 0.02) < 1.0);
    }

    #[test]
    fn an_extreme_is_forgotten_after_the_memory_and_not_before() {
        let mut extremes = Extremes::new(160);
        assert_eq!(extremes.bounds(), None);
        extremes.push(100.0);
        for _ in 0..149 {
            extremes.push(1.0);
            assert_eq!(extremes.bounds().map(|bounds| bounds.high), Some(100.0));
        }
        for _ in 0..11 {
            extremes.push(1.0);
        }
        assert_eq!(extremes.bounds(), Some(Bounds { low: 1.0, high: 1.0 }));
    }
}
