//! Errors that become more often than they were, in one counter.
//!
//! Errors come in flurries: one bad row of memory is a thousand corrections in a second. So it is not errors that are
//! counted but minutes in which there were any. The minutes of the last hour, of the last six hours and of the last day
//! are compared with those of the week before them: were both parts of one Poisson process, the share of all minutes
//! that falls into the late part would be binomial. What had a chance below [`SURE`] is told, and withdrawn when
//! its chance is above [`CALM`]. State is under a kilobyte.
//!
//! Pure. May not judge how bad errors are: thresholds of the health sources do.

use serde::{Deserialize, Serialize};

use super::{Now, Told, words};

const MINUTE_MS: u64 = 60_000;
const MINUTES: usize = 60;
/// Hours that are remembered: a week and a day.
const HOURS: usize = 192;
/// Late parts that are looked at, hours.
const LATE: [usize; 3] = [1, 6, 24];
/// Chance of what is told. Three parts are looked at each minute, so it has to be far smaller than one thinks: steady
/// counters were told for nothing at 2e-5 about once in a year.
const SURE: f64 = 1e-6;
/// Chance of what is told no more.
const CALM: f64 = 1e-2;
/// Fewest minutes with errors that are told.
const FEWEST: u64 = 4;
/// One tail of the interval of the rate.
const TAIL: f64 = super::quantile::TAIL;

/// One counter, remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    count: Option<f64>,
    minute: u64,
    /// Whether there were errors in the minute under way.
    now: bool,
    /// Minutes with errors of the hour under way and of the hours before it, the newest last; `None`: not watched.
    hours: Vec<Option<u8>>,
    /// Bits of the last sixty minutes, the newest lowest.
    minutes: u64,
    watched: u64,
    errors: f64,
    told: Option<Told>,
    /// Rate over the earlier one, when it was stated.
    times: f64,
}

impl Default for Trend {
    fn default() -> Self {
        Self {
            count: None,
            minute: 0,
            now: false,
            hours: Vec::new(),
            minutes: 0,
            watched: 0,
            errors: 0.0,
            told: None,
            times: 0.0,
        }
    }
}

/// A late part against the part before it.
#[derive(Clone, Copy, Debug)]
struct Finding {
    late_hours: usize,
    before_hours: usize,
    late: u64,
    before: u64,
    chance: f64,
}

impl Trend {
    /// Takes what the counter shows; true when what is told changed. A counter that went back began anew.
    pub fn take(&mut self, count: f64, now: &Now) -> bool {
        let added = self.count.replace(count).map_or(0.0, |before| if count < before { count } else { count - before });
        let minute = now.clock_ms / MINUTE_MS;
        let is_first = self.hours.is_empty();
        if is_first {
            (self.minute, self.hours) = (minute, vec![Some(0)]);
        }
        let turned = minute > self.minute;
        if turned {
            self.turn(minute);
        }
        self.now |= added > 0.0 && !is_first;
        self.errors += if is_first { 0.0 } else { added };
        turned && self.judge(now)
    }

    /// Closes the minute under way, and leaves out those that were slept through.
    fn turn(&mut self, minute: u64) {
        let had = u8::from(std::mem::take(&mut self.now));
        if let Some(Some(hour)) = self.hours.last_mut() {
            *hour = hour.saturating_add(had).min(MINUTES as u8);
        }
        self.watched = self.watched.saturating_add(1);
        let passed = minute - self.minute;
        self.minutes = self.minutes.checked_shl(u32::try_from(passed).unwrap_or(64)).unwrap_or(0)
            | if passed < 64 { u64::from(had) << (passed - 1) } else { 0 };
        let hours = minute / MINUTES as u64 - self.minute / MINUTES as u64;
        for ahead in 1..=hours.min(HOURS as u64 + 1) {
            // Only the hour that is entered is watched; those in between were slept through.
            let watched = ahead == hours;
            self.hours.push(watched.then_some(0));
            if self.hours.len() > HOURS {
                self.hours.remove(0);
            }
        }
        self.minute = minute;
    }

    fn findings(&self) -> impl Iterator<Item = Finding> {
        let sum = |part: &[Option<u8>]| {
            let watched: Vec<u64> = part.iter().flatten().map(|count| u64::from(*count)).collect();
            (watched.len(), watched.iter().sum::<u64>())
        };
        LATE.into_iter().filter_map(move |late_hours| {
            // The last hour as it is, longer parts by whole hours and the one under way.
            let (late_part, before_part, late) = if late_hours == 1 {
                let finished = self.hours.len().checked_sub(2)?;
                // The hour before the one under way is partly in the last sixty minutes: it counts in neither part.
                (1, &self.hours[..finished], u64::from((self.minutes & ((1 << MINUTES) - 1)).count_ones()))
            } else {
                let cut = self.hours.len().checked_sub(late_hours)?;
                let (watched, late) = sum(&self.hours[cut..]);
                (watched, &self.hours[..cut], late)
            };
            let (before_hours, before) = sum(before_part);
            let share = late_part as f64 / (late_part + before_hours) as f64;
            // Without as long a time before it, nothing can be said to be more.
            (before_hours >= late_part.max(2)).then(|| Finding {
                late_hours: late_part,
                before_hours,
                late,
                before,
                chance: at_least(late, late + before, share),
            })
        })
    }

    fn judge(&mut self, now: &Now) -> bool {
        let strongest = self.findings().min_by(|a, b| a.chance.total_cmp(&b.chance));
        let Some(found) = strongest else { return false };
        let sure = found.chance < SURE && found.late >= FEWEST;
        if self.told.is_none() && !sure {
            return false;
        }
        if found.chance > CALM {
            return self.told.take().is_some();
        }
        let times = found.times();
        let stated = self.told.as_ref();
        // Stated anew when the rate has doubled or halved, and once a day, because it says how many are to come.
        let is_old = stated.is_none_or(|told| now.wall_ms.abs_diff(told.to_ms) > 24 * 60 * MINUTE_MS);
        if !is_old && times < 2.0 * self.times && times > 0.5 * self.times {
            return false;
        }
        self.times = times;
        let made_ms = stated.map_or(now.wall_ms, |told| told.made_ms);
        self.told = Some(self.state(&found, now, made_ms));
        true
    }

    fn state(&self, found: &Finding, now: &Now, made_ms: i64) -> Told {
        let hours = |hours: usize| words::time(hours as u64 * 3_600_000);
        let (least, most) = found.bounds();
        let (low, middle, high) = found.tomorrow();
        let before = format!("{} in the {} before", found.before, hours(found.before_hours));
        let sure = if most.is_finite() {
            format!("{least:.1} to {most:.0} times")
        } else {
            format!("at least {least:.1} times")
        };
        Told {
            made_ms,
            expected_ms: None,
            earliest_ms: None,
            latest_ms: None,
            method: format!(
                "binomial test of {} against {}, by minutes with errors",
                hours(found.late_hours),
                hours(found.before_hours)
            ),
            evidence: vec![
                format!("minutes with errors: {} in the last {}, {before}", found.late, hours(found.late_hours)),
                format!(
                    "{sure} as often as before, nine to one; chance of this without a cause {:.0e}",
                    found.chance.max(1e-99)
                ),
                format!("at this rate {low} to {high} more minutes with errors within a day, about {middle}"),
                format!("{} errors since it is watched", self.errors),
            ],
            from_ms: now.wall_ms - ((found.late_hours + found.before_hours) as i64) * 3_600_000,
            to_ms: now.wall_ms,
            samples: self.watched.min(((found.late_hours + found.before_hours) * MINUTES) as u64),
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

    /// When the counter was last read, milliseconds of the predictor's clock.
    pub fn read_ms(&self) -> u64 {
        self.minute * MINUTE_MS
    }
}

impl Finding {
    /// The late rate over the earlier one; an earlier part without errors counts as half a minute with.
    fn times(&self) -> f64 {
        (self.late as f64 / self.late_hours as f64) / ((self.before as f64).max(0.5) / self.before_hours as f64)
    }

    /// Bounds of that, each nineteen to one (Clopper and Pearson).
    fn bounds(&self) -> (f64, f64) {
        let all = self.late + self.before;
        let odds = |share: f64| share / (1.0 - share) * self.before_hours as f64 / self.late_hours as f64;
        let least = solve(|share| at_least(self.late, all, share) < TAIL);
        let most = solve(|share| 1.0 - at_least(self.late + 1, all, share) > TAIL);
        (odds(least), if self.before == 0 { f64::INFINITY } else { odds(most) })
    }

    /// Minutes with errors of a day at the late rate: few, about, and many of them.
    fn tomorrow(&self) -> (u64, u64, u64) {
        let mean = self.late as f64 * 24.0 / self.late_hours as f64;
        let deviation = (mean + mean * mean / self.late.max(1) as f64).sqrt() * 1.645;
        let day = 24.0 * 60.0;
        let whole = |value: f64| value.clamp(0.0, day).round() as u64;
        (whole(mean - deviation), whole(mean), whole(mean + deviation))
    }
}

/// The share at which `below` turns false, between 0 and 1.
fn solve(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if below(middle) { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Chance that at least `hits` of `all` fall where each falls with chance `share`.
fn at_least(hits: u64, all: u64, share: f64) -> f64 {
    if hits == 0 {
        return 1.0;
    }
    if hits > all || share <= 0.0 {
        return 0.0;
    }
    if share >= 1.0 {
        return 1.0;
    }
    let odds = share / (1.0 - share);
    let chance = |from: u64, to: u64| {
        let mut term =
            (ln_choose(all, from) + from as f64 * share.ln() + (all - from) as f64 * (1.0 - share).ln()).exp();
        let mut sum = 0.0;
        for hit in from..=to {
            sum += term;
            term *= (all - hit) as f64 / (hit + 1) as f64 * odds;
        }
        sum
    };
    // From the side that has less of it, where the terms fall and none is lost.
    let mean = all as f64 * share;
    if hits as f64 > mean { chance(hits, all).min(1.0) } else { (1.0 - lower(hits - 1, all, share)).max(0.0) }
}

/// Chance of at most `hits`, where `hits` is below the mean.
fn lower(hits: u64, all: u64, share: f64) -> f64 {
    let mut term = (ln_choose(all, hits) + hits as f64 * share.ln() + (all - hits) as f64 * (1.0 - share).ln()).exp();
    let mut sum = 0.0;
    let mut hit = hits;
    loop {
        sum += term;
        if hit == 0 {
            return sum.min(1.0);
        }
        term *= hit as f64 / (all - hit + 1) as f64 * (1.0 - share) / share;
        hit -= 1;
    }
}

fn ln_choose(all: u64, some: u64) -> f64 {
    ln_factorial(all) - ln_factorial(some) - ln_factorial(all - some)
}

/// Stirling's series; below its reach the product itself.
fn ln_factorial(n: u64) -> f64 {
    if n < 16 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let n = n as f64;
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Now {
        Now { clock_ms: minute * MINUTE_MS, wall_ms: 1_700_000_000_000 + (minute * MINUTE_MS) as i64 }
    }

    fn noise(seed: u64) -> f64 {
        let mut bits = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A counter whose minutes have errors with a chance; the minutes in which what is told changed.
    fn play(
        trend: &mut Trend,
        minutes: std::ops::Range<u64>,
        seed: u64,
        chance: impl Fn(u64) -> f64,
    ) -> Vec<(u64, bool)> {
        let mut count = trend.count.unwrap_or(7.0);
        minutes
            .filter_map(|minute| {
                if noise(minute + seed * 1_000_003) < chance(minute) {
                    count += 1.0 + (noise(minute ^ 77) * 1000.0).floor();
                }
                trend.take(count, &at(minute)).then(|| (minute, trend.told().is_some()))
            })
            .collect()
    }

    const DAY: u64 = 24 * 60;

    #[test]
    fn the_chance_of_a_binomial_is_exact() {
        assert!((at_least(3, 4, 0.5) - 5.0 / 16.0).abs() < 1e-12);
        assert!((at_least(1, 10, 0.1) - (1.0 - 0.9_f64.powi(10))).abs() < 1e-12);
        assert!((at_least(60, 100, 0.5) - 0.028_444).abs() < 1e-5);
        assert_eq!((at_least(0, 5, 0.1), at_least(6, 5, 0.1)), (1.0, 0.0));
        assert!((ln_factorial(20) - 42.335_616_460_753_485).abs() < 1e-9);
    }

    #[test]
    fn errors_that_become_more_are_told_with_bounds_and_withdrawn_when_they_are_over() {
        let mut trend = Trend::default();
        assert!(play(&mut trend, 0..5 * DAY, 1, |_| 0.0005).is_empty());
        let rising = play(&mut trend, 5 * DAY..6 * DAY, 1, |_| 0.02);
        assert!(rising[0].1 && rising[0].0 < 5 * DAY + 8 * 60, "{rising:?}");
        assert!(rising.len() < 12, "{rising:?}");
        let told = trend.told().unwrap();
        assert!(told.evidence[1].contains("times") && told.evidence[2].contains("within a day"), "{told:?}");
        let after = play(&mut trend, 6 * DAY..10 * DAY, 1, |_| 0.0);
        assert_eq!(after.last().map(|last| last.1), Some(false), "{after:?}");
    }

    #[test]
    fn steady_errors_are_no_trend_however_many_come_at_once() {
        for seed in 0..40 {
            let mut trend = Trend::default();
            let rate = [0.001, 0.01, 0.1, 0.6][seed as usize % 4];
            let told = play(&mut trend, 0..14 * DAY, seed, |_| rate);
            assert!(told.is_empty(), "seed {seed}: {told:?}");
        }
    }

    #[test]
    fn one_flurry_is_no_trend() {
        let mut trend = Trend::default();
        assert!(play(&mut trend, 0..3 * DAY, 1, |minute| f64::from(u8::from(minute == 2 * DAY))).is_empty());
    }

    #[test]
    fn a_counter_that_goes_back_and_time_asleep_are_no_errors() {
        let mut trend = Trend::default();
        for minute in (0..2 * DAY).chain(9 * DAY..10 * DAY) {
            let count = if minute < DAY { 5e9 } else { 0.0 };
            assert!(!trend.take(count, &at(minute)));
        }
        assert!(trend.hours.len() <= HOURS && serde_json::to_string(&trend).unwrap().len() < 2048);
    }
}
