//! How often somebody may ask: a bucket of tokens for each key, a bounded number of keys. No clock: the time is given.

use std::{collections::HashMap, time::Instant};

use parking_lot::Mutex;

/// Keys that are remembered; beyond it full buckets, which say nothing, are forgotten.
const KEYS: usize = 10_000;

/// A limit per key.
#[derive(Debug)]
pub struct Limiter {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<String, (f64, Instant)>>,
}

impl Limiter {
    /// `burst` at once, then `per_second`.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, buckets: Mutex::new(HashMap::new()) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// Seconds after which there is one again.
    pub fn take(&self, key: &str, now: Instant) -> Result<(), u64> {
        let mut buckets = self.buckets.lock();
        let (left, since) = buckets.get(key).copied().unwrap_or((self.burst, now));
        let left = (left + now.saturating_duration_since(since).as_secs_f64() * self.per_second).min(self.burst);
        if left < 1.0 {
            return Err(((1.0 - left) / self.per_second).ceil().max(1.0) as u64);
        }
        if buckets.len() >= KEYS && !buckets.contains_key(key) {
            let (per_second, burst) = (self.per_second, self.burst);
            buckets.retain(|_, (left, since)| {
                *left + now.saturating_duration_since(*since).as_secs_f64() * per_second < burst
            });
            if buckets.len() >= KEYS {
                return Err(1);
            }
        }
        buckets.insert(key.to_owned(), (left - 1.0, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_let_through_then_the_pace_and_each_key_has_its_own() {
        let limiter = Limiter::new(0.5, 3.0);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limiter.take("a", start), Ok(()));
        }
        assert_eq!(limiter.take("a", start), Err(2));
        assert_eq!(limiter.take("b", start), Ok(()));
        assert_eq!(limiter.take("a", start + Duration::from_secs(2)), Ok(()));
        assert!(limiter.take("a", start + Duration::from_secs(2)).is_err());
    }
}
