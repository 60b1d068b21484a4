//! Feeds the book from the agent's readings, shows what it predicts, and keeps what it learned over restarts.
//!
//! A prediction whose rule says so is also a condition of the Node, by the way that all conditions go.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{Detection, Severity, resources::NodePrediction};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Now,
    book::{Book, Kept, KeptRows},
    rules::{PredictionRules, rule_id},
};
use crate::{
    clock::Moment,
    conditions::{ConditionType, Foster, Sighting},
    kernel::detector::next_report,
    rules::Rulebook,
    shared::Shared,
    signal::Signal,
    sources::{
        Sample,
        series::{Reading, Readings, SeriesName},
    },
    store::Store,
};

/// Files in the state directory.
const PREDICTIONS: &str = "predictions.json";
const ROWS: &str = "series.json";
/// What was learned is kept this often, and sooner when what is told changed, though never more than once a minute.
const KEEP_MS: u64 = 600_000;
const KEEP_CHANGE_MS: u64 = 60_000;
/// Rows are many and change little.
const KEEP_ROWS_MS: u64 = 3_600_000;
/// A node that was off for longer has become another one.
const LONGEST_OFF_MS: u64 = 30 * 24 * 3_600_000;
/// Figures that a condition gives as evidence.
const MAX_EVIDENCE: usize = 8;

/// When the state was kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stamp {
    boot_id: String,
    clock_ms: u64,
    boot_ms: u64,
    wall_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct State {
    stamp: Stamp,
    book: Kept,
}

/// Predicts one node.
pub struct Predictor {
    book: Book,
    store: Store,
    boot_id: String,
    /// The predictor's clock at the boot; before it, when the node was off for no time.
    offset_ms: i128,
    conditions: BTreeMap<ConditionType, (u64, Vec<NodePrediction>)>,
    kept_ms: u64,
    kept_rows_ms: u64,
    unkept: bool,
}

impl Predictor {
    /// Goes on with what an earlier agent kept. Hears rows again: takes up to a second in all, off the runtime's threads.
    pub fn resume(
        rules: Arc<PredictionRules>,
        interval: Duration,
        store: Store,
        boot_id: String,
        now: &Moment,
    ) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let mut predictor = Self {
            book: Book::new(rules, interval_ms),
            store,
            boot_id,
            offset_ms: 0,
            conditions: BTreeMap::new(),
            kept_ms: 0,
            kept_rows_ms: 0,
            unkept: false,
        };
        if let Some(State { stamp, book }) = predictor.store.load::<State>(PREDICTIONS) {
            predictor.offset_ms = offset(&stamp, &predictor.boot_id, now);
            let rows = predictor.store.load::<BTreeMap<String, KeptRows>>(ROWS).unwrap_or_default();
            let now = predictor.now(now);
            predictor.book.resume(book, rows, &now);
        }
        let clock_ms = predictor.now(now).clock_ms;
        (predictor.kept_ms, predictor.kept_rows_ms) = (clock_ms, clock_ms);
        predictor
    }

    fn now(&self, moment: &Moment) -> Now {
        let clock_ms = (i128::from(moment.boot_ms) + self.offset_ms).clamp(0, i128::from(u64::MAX));
        Now { clock_ms: u64::try_from(clock_ms).unwrap_or(0), wall_ms: moment.wall.as_millisecond() }
    }

    /// Takes one pass of readings; true when what is told changed.
    pub fn take(&mut self, readings: &Readings, sample: &Sample, moment: &Moment) -> bool {
        let more = of_sample(sample);
        let changed = self.book.take(readings.all.iter().chain(&more), &self.now(moment));
        self.unkept |= changed;
        self.keep(moment, false);
        changed
    }

    fn keep(&mut self, moment: &Moment, at_last: bool) {
        if !self.store.is_kept() {
            return;
        }
        let now = self.now(moment);
        let since = now.clock_ms.saturating_sub(self.kept_ms);
        if at_last || since >= KEEP_MS || (self.unkept && since >= KEEP_CHANGE_MS) {
            let stamp = Stamp {
                boot_id: self.boot_id.clone(),
                clock_ms: now.clock_ms,
                boot_ms: moment.boot_ms,
                wall_ms: now.wall_ms,
            };
            (self.kept_ms, self.unkept) = (now.clock_ms, false);
            if let Err(error) = self.store.save(PREDICTIONS, &State { stamp, book: self.book.kept() }, false) {
                tracing::warn!(%error, "what predictions rest on could not be kept");
            }
        }
        if at_last || now.clock_ms.saturating_sub(self.kept_rows_ms) >= KEEP_ROWS_MS {
            self.kept_rows_ms = now.clock_ms;
            if let Err(error) = self.store.save(ROWS, &self.book.kept_rows(), false) {
                tracing::warn!(%error, "the rows that anomalies are judged by could not be kept");
            }
        }
    }

    /// What changed of the conditions that predictions become.
    fn signals(&mut self, rules: &PredictionRules, predictions: &[NodePrediction]) -> Vec<Signal> {
        let mut wanted: BTreeMap<ConditionType, Vec<NodePrediction>> = BTreeMap::new();
        for about in rules.conditions() {
            let of_kind = predictions.iter().filter(|told| about == told.kind).cloned();
            wanted.entry(about).or_insert_with(|| of_kind.collect());
        }
        let mut signals = Vec::new();
        for (about, told) in &wanted {
            match self.conditions.get_mut(about) {
                Some((_, known)) if known == told => continue,
                // At the start a condition that an earlier agent left is taken back too.
                None | Some(_) if told.is_empty() => {
                    self.conditions.insert(*about, (next_report(), Vec::new()));
                    let why = "it is no longer to be expected".to_owned();
                    signals.push(Signal::Over { rule: rule_id(*about), why });
                }
                known => {
                    let fresh = known.as_ref().is_none_or(|(_, before)| before.is_empty());
                    let report = known.filter(|_| !fresh).map_or_else(next_report, |(report, _)| *report);
                    self.conditions.insert(*about, (report, told.clone()));
                    signals.push(Signal::Seen(sighting(report, *about, told)));
                }
            }
        }
        self.conditions.retain(|about, _| wanted.contains_key(about));
        signals
    }
}

/// What the clock of now must be moved by to go on from where it was kept.
fn offset(stamp: &Stamp, boot_id: &str, now: &Moment) -> i128 {
    if stamp.boot_id == boot_id && now.boot_ms >= stamp.boot_ms {
        return i128::from(stamp.clock_ms) - i128::from(stamp.boot_ms);
    }
    let off = u64::try_from(now.wall.as_millisecond().saturating_sub(stamp.wall_ms)).unwrap_or(0).min(LONGEST_OFF_MS);
    i128::from(stamp.clock_ms) + i128::from(off) - i128::from(now.boot_ms)
}

fn sighting(report: u64, about: ConditionType, told: &[NodePrediction]) -> Sighting {
    let line = |told: &NodePrediction| {
        let times = match (&told.expected_at, &told.earliest, &told.latest) {
            (Some(expected), Some(earliest), Some(latest)) => format!(" at about {expected} ({earliest} to {latest})"),
            (Some(expected), ..) => format!(" at about {expected}"),
            _ => String::new(),
        };
        format!("{}{times}: {}", told.summary, told.evidence.join("; "))
    };
    let evidence: Vec<String> = told.iter().take(MAX_EVIDENCE).map(line).collect();
    let subjects: Vec<&str> = told.iter().map(|told| told.summary.as_str()).collect();
    Sighting {
        report,
        detection: Detection {
            kind: about.kind(),
            severity: Severity::Warning,
            crash_type: None,
            summary: subjects.join("; "),
            first_line: evidence.first().cloned().unwrap_or_default(),
            evidence,
            count: 1,
            at: String::new(),
        },
        rule: rule_id(about),
        clear_after: None,
        condition: true,
        about,
        reason: None,
        watched: true,
    }
}

/// By what rule a condition of predictions lives on that nobody remembers.
pub fn foster(about: ConditionType) -> Foster {
    Foster { rule: rule_id(about), severity: Severity::Warning, crash_type: None, clear_after: None, watched: true }
}

/// Series of what the collector samples each second, which no health source reads again.
fn of_sample(sample: &Sample) -> Vec<Reading> {
    let mut readings = Vec::new();
    let mut level = |kind: &str, what: &str, value: Option<f64>| {
        readings.extend(value.map(|value| Reading::level(SeriesName::node(kind, what), value)));
    };
    level("cpu", "utilization", sample.cpu_utilization);
    level("disks", "busy", sample.disks.iter().map(|disk| disk.busy).reduce(f64::max));
    let sum = |of: fn(&crate::sources::Interface) -> f64| {
        (!sample.network.is_empty()).then(|| sample.network.iter().map(of).sum::<f64>())
    };
    level("interfaces", "received_bytes_per_second", sum(|interface| interface.received_bytes_per_second));
    level("interfaces", "sent_bytes_per_second", sum(|interface| interface.sent_bytes_per_second));
    let errors = sample.network.iter().map(|interface| interface.errors).fold(0, u64::saturating_add);
    if !sample.network.is_empty() {
        readings.push(Reading::counts(SeriesName::node("interfaces", "errors"), errors));
    }
    readings
}

/// Predicts until cancelled.
pub async fn run(
    interval: Duration,
    store: Store,
    boot_id: String,
    mut rules: watch::Receiver<Arc<Rulebook>>,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) {
    let mut followed = Arc::clone(&rules.borrow_and_update().predictions);
    let start = Arc::clone(&followed);
    let resumed =
        tokio::task::spawn_blocking(move || Predictor::resume(start, interval, store, boot_id, &Moment::now()));
    let Ok(mut predictor) = resumed.await else {
        tracing::error!("nothing is predicted: what was kept cannot be taken up");
        return;
    };
    let mut readings = shared.readings.subscribe();
    readings.mark_changed();
    let mut is_first = true;
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = readings.changed() => if changed.is_err() { break },
        }
        let now = Arc::clone(&readings.borrow_and_update());
        let mut changed = std::mem::take(&mut is_first);
        if rules.has_changed().unwrap_or(false) {
            followed = Arc::clone(&rules.borrow_and_update().predictions);
            changed |= predictor.book.change_rules(Arc::clone(&followed));
        }
        changed |= shared.with(|view| predictor.take(&now, &view.sample, &Moment::now()));
        if !changed {
            continue;
        }
        let told = predictor.book.predictions();
        for signal in predictor.signals(&followed, &told) {
            if signals.send(signal).await.is_err() {
                return;
            }
        }
        shared.set_predictions(told);
    }
    predictor.keep(&Moment::now(), true);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64, wall_ms: i64) -> Moment {
        Moment { boot_ms, wall: jiff::Timestamp::from_millisecond(wall_ms).unwrap() }
    }

    const HOUR: u64 = 3_600_000;

    fn disk(look: u64) -> Readings {
        let name = SeriesName::of("fs", "/var", "used_bytes");
        Readings::new(look * 60_000, vec![Reading::fills(name, (600 << 30) + look * 390_000_000, 1000 << 30)])
    }

    fn predictor(store: &Store, boot_id: &str, now: &Moment) -> Predictor {
        let rules = Arc::new(PredictionRules::built_in());
        Predictor::resume(rules, Duration::from_secs(60), store.clone(), boot_id.into(), now)
    }

    #[test]
    fn a_condition_begins_with_its_prediction_is_told_anew_with_it_and_ends_with_it() {
        let rules = PredictionRules::built_in();
        let mut predictor = predictor(&Store::none(), "b", &at(0, 0));
        assert!(matches!(predictor.signals(&rules, &[])[..], [Signal::Over { .. }]), "what an earlier agent left");
        assert!(predictor.signals(&rules, &[]).is_empty());
        let mut reports = Vec::new();
        for look in 0..60 * 15 {
            if predictor.take(&disk(look), &Sample::default(), &at(look * 60_000, (look * 60_000) as i64)) {
                let told = predictor.book.predictions();
                let signals = predictor.signals(&rules, &told);
                let [Signal::Seen(sighting)] = &signals[..] else { panic!("{signals:?}") };
                assert!(sighting.detection.evidence[0].contains("/var will be full at about 1970"), "{sighting:?}");
                reports.push(sighting.report);
            }
        }
        assert!(!reports.is_empty() && reports.iter().all(|report| *report == reports[0]));
        assert!(matches!(predictor.signals(&rules, &[])[..], [Signal::Over { .. }]));
    }

    #[test]
    fn the_clock_goes_on_over_restarts_and_reboots_and_never_back() {
        let kept = Stamp { boot_id: "b".into(), clock_ms: 10 * HOUR, boot_ms: 2 * HOUR, wall_ms: 1_000_000 };
        let clock = |boot_id: &str, boot_ms: u64, wall_ms: i64| {
            i128::from(boot_ms) + offset(&kept, boot_id, &at(boot_ms, wall_ms))
        };
        assert_eq!(clock("b", 3 * HOUR, 0), i128::from(11 * HOUR), "a restart");
        assert_eq!(clock("c", 60_000, 1_000_000 + HOUR as i64), i128::from(11 * HOUR), "a reboot");
        assert_eq!(clock("c", 60_000, 0), i128::from(10 * HOUR), "a clock that was set back");
        assert!(clock("c", 60_000, i64::MAX / 1_000_000) <= i128::from(10 * HOUR + LONGEST_OFF_MS));
    }

    #[test]
    fn what_was_learned_outlives_a_restart_and_a_reboot() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut before = predictor(&store, "b", &at(0, 0));
        let last = 60 * 15;
        for look in 0..last {
            before.take(&disk(look), &Sample::default(), &at(look * 60_000, (look * 60_000) as i64));
        }
        let told = before.book.predictions();
        assert_eq!(told.len(), 1);
        let end = at(last * 60_000, (last * 60_000) as i64);
        before.keep(&end, true);
        let after = predictor(&store, "b", &end);
        assert_eq!(after.book.predictions(), told);
        let mut rebooted = predictor(&store, "c", &at(30_000, (last * 60_000) as i64 + 90_000));
        assert_eq!(rebooted.book.predictions(), told);
        let on = at(40_000, (last * 60_000) as i64 + 100_000);
        assert!(!rebooted.take(&disk(last + 10), &Sample::default(), &on));
    }

    #[test]
    fn state_is_written_at_most_once_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut predictor = predictor(&store, "b", &at(0, 0));
        let mut written = 0;
        for second in 0..600 {
            predictor.unkept = true;
            let before = predictor.kept_ms;
            predictor.keep(&at(second * 1000, 0), false);
            written += u64::from(predictor.kept_ms != before);
        }
        assert!((1..=10).contains(&written), "{written}");
    }
}
