//! All that is followed of one node, and what is predicted of it now. Bounded: so many series of each sort, so many
//! predictions. Pure: readings and a time in, predictions out.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use evergreen_api::{
    ProblemKind,
    resources::{NodePrediction, PredictionBasis},
};
use serde::{Deserialize, Serialize};

use super::{
    Now, Told,
    limit::Limited,
    rules::{self, PredictionRules},
    trend::Trend,
    unusual::Unusual,
};
use crate::sources::series::{Direction, Reading, SeriesName};

/// Series of each sort that are followed; behind that, further ones are left out.
const MAX_LIMITS: usize = 128;
const MAX_TRENDS: usize = 256;
/// A detector of the unusual has 48 KiB.
const MAX_UNUSUAL: usize = 16;
/// Predictions that are told.
const MAX_TOLD: usize = 64;
/// What is told of a series that is no longer read is withdrawn after this time, at least.
const ABSENT_MS: u64 = 600_000;
/// And its state makes room for another series after this one.
const STALE_MS: u64 = 3_600_000;
/// Or goes by itself after this one.
const FORGOTTEN_MS: u64 = 14 * 24 * 3_600_000;

/// Everything that is followed.
#[derive(Debug)]
pub struct Book {
    rules: Arc<PredictionRules>,
    interval_ms: u64,
    limits: BTreeMap<String, Limited>,
    trends: BTreeMap<String, Trend>,
    unusual: BTreeMap<String, Unusual>,
    /// Counters that are watched for the unusual, by what they showed last and when.
    rates: BTreeMap<String, (u64, f64)>,
    swept_ms: u64,
}

/// What of limits and trends outlives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    interval_ms: u64,
    limits: BTreeMap<String, Limited>,
    trends: BTreeMap<String, Trend>,
}

/// Rows of one series that outlive a restart.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptRows {
    read_ms: u64,
    /// Little-endian numbers of 32 bits, base64.
    rows: String,
}

/// A state that can be followed, forgotten and withdrawn.
trait Followed {
    fn read_ms(&self) -> u64;
    fn withdraw(&mut self) -> bool;
}

macro_rules! followed {
    ($($kind:ty),+) => {
        $(impl Followed for $kind {
            fn read_ms(&self) -> u64 {
                <$kind>::read_ms(self)
            }
            fn withdraw(&mut self) -> bool {
                <$kind>::withdraw(self)
            }
        })+
    };
}

followed!(Limited, Trend, Unusual);

/// The state of a series; a new one when there is room or a stale one makes room.
fn follow<'a, T: Followed>(
    all: &'a mut BTreeMap<String, T>,
    name: &SeriesName,
    most: usize,
    now: &Now,
    new: impl FnOnce() -> T,
) -> Option<&'a mut T> {
    if !all.contains_key(name.as_str()) {
        if all.len() >= most {
            let stalest = all
                .iter()
                .min_by_key(|(_, state)| state.read_ms())
                .map(|(name, state)| (name.clone(), state.read_ms()));
            let (stalest, read_ms) = stalest?;
            if now.clock_ms.saturating_sub(read_ms) < STALE_MS {
                return None;
            }
            all.remove(&stalest);
        }
        all.insert(name.as_str().to_owned(), new());
    }
    all.get_mut(name.as_str())
}

/// Withdraws and forgets what is no longer read; true when something was withdrawn.
fn sweep<T: Followed>(all: &mut BTreeMap<String, T>, absent_ms: u64, now: &Now) -> bool {
    let mut changed = false;
    all.retain(|_, state| {
        let away = now.clock_ms.saturating_sub(state.read_ms());
        changed |= away > absent_ms && state.withdraw();
        away <= FORGOTTEN_MS
    });
    changed
}

impl Book {
    /// A book that follows nothing yet; series are read every so often, milliseconds.
    pub fn new(rules: Arc<PredictionRules>, interval_ms: u64) -> Self {
        Self {
            rules,
            interval_ms,
            limits: BTreeMap::new(),
            trends: BTreeMap::new(),
            unusual: BTreeMap::new(),
            rates: BTreeMap::new(),
            swept_ms: 0,
        }
    }

    /// Goes on with other rules; what no rule follows is forgotten. True when what is told changed.
    pub fn change_rules(&mut self, rules: Arc<PredictionRules>) -> bool {
        if rules == self.rules {
            return false;
        }
        let before = self.predictions();
        self.rules = rules;
        let rules = Arc::clone(&self.rules);
        let name = |name: &str| SeriesName::parse(name);
        self.limits.retain(|series, _| rules.limits.iter().any(|rule| rule.series.matches(&name(series))));
        self.trends.retain(|series, _| rules.trends.iter().any(|rule| rule.series.matches(&name(series))));
        self.unusual.retain(|series, _| rules.unusual.iter().any(|pattern| pattern.matches(&name(series))));
        before != self.predictions()
    }

    /// Takes the readings of one pass; true when what is told changed.
    pub fn take<'a>(&mut self, readings: impl IntoIterator<Item = &'a Reading>, now: &Now) -> bool {
        let rules = Arc::clone(&self.rules);
        let mut changed = false;
        for reading in readings {
            let name = &reading.name;
            if let Some(rule) = rules.limits.iter().find(|rule| rule.series.matches(name)) {
                let interval_ms = self.interval_ms;
                let state = follow(&mut self.limits, name, MAX_LIMITS, now, || Limited::new(interval_ms));
                changed |= state.is_some_and(|state| state.take(reading, rule, now));
            }
            if reading.direction == Direction::Counts && rules.trends.iter().any(|rule| rule.series.matches(name)) {
                let state = follow(&mut self.trends, name, MAX_TRENDS, now, Trend::default);
                changed |= state.is_some_and(|state| state.take(reading.value, now));
            }
            if rules.unusual.iter().any(|pattern| pattern.matches(name)) {
                changed |= self.watch(reading, now);
            }
        }
        let absent_ms = ABSENT_MS.max(self.interval_ms.saturating_mul(3));
        if now.clock_ms.saturating_sub(self.swept_ms) > absent_ms / 10 {
            self.swept_ms = now.clock_ms;
            changed |= sweep(&mut self.limits, absent_ms, now);
            changed |= sweep(&mut self.trends, absent_ms, now);
            changed |= sweep(&mut self.unusual, absent_ms, now);
        }
        changed
    }

    fn watch(&mut self, reading: &Reading, now: &Now) -> bool {
        let name = reading.name.as_str();
        let value = if reading.direction == Direction::Counts {
            let Some(value) = self.rate(name, reading.value, now) else { return false };
            value
        } else {
            reading.value
        };
        let state = follow(&mut self.unusual, &reading.name, MAX_UNUSUAL, now, Unusual::default);
        state.is_some_and(|state| state.take(name, value, now))
    }

    /// What a counter grew by each second since it was read last; nothing when it began anew.
    fn rate(&mut self, name: &str, count: f64, now: &Now) -> Option<f64> {
        if !self.rates.contains_key(name) && self.rates.len() >= MAX_UNUSUAL {
            return None;
        }
        let (at, before) = self.rates.insert(name.to_owned(), (now.clock_ms, count))?;
        let seconds = now.clock_ms.checked_sub(at).filter(|ms| *ms > 0)? as f64 / 1000.0;
        (count >= before).then(|| (count - before) / seconds)
    }

    /// What is predicted now, what has a time first.
    pub fn predictions(&self) -> Vec<NodePrediction> {
        let mut told: Vec<NodePrediction> = Vec::new();
        let shown = |series: &str, told: &Told, kind: ProblemKind, basis, summary: Option<&str>| {
            let name = SeriesName::parse(series);
            let subject = if name.thing().is_empty() { series } else { name.thing() };
            let summary =
                summary.map_or_else(|| format!("{series} is unlike itself"), |text| rules::summary(text, subject));
            told.shown(kind, basis, subject, summary, series)
        };
        for (series, state) in &self.limits {
            let rule = self.rules.limits.iter().find(|rule| rule.series.matches(&SeriesName::parse(series)));
            if let (Some(rule), Some(state)) = (rule, state.told()) {
                told.push(shown(series, state, rule.kind, PredictionBasis::TimeToLimit, Some(&rule.summary)));
            }
        }
        for (series, state) in &self.trends {
            let rule = self.rules.trends.iter().find(|rule| rule.series.matches(&SeriesName::parse(series)));
            if let (Some(rule), Some(state)) = (rule, state.told()) {
                told.push(shown(series, state, rule.kind, PredictionBasis::ErrorTrend, Some(&rule.summary)));
            }
        }
        for (series, state) in &self.unusual {
            if let Some(state) = state.told() {
                told.push(shown(series, state, ProblemKind::Custom, PredictionBasis::Anomaly, None));
            }
        }
        told.truncate(MAX_TOLD);
        told
    }

    /// What outlives a restart, but for rows.
    pub fn kept(&self) -> Kept {
        Kept { interval_ms: self.interval_ms, limits: self.limits.clone(), trends: self.trends.clone() }
    }

    /// Rows that outlive a restart.
    pub fn kept_rows(&self) -> BTreeMap<String, KeptRows> {
        let pack = |state: &Unusual| {
            let bytes: Vec<u8> = state.rows().flat_map(f32::to_le_bytes).collect();
            KeptRows { read_ms: state.read_ms(), rows: STANDARD.encode(bytes) }
        };
        self.unusual.iter().map(|(name, state)| (name.clone(), pack(state))).collect()
    }

    /// Goes on with what was kept. Courses of another pace are left: their blocks would have other lengths.
    pub fn resume(&mut self, kept: Kept, rows: BTreeMap<String, KeptRows>, now: &Now) {
        if kept.interval_ms == self.interval_ms {
            self.limits = kept.limits.into_iter().take(MAX_LIMITS).collect();
        }
        self.trends = kept.trends.into_iter().take(MAX_TRENDS).collect();
        for (name, kept) in rows.into_iter().take(MAX_UNUSUAL) {
            let Ok(bytes) = STANDARD.decode(&kept.rows) else { continue };
            let (numbers, _) = bytes.as_chunks::<4>();
            let rows: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            self.unusual.insert(name, Unusual::resume(&rows, kept.read_ms, now));
        }
        // Forgets what the rules of now do not follow.
        let rules = std::mem::take(&mut self.rules);
        self.change_rules(rules);
    }

    /// Bytes of state of the largest series of each sort.
    pub fn largest(&self) -> usize {
        let limits = self.limits.values().map(Limited::bytes).max().unwrap_or(0);
        limits.max(self.unusual.values().map(Unusual::bytes).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn at(ms: u64) -> Now {
        Now { clock_ms: ms, wall_ms: 1_700_000_000_000 + ms as i64 }
    }

    fn book() -> Book {
        Book::new(Arc::new(PredictionRules::built_in()), MINUTE)
    }

    fn disk(mount: &str, used: u64) -> Reading {
        Reading::fills(SeriesName::of("fs", mount, "used_bytes"), used, 1000 << 30)
    }

    fn fill(book: &mut Book, minutes: std::ops::Range<u64>) -> usize {
        let looks = minutes.map(|minute| minute * MINUTE);
        looks.filter(|ms| book.take(&[disk("/var", (600 << 30) + ms * 6_500)], &at(*ms))).count()
    }

    #[test]
    fn a_prediction_says_what_when_from_which_readings_and_how() {
        let mut book = book();
        fill(&mut book, 0..900);
        let told = book.predictions();
        assert_eq!(told.len(), 1);
        let told = &told[0];
        assert_eq!((told.kind, told.subject.as_str()), (ProblemKind::DiskPressurePredicted, "/var"));
        assert_eq!(told.summary, "/var will be full");
        assert_eq!(told.samples.series, "fs./var.used_bytes");
        let time = |text: &Option<String>| text.as_ref().unwrap().parse::<jiff::Timestamp>().unwrap();
        let (earliest, expected, latest) = (time(&told.earliest), time(&told.expected_at), time(&told.latest));
        assert!(earliest <= expected && expected <= latest);
        assert!(told.samples.count > 100 && told.samples.from < told.samples.to, "{told:?}");
    }

    #[test]
    fn a_restart_changes_nothing_that_is_told() {
        let mut book = book();
        fill(&mut book, 0..900);
        let kept = serde_json::to_string(&book.kept()).unwrap();
        let mut again = self::book();
        again.resume(serde_json::from_str(&kept).unwrap(), BTreeMap::new(), &at(900 * MINUTE));
        assert_eq!(again.predictions(), book.predictions());
        assert_eq!(fill(&mut again, 901..905), 0, "not told anew");
        let mut other_pace = Book::new(Arc::new(PredictionRules::built_in()), 3 * MINUTE);
        other_pace.resume(serde_json::from_str(&kept).unwrap(), BTreeMap::new(), &at(900 * MINUTE));
        assert!(other_pace.predictions().is_empty());
    }

    #[test]
    fn a_mount_that_is_gone_is_no_longer_predicted() {
        let mut book = book();
        fill(&mut book, 0..900);
        assert!(!book.take(&[], &at(905 * MINUTE)));
        assert!(book.take(&[], &at(912 * MINUTE)));
        assert!(book.predictions().is_empty());
    }

    #[test]
    fn a_prediction_goes_with_its_rule() {
        let mut book = book();
        fill(&mut book, 0..900);
        assert!(book.change_rules(Arc::new(PredictionRules::default())));
        assert!(book.predictions().is_empty() && book.limits.is_empty());
    }

    #[test]
    fn series_are_bounded_and_stale_ones_make_room() {
        let mut book = book();
        let many = |offset: usize| (0..400).map(|n| disk(&format!("/{}", n + offset), 1)).collect::<Vec<_>>();
        book.take(&many(0), &at(0));
        assert_eq!(book.limits.len(), MAX_LIMITS);
        book.take(&many(1000), &at(2 * STALE_MS));
        assert!(book.limits.keys().all(|name| SeriesName::parse(name).thing().len() == 5), "new ones took their place");
        let unusual: Vec<_> =
            (0..40).map(|n| Reading::level(SeriesName::of("temp", &format!("{n}"), "celsius"), 1.0)).collect();
        book.take(&unusual, &at(0));
        assert_eq!(book.unusual.len(), MAX_UNUSUAL);
        assert!(book.largest() <= 64 << 10);
    }

    #[test]
    fn rows_are_kept_and_heard_again() {
        let load = |value| Reading::level(SeriesName::node("load", "one"), value);
        let mut book = book();
        assert_eq!((0..300).filter(|minute| book.take(&[load((minute % 7) as f64)], &at(minute * MINUTE))).count(), 0);
        let rows = serde_json::to_string(&book.kept_rows()).unwrap();
        let mut again = self::book();
        again.resume(Kept::default(), serde_json::from_str(&rows).unwrap(), &at(300 * MINUTE));
        assert_eq!((300..303).filter(|minute| again.take(&[load(90.0)], &at(minute * MINUTE))).count(), 1);
        assert_eq!(again.predictions()[0].basis, PredictionBasis::Anomaly);
        let broken = rows.replace("\"rows\":\"A", "\"rows\":\"*");
        self::book().resume(Kept::default(), serde_json::from_str(&broken).unwrap(), &at(0));
    }
}
