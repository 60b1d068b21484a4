//! Counters that only grow, over a window: how much was added in the last minutes. A counter that goes back was reset
//! with its driver and begins anew.

use std::collections::{BTreeMap, VecDeque};

/// Readings kept of one counter; older ones are thinned by the window, these bound it.
const MAX_READINGS: usize = 128;
/// Counters that are followed; behind that, new ones are left out.
const MAX_COUNTERS: usize = 4096;
/// Milliseconds of a minute.
pub const MINUTE_MS: u64 = 60_000;

/// Counters by name, over one window.
#[derive(Debug)]
pub struct Counters {
    window_ms: u64,
    readings: BTreeMap<String, VecDeque<(u64, u64)>>,
}

impl Counters {
    /// Counters over a window, milliseconds.
    pub fn new(window_ms: u64) -> Self {
        Self { window_ms, readings: BTreeMap::new() }
    }

    /// Notes a reading at milliseconds since boot, and gives what was added within the window before it.
    pub fn add(&mut self, name: &str, value: u64, now_ms: u64) -> u64 {
        if !self.readings.contains_key(name) && self.readings.len() >= MAX_COUNTERS {
            return 0;
        }
        let window = self.window_ms;
        let readings = self.readings.entry(name.to_owned()).or_default();
        if readings.back().is_some_and(|(_, last)| value < *last) {
            readings.clear();
        }
        // As many readings as there is room for, evenly spread: the newest one moves until it is far enough from the last.
        let spacing = window / (MAX_READINGS as u64 - 2);
        let count = readings.len();
        if count >= 2 && now_ms.saturating_sub(readings[count - 2].0) < spacing {
            readings.pop_back();
        }
        readings.push_back((now_ms, value));
        while readings.len() > MAX_READINGS
            || readings.get(1).is_some_and(|(at, _)| now_ms.saturating_sub(*at) >= window)
        {
            readings.pop_front();
        }
        readings.front().map_or(0, |(_, first)| value - first)
    }

    /// What was added within the window, of a counter that is known to stand where it stood.
    pub fn again(&mut self, name: &str, now_ms: u64) -> u64 {
        match self.readings.get(name).and_then(|readings| readings.back()).copied() {
            Some((_, value)) => self.add(name, value, now_ms),
            None => 0,
        }
    }

    /// Forgets counters that were not read since.
    pub fn forget_before(&mut self, ms: u64) {
        self.readings.retain(|_, readings| readings.back().is_some_and(|(at, _)| *at >= ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_within_the_window_is_told_and_what_is_older_is_not() {
        let mut counters = Counters::new(60_000);
        assert_eq!(counters.add("a", 100, 0), 0);
        assert_eq!(counters.add("a", 110, 30_000), 10);
        assert_eq!(counters.add("a", 110, 60_000), 10);
        assert_eq!(counters.add("a", 110, 91_000), 0);
    }

    #[test]
    fn a_counter_that_went_back_begins_anew() {
        let mut counters = Counters::new(60_000);
        counters.add("a", 100, 0);
        assert_eq!(counters.add("a", 3, 1_000), 0);
        assert_eq!(counters.add("a", 4, 2_000), 1);
    }

    #[test]
    fn memory_is_bounded_however_often_a_counter_is_read() {
        let mut counters = Counters::new(3_600_000);
        for second in 0..100_000 {
            counters.add("a", second, second * 1000);
        }
        assert!(counters.readings["a"].len() <= MAX_READINGS);
        assert!((3500..=3700).contains(&counters.add("a", 100_000, 100_000_000)));
    }
}
