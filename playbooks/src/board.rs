//! The board of signals: what Events, alerts, predictions, times and objects have raised, for whom and since when.
//!
//! Whoever watches puts in what it saw; the planner reads [`Board::signals`]. Objects are judged when they change, so a
//! plan costs nothing for those that match nothing. The board is bounded: a flood is dropped, counted and told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evergreen_api::resources::{Confidence, DATA_CENTER, NodePrediction, Subject, Trigger};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    expression::{Expression, Variables},
    kinds,
    planner::{CompiledPlaybook, CompiledSource, Signal, later},
    view::{NodeView, ObjectView},
};

/// Most signals at once. A thousand nodes with five problems each are 5,000.
pub const MAX_SIGNALS: usize = 10_000;
/// An alert that is not repeated for so long is over: Alertmanager repeats after 4 hours unless told otherwise.
const ALERT_EXPIRES: std::time::Duration = std::time::Duration::from_secs(6 * 3_600);

/// An Event, as far as triggers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventView {
    /// Reason, one word.
    pub reason: String,
    /// Warning or Normal.
    pub type_: String,
    /// What it says.
    pub message: String,
    /// How often it happened.
    pub count: u32,
    /// When it last happened.
    pub last_seen: Timestamp,
    /// Who says so.
    pub source: String,
    /// Object that it is about.
    pub about: Subject,
    /// UID of the Event itself.
    pub uid: String,
}

/// An alert of Alertmanager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertView {
    /// What makes it one alert: Alertmanager's fingerprint.
    pub fingerprint: String,
    /// Whether it fires; resolved otherwise.
    pub firing: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Since when, as Alertmanager says.
    pub starts_at: String,
}

/// What raised a signal; the same thing seen again replaces itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Event(String),
    Alert(String),
    Prediction(String),
    Schedule,
    Object(String),
}

/// All signals.
#[derive(Clone, Debug, Default)]
pub struct Board {
    signals: BTreeMap<(Source, String, usize), Arc<Signal>>,
    dropped: u64,
    /// Since when each playbook is known, so that no time before it is made up for.
    known_since: BTreeMap<String, Timestamp>,
}

impl Board {
    /// All signals, in a fixed order.
    pub fn signals(&self) -> Vec<Arc<Signal>> {
        self.signals.values().map(Arc::clone).collect()
    }

    /// Signals that were dropped because there were too many.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Forgets everything about a playbook: it is gone, or says something else now.
    pub fn forget(&mut self, playbook: &str) {
        self.signals.retain(|(_, known, _), _| known != playbook);
        self.known_since.remove(playbook);
    }

    /// Takes an Event in. Returns whether anything was raised.
    pub fn event(&mut self, playbooks: &[Arc<CompiledPlaybook>], event: &EventView, now: Timestamp) -> bool {
        let mut raised = false;
        for (playbook, index, trigger, source) in triggers(playbooks) {
            let Some(wanted) = &trigger.event else { continue };
            let about = &event.about;
            let matches = wanted.reasons.contains(&event.reason)
                && wanted.type_ == event.type_
                && wanted.kind == about.kind
                && wanted.namespace.as_ref().is_none_or(|wanted| about.namespace.as_ref() == Some(wanted))
                && event.count >= wanted.count;
            // An Event in the future is another machine's clock: it happened now.
            let at = event.last_seen.min(now);
            let expires = later(at, wanted.within.get());
            if !matches || expires <= now {
                continue;
            }
            let variables = Variables::from_iter([(
                "event".to_owned(),
                json!({
                    "reason": event.reason, "type": event.type_, "message": event.message, "count": event.count,
                    "kind": about.kind, "namespace": about.namespace.clone().unwrap_or_default(), "name": about.name,
                    "source": event.source
                }),
            )]);
            let text = format!("Event {}", event.reason);
            let Some(mut signal) = judged(playbook, index, source, &variables, about.clone(), at, text) else {
                continue;
            };
            signal.expires_at = Some(expires);
            signal.once = true;
            raised |= self.put(Source::Event(format!("{}/{}", about.uid, event.reason)), signal);
        }
        raised
    }

    /// Takes an alert in. Returns whether anything changed.
    pub fn alert(&mut self, playbooks: &[Arc<CompiledPlaybook>], alert: &AlertView, now: Timestamp) -> bool {
        let key = || Source::Alert(alert.fingerprint.clone());
        if !alert.firing {
            let before = self.signals.len();
            self.signals.retain(|(source, _, _), _| *source != key());
            return self.signals.len() != before;
        }
        let mut raised = false;
        for (playbook, index, trigger, source) in triggers(playbooks) {
            let Some(wanted) = &trigger.alert else { continue };
            if !wanted.labels.iter().all(|(name, value)| alert.labels.get(name) == Some(value)) {
                continue;
            }
            let subject = match &wanted.subject {
                None => data_center(),
                Some(subject) => {
                    // Without the label that names the object nothing can be done for it.
                    let Some(name) = alert.labels.get(&subject.name_label) else { continue };
                    let kind = kinds::named(&subject.kind);
                    let namespaced = kind.is_some_and(|kind| kind.namespaced);
                    let namespace = alert.labels.get(&subject.namespace_label).cloned().filter(|_| namespaced);
                    if namespaced && namespace.is_none() {
                        continue;
                    }
                    let version = kind.map(|kind| kind.api_version).filter(|version| *version != "v1");
                    Subject {
                        api_version: version.unwrap_or_default().to_owned(),
                        kind: subject.kind.clone(),
                        namespace,
                        name: name.clone(),
                        uid: String::new(),
                    }
                }
            };
            let name = alert.labels.get("alertname").cloned().unwrap_or_default();
            let variables = Variables::from_iter([(
                "alert".to_owned(),
                json!({
                    "name": name, "labels": alert.labels, "annotations": alert.annotations, "startsAt": alert.starts_at
                }),
            )]);
            let text = format!("alert {name}");
            let Some(mut signal) = judged(playbook, index, source, &variables, subject, now, text) else { continue };
            signal.hold = wanted.for_.get();
            signal.expires_at = Some(later(now, ALERT_EXPIRES));
            raised |= self.put(key(), signal);
        }
        raised
    }

    /// Takes in all that is predicted for a node now; what is not among it is withdrawn. Returns whether anything changed.
    pub fn predictions(
        &mut self,
        playbooks: &[Arc<CompiledPlaybook>],
        node: &NodeView,
        predictions: &[NodePrediction],
        now: Timestamp,
    ) -> bool {
        let mut seen = BTreeSet::new();
        let mut changed = false;
        for prediction in predictions {
            let kind = prediction.kind.condition_type();
            for (playbook, index, trigger, source) in triggers(playbooks) {
                let Some(wanted) = trigger.prediction.as_ref().filter(|wanted| wanted.kind == kind) else { continue };
                let time = match wanted.confidence {
                    Confidence::Expected => &prediction.expected_at,
                    Confidence::High => &prediction.latest,
                };
                let seconds = |time: &Option<String>| {
                    let at = time.as_ref()?.parse::<Timestamp>().ok()?;
                    Some(at.duration_since(now).as_secs())
                };
                let left = seconds(time);
                let within = wanted.within.map(|within| i64::try_from(within.get().as_secs()).unwrap_or(i64::MAX));
                if within.is_some_and(|within| left.is_none_or(|left| left > within)) {
                    continue;
                }
                let number = |time: &Option<String>| seconds(time).map_or(Value::Null, Value::from);
                let variables = Variables::from_iter([
                    (
                        "prediction".to_owned(),
                        json!({
                            "kind": kind, "basis": prediction.basis.as_str(), "subject": prediction.subject,
                            "summary": prediction.summary, "method": prediction.method,
                            "expectedInSeconds": number(&prediction.expected_at),
                            "earliestInSeconds": number(&prediction.earliest),
                            "latestInSeconds": number(&prediction.latest)
                        }),
                    ),
                    ("node".to_owned(), node.to_fields().into()),
                ]);
                let text = format!("prediction {kind} of {}", prediction.subject);
                let Some(mut signal) = judged(playbook, index, source, &variables, node.subject(), now, text) else {
                    continue;
                };
                signal.hold = wanted.for_.get();
                signal.node = Some(node.name.clone());
                let key = Source::Prediction(format!("{}/{kind}/{}", node.name, prediction.subject));
                seen.insert((key.clone(), playbook.name.clone(), index));
                changed |= self.put(key, signal);
            }
        }
        let before = self.signals.len();
        let prefix = format!("{}/", node.name);
        self.signals.retain(|key, _| {
            !matches!(&key.0, Source::Prediction(source) if source.starts_with(&prefix)) || seen.contains(key)
        });
        changed || self.signals.len() != before
    }

    /// Takes an object in, as it is now. Returns whether anything changed.
    pub fn object(&mut self, playbooks: &[Arc<CompiledPlaybook>], object: &ObjectView, now: Timestamp) -> bool {
        let key = Source::Object(object.uid.clone());
        let mut changed = false;
        for (playbook, index, trigger, source) in triggers(playbooks) {
            let Some(wanted) = &trigger.object else { continue };
            let name = &object.object;
            let matches = wanted.api_version == name.api_version
                && wanted.kind == name.kind
                && wanted.namespace.as_ref().is_none_or(|wanted| name.namespace.as_ref() == Some(wanted))
                && wanted.labels.iter().all(|(key, value)| object.label(key) == Some(value));
            let variables = || Variables::from_iter([("object".to_owned(), object.body.clone())]);
            let text = format!("{} matches", name.kind);
            let signal = matches
                .then(|| judged(playbook, index, source, &variables(), object.subject(), now, text))
                .flatten()
                // What an object lacks cannot be judged; that is as usual as a pod without a node.
                .filter(|signal| signal.untold.is_none());
            match signal {
                Some(mut signal) => {
                    signal.hold = wanted.for_.get();
                    signal.node = object.node();
                    changed |= self.put(key.clone(), signal);
                }
                None => changed |= self.signals.remove(&(key.clone(), playbook.name.clone(), index)).is_some(),
            }
        }
        changed
    }

    /// An object is gone. Returns whether anything changed.
    pub fn object_gone(&mut self, uid: &str) -> bool {
        let before = self.signals.len();
        self.signals.retain(|(source, _, _), _| !matches!(source, Source::Object(known) if known == uid));
        self.signals.len() != before
    }

    /// Raises what the time raises and forgets what is over. Returns when to ask again.
    pub fn tick(&mut self, playbooks: &[Arc<CompiledPlaybook>], now: Timestamp) -> Option<Timestamp> {
        self.signals.retain(|_, signal| signal.expires_at.is_none_or(|expires| expires > now));
        let mut next: Option<Timestamp> = None;
        for (playbook, index, trigger, source) in triggers(playbooks) {
            let Some((wanted, schedule)) = trigger.schedule.as_ref().zip(source.schedule.as_ref()) else { continue };
            let since = *self.known_since.entry(playbook.name.clone()).or_insert(now);
            if let Some(at) = schedule.next(now) {
                next = Some(next.map_or(at, |known| known.min(at)));
            }
            let Some(at) = schedule.last(now) else { continue };
            let expires = later(at, wanted.within.get());
            // A controller that was away for a moment makes up for it; one that has just learned of the playbook does too,
            // within the same bound, because who led before it may have gone away right then.
            if expires <= now
                || at
                    < since
                        .checked_sub(jiff::SignedDuration::try_from(wanted.within.get()).unwrap_or_default())
                        .unwrap_or(since)
            {
                continue;
            }
            let text = format!("schedule {}", wanted.cron);
            let mut signal = raised(playbook, index, data_center(), at, text);
            signal.expires_at = Some(expires);
            signal.once = true;
            self.put(Source::Schedule, signal);
        }
        next
    }

    /// Puts a signal on the board; one that is raised already keeps its time unless something new happened.
    fn put(&mut self, source: Source, mut signal: Signal) -> bool {
        let key = (source, signal.playbook.clone(), signal.trigger);
        match self.signals.get(&key) {
            Some(known) => {
                if !signal.once {
                    signal.raised_at = known.raised_at;
                }
                // An expiry that is put off changes no plan.
                let same = Signal { expires_at: known.expires_at, ..signal.clone() } == **known;
                if same && known.expires_at == signal.expires_at {
                    return false;
                }
                self.signals.insert(key, Arc::new(signal));
                !same
            }
            None if self.signals.len() >= MAX_SIGNALS => {
                self.dropped += 1;
                false
            }
            None => {
                self.signals.insert(key, Arc::new(signal));
                true
            }
        }
    }
}

fn triggers(
    playbooks: &[Arc<CompiledPlaybook>],
) -> impl Iterator<Item = (&CompiledPlaybook, usize, &Trigger, &CompiledSource)> {
    playbooks.iter().flat_map(|playbook| {
        let triggers = playbook.spec.matches.iter().zip(&playbook.sources).enumerate();
        triggers.map(move |(index, (trigger, source))| (&**playbook, index, trigger, source))
    })
}

/// A signal, if `when` holds or cannot be told.
fn judged(
    playbook: &CompiledPlaybook,
    index: usize,
    source: &CompiledSource,
    variables: &Variables,
    subject: Subject,
    at: Timestamp,
    text: String,
) -> Option<Signal> {
    let holds = |when: &Expression| when.holds_on(variables).map_err(|error| error.to_string());
    let untold = match source.when.as_ref().map_or(Ok(true), holds) {
        Ok(true) => None,
        Ok(false) => return None,
        Err(why) => Some(why),
    };
    Some(Signal { untold, ..raised(playbook, index, subject, at, text) })
}

fn raised(playbook: &CompiledPlaybook, index: usize, subject: Subject, at: Timestamp, text: String) -> Signal {
    Signal {
        playbook: playbook.name.clone(),
        trigger: index,
        subject,
        node: None,
        raised_at: at,
        hold: std::time::Duration::ZERO,
        expires_at: None,
        once: false,
        text,
        untold: None,
    }
}

fn data_center() -> Subject {
    Subject { kind: DATA_CENTER.to_owned(), name: "data-center".to_owned(), ..Subject::default() }
}

#[cfg(test)]
mod tests;
