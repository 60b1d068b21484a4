//! Distributions of what was measured.

use std::time::Duration;

/// Durations that were measured, in no order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution(Vec<Duration>);

impl Distribution {
    /// Adds one.
    pub fn add(&mut self, measured: Duration) {
        self.0.push(measured);
        self.0.sort_unstable();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that at least `percent` of all do not exceed; none when nothing was measured.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    /// The largest.
    pub fn max(&self) -> Option<Duration> {
        self.0.last().copied()
    }

    /// p50 / p99 / max and the count, in seconds.
    pub fn text(&self) -> String {
        let seconds = |duration: Option<Duration>| {
            duration.map_or_else(|| "-".to_owned(), |duration| format!("{:.2}", duration.as_secs_f64()))
        };
        let (p50, p99, max) = (self.percentile(50), self.percentile(99), self.max());
        format!("{} / {} / {} of {}", seconds(p50), seconds(p99), seconds(max), self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut measured = Distribution::default();
        assert_eq!(measured.percentile(50), None);
        for ms in [30, 10, 20, 40] {
            measured.add(Duration::from_millis(ms));
        }
        assert_eq!(measured.percentile(50), Some(Duration::from_millis(20)));
        assert_eq!(measured.percentile(99), Some(Duration::from_millis(40)));
        assert_eq!(measured.text(), "0.02 / 0.04 / 0.04 of 4");
    }
}
