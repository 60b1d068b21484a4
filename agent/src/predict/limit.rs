//! One series with a limit: whether its forecast is worth telling, what was told last, and when that no longer holds.
//!
//! What is told changes seldom: it is stated anew when the forecast has moved by a fifth of the time that is left, and
//! withdrawn when it does not hold for a while. Pure.

use serde::{Deserialize, Serialize};

use super::{
    Now, Told,
    course::Course,
    forecast::{Forecast, forecast},
    rules::LimitRule,
    words,
};
use crate::sources::series::{Direction, Reading};

/// Judgements in a row that agree before something is told; one a shortest block.
const AGREE: u32 = 3;
/// Judgements in a row that do not hold before it is withdrawn, and so many when the series fell back.
const CALM: (u32, u32) = (20, 3);
/// Share of the way to the limit that a fall is.
const FALL: f64 = 0.1;
/// What is told stays until farther away than this many horizons.
const STAY: f64 = 1.5;
/// Share of the time left by which the expected time, or a bound, moves before it is stated anew.
const MOVED: (f64, f64) = (0.2, 0.35);

/// A series with a limit, remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limited {
    course: Course,
    told: Option<Told>,
    /// Level at which it was told, or the highest since.
    level: f64,
    agree: u32,
    calm: u32,
    judged: u64,
}

/// Where a series ends: rising towards `limit`, as all are taken to.
struct End {
    value: f64,
    limit: f64,
}

fn end(reading: &Reading, rule: &LimitRule) -> Option<End> {
    let limit = reading.limit?;
    match reading.direction {
        Direction::Fills => Some(End { value: reading.value, limit: limit * rule.full }),
        Direction::Drains => Some(End { value: -reading.value, limit: -(limit + rule.reserve) }),
        Direction::Counts | Direction::Level => None,
    }
}

impl Limited {
    /// Of a series that is read every so often, milliseconds.
    pub fn new(interval_ms: u64) -> Self {
        Self { course: Course::new(interval_ms), told: None, level: 0.0, agree: 0, calm: 0, judged: 0 }
    }

    /// Takes a reading; true when what is told changed.
    pub fn take(&mut self, reading: &Reading, rule: &LimitRule, now: &Now) -> bool {
        let Some(end) = end(reading, rule) else { return false };
        self.course.push(now.clock_ms, end.value);
        let block = now.clock_ms / self.course.finest_ms();
        if block == std::mem::replace(&mut self.judged, block) {
            return false;
        }
        self.judge(reading, &end, rule, now)
    }

    fn judge(&mut self, reading: &Reading, end: &End, rule: &LimitRule, now: &Now) -> bool {
        let horizon = rule.horizon.as_millis() as f64;
        let seen =
            |forecast: &Forecast| forecast.window_ms >= rule.window.as_millis() as u64 || forecast.expected_ms == 0;
        let within = |forecast: &Forecast, horizons: f64| {
            forecast.latest_ms.is_some_and(|latest| latest as f64 <= horizon * horizons)
        };
        let forecast = forecast(&self.course, end.limit);
        let Some(told) = &self.told else {
            let holds = forecast.filter(|forecast| seen(forecast) && within(forecast, 1.0));
            self.agree = if holds.is_some() { self.agree + 1 } else { 0 };
            let Some(forecast) = holds.filter(|_| self.agree >= AGREE) else { return false };
            (self.level, self.calm, self.agree) = (end.value, 0, 0);
            self.told = Some(self.state(&forecast, reading, end, now, now.wall_ms));
            return true;
        };
        let Some(forecast) = forecast.filter(|forecast| within(forecast, STAY)) else {
            self.calm += 1;
            let fell = end.value < self.level - FALL * (end.limit - self.level).max(0.0);
            if self.calm < if fell { CALM.1 } else { CALM.0 } {
                return false;
            }
            (self.told, self.agree) = (None, 0);
            return true;
        };
        (self.calm, self.level) = (0, self.level.max(end.value));
        if !self.moved(told, &forecast, now) {
            return false;
        }
        self.told = Some(self.state(&forecast, reading, end, now, told.made_ms));
        true
    }

    fn moved(&self, told: &Told, forecast: &Forecast, now: &Now) -> bool {
        let left = forecast.expected_ms as f64;
        let slack = 2.0 * self.course.finest_ms() as f64;
        let apart = |was: Option<i64>, is: Option<u64>, share: f64| match (was, is) {
            (Some(was), Some(is)) => {
                ((now.wall_ms.saturating_add_unsigned(is)).abs_diff(was)) as f64 > share * left + slack
            }
            (None, None) => false,
            _ => true,
        };
        // What is full is stated once, not anew each minute.
        if forecast.expected_ms == 0 {
            return told.earliest_ms != told.latest_ms || told.earliest_ms.is_some_and(|since| since > now.wall_ms);
        }
        apart(told.expected_ms, Some(forecast.expected_ms), MOVED.0)
            || apart(told.earliest_ms, Some(forecast.earliest_ms), MOVED.1)
            || apart(told.latest_ms, forecast.latest_ms, MOVED.1)
    }

    fn state(&self, forecast: &Forecast, reading: &Reading, end: &End, now: &Now, made_ms: i64) -> Told {
        let series = reading.name.as_str();
        let grain = grain(forecast.expected_ms);
        let at = |ms: u64, round: fn(i64, i64) -> i64| round(now.wall_ms.saturating_add_unsigned(ms), grain);
        let (used, limit) = (words::figure(series, reading.value), words::figure(series, end.limit.abs()));
        let (level, verb) = match reading.direction {
            Direction::Drains => (format!("{used} left, the end is at {limit}"), "falls"),
            _ => (format!("{used} of {limit} used"), "grows"),
        };
        let pace = words::figure(series, forecast.per_hour);
        let (window, blocks) = (words::time(forecast.window_ms), forecast.blocks);
        let mut evidence = vec![level];
        if forecast.expected_ms == 0 {
            evidence.push("the limit is reached".to_owned());
        } else {
            let latest = forecast.latest_ms.map_or_else(|| "later than it can be told".to_owned(), words::time);
            evidence.push(format!("{verb} by {pace} an hour over the last {window} ({blocks} points)"));
            evidence.push(format!(
                "in {}; between {} and {latest} in nine of ten cases",
                words::time(forecast.expected_ms),
                words::time(forecast.earliest_ms),
            ));
        }
        let first = now.clock_ms.saturating_sub(forecast.window_ms).max(self.course.first_ms());
        Told {
            made_ms,
            expected_ms: Some(at(forecast.expected_ms, |ms, grain| (ms + grain / 2) / grain * grain)),
            earliest_ms: Some(at(forecast.earliest_ms, |ms, grain| ms / grain * grain)),
            latest_ms: forecast.latest_ms.map(|ms| at(ms, |ms, grain| (ms + grain - 1) / grain * grain)),
            method: format!("median slope and spread of block maxima over {window}, 90 % interval"),
            evidence,
            from_ms: now.wall_ms.saturating_sub_unsigned(now.clock_ms.saturating_sub(first)),
            to_ms: now.wall_ms,
            samples: self.course.samples_since(first),
        }
    }

    /// What is told now.
    pub fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    /// Withdraws what is told; true when there was something.
    pub fn withdraw(&mut self) -> bool {
        self.told.take().is_some()
    }

    /// When the series was last read, milliseconds of the predictor's clock.
    pub fn read_ms(&self) -> u64 {
        self.course.last().map_or(0, |(at, _)| at)
    }

    /// Bytes of state, at most.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.course.bytes()
    }
}

/// Times are told as finely as they matter: to a twelfth of what is left, on round numbers.
fn grain(left_ms: u64) -> i64 {
    const GRAINS: [i64; 7] = [3_600_000, 1_800_000, 600_000, 300_000, 60_000, 10_000, 1_000];
    let most = i64::try_from(left_ms / 12).unwrap_or(i64::MAX);
    GRAINS.into_iter().find(|grain| *grain <= most).unwrap_or(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::series::SeriesName;

    const MINUTE: u64 = 60_000;

    fn rule() -> LimitRule {
        super::super::rules::PredictionRules::built_in().limits.swap_remove(0)
    }

    fn at(ms: u64) -> Now {
        Now { clock_ms: ms, wall_ms: 1_700_000_000_000 + ms as i64 }
    }

    fn disk(used: f64) -> Reading {
        Reading::fills(SeriesName::of("fs", "/var", "used_bytes"), used as u64, 1 << 40)
    }

    const GIB: f64 = (1_u64 << 30) as f64;

    /// Gigabytes used, by minute.
    fn play(limited: &mut Limited, minutes: std::ops::Range<u64>, used: impl Fn(f64) -> f64) -> Vec<(u64, bool)> {
        let mut changes = Vec::new();
        for minute in minutes {
            let used = used(minute as f64 / 60.0) * GIB;
            if limited.take(&disk(used), &rule(), &at(minute * MINUTE)) {
                changes.push((minute, limited.told().is_some()));
            }
        }
        changes
    }

    #[test]
    fn a_disk_that_fills_is_told_in_time_and_stated_seldom() {
        let mut limited = Limited::new(MINUTE);
        // 1,024 GiB are full after 24 hours.
        let changes = play(&mut limited, 0..1430, |hour| 544.0 + 20.0 * hour);
        assert!(changes[0].0 < 17 * 60, "told after {} minutes", changes[0].0);
        assert!(changes.iter().all(|(_, told)| *told) && changes.len() < 20, "{changes:?}");
        let told = limited.told().unwrap();
        let full = 1_700_000_000_000_i64 + 24 * 3_600_000;
        // Told ten hours ahead, on half hours, and right enough not to be stated anew.
        assert!((told.expected_ms.unwrap() - full).abs() < 20 * 60_000, "{told:?}");
        assert!(told.earliest_ms.unwrap() <= full && told.latest_ms.unwrap() >= full, "{told:?}");
        assert!(told.evidence[1].contains("GiB an hour"), "{told:?}");
        assert!(limited.bytes() <= 4096, "{}", limited.bytes());
    }

    #[test]
    fn what_was_cleaned_is_withdrawn_after_three_blocks() {
        let mut limited = Limited::new(MINUTE);
        play(&mut limited, 0..1300, |hour| 544.0 + 20.0 * hour);
        let changes = play(&mut limited, 1300..1400, |_| 300.0);
        let (minute, told) = changes[changes.len() - 1];
        assert!(minute < 1330 && !told, "{changes:?}");
    }

    #[test]
    fn a_leak_that_stops_is_withdrawn_within_hours_and_never_comes_back() {
        let mut limited = Limited::new(MINUTE);
        assert_eq!(play(&mut limited, 0..1200, |hour| 544.0 + 20.0 * hour).last().map(|last| last.1), Some(true));
        let after = play(&mut limited, 1200..3000, |_| 944.0);
        let withdrawn = after.iter().position(|(_, told)| !told).unwrap();
        assert_eq!(withdrawn + 1, after.len(), "{after:?}");
        assert!(after[withdrawn].0 < 1200 + 300, "{after:?}");
    }

    #[test]
    fn a_full_disk_stays_told_and_is_not_stated_each_minute() {
        let mut limited = Limited::new(MINUTE);
        play(&mut limited, 0..1500, |hour| (544.0 + 20.0 * hour).min(1024.0));
        let after = play(&mut limited, 1500..2000, |_| 1024.0);
        assert!(after.len() <= 1, "{after:?}");
        assert!(limited.told().unwrap().evidence[1].contains("reached"));
    }

    #[test]
    fn time_asleep_is_no_growth_and_a_clock_that_stands_is_nothing() {
        let mut limited = Limited::new(MINUTE);
        play(&mut limited, 0..600, |_| 100.0);
        // Eight hours asleep, and files that were there all at once.
        let changes = play(&mut limited, 1080..1200, |_| 700.0);
        assert!(changes.is_empty(), "{changes:?}");
        for _ in 0..100 {
            assert!(!limited.take(&disk(900.0 * GIB), &rule(), &at(5)));
        }
    }

    #[test]
    fn what_drains_is_told_as_what_fills() {
        let rule = super::super::rules::PredictionRules::built_in().limits.swap_remove(2);
        let mut limited = Limited::new(MINUTE);
        let mut told = None;
        for look in 0..60 * 9 {
            let left = 10.0 * GIB * (1.0 - look as f64 / 600.0);
            let reading = Reading::drains(SeriesName::node("mem", "available_bytes"), left as u64, 0);
            if limited.take(&reading, &rule, &at(look * MINUTE)) {
                told = limited.told().cloned();
            }
        }
        let told = told.unwrap();
        assert!(told.evidence[0].contains("left") && told.evidence[1].starts_with("falls"), "{told:?}");
    }
}
