//! The one owner of the node's problems: takes what detectors say, keeps the book of conditions, starts the trace of an
//! incident, and says what the cluster should show.
//!
//! Order matters: a change is on disk before it is published, and the place in the kernel log is kept only after what was
//! read up to it, so that kill -9 at any moment neither loses a problem nor raises one twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::telemetry::{attribute, span};
use evergreen_telemetry::{IncidentTracer, KeyValue};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Moment,
    conditions::{Adopted, Change, ConditionBook, ConditionType},
    host::Root,
    kernel::position::Position,
    publish::Desired,
    rules::Rulebook,
    shared::Shared,
    signal::Signal,
    store::Store,
};

/// File of the conditions in the state directory.
const CONDITIONS: &str = "conditions.json";
/// File of the place in the kernel log.
const POSITION: &str = "kmsg.json";
/// File of the places in the logs of monitors.
const LOG_POSITIONS: &str = "logs.json";
/// How often quiet times are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often a mere count is published.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// Settings of the actor.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// Name of the node.
    pub node: String,
    /// Name of its site.
    pub site: String,
    /// No problem that ends by being quiet waits longer than this.
    pub clear_after_at_most: Option<Duration>,
}

/// The actor.
pub struct Health {
    config: HealthConfig,
    root: Root,
    store: Store,
    rules: Arc<Rulebook>,
    incidents: IncidentTracer,
    book: ConditionBook,
    desired: watch::Sender<Desired>,
    shared: Arc<Shared>,
    counted: Option<Instant>,
    kept: bool,
    position: Option<Position>,
    log_positions: BTreeMap<String, Position>,
    logs_moved: bool,
}

impl Health {
    /// An actor that goes on with what an earlier agent kept.
    pub fn new(
        config: HealthConfig,
        root: Root,
        store: Store,
        rules: Arc<Rulebook>,
        incidents: IncidentTracer,
        shared: Arc<Shared>,
    ) -> (Self, watch::Receiver<Desired>) {
        let boot_id = root.boot_id();
        let now = Moment::now();
        let (mut book, changes) = match store.load::<ConditionBook>(CONDITIONS) {
            Some(kept) => kept.resume(&boot_id, |rule| rules.knows(rule), &now),
            None => (ConditionBook::new(boot_id), Vec::new()),
        };
        book.promise(rules.promises(), &now);
        let log_positions = store.load::<BTreeMap<String, Position>>(LOG_POSITIONS).unwrap_or_default();
        shared.log_positions.lock().clone_from(&log_positions);
        let (desired, receiver) = watch::channel(Desired::default());
        let health = Self {
            config,
            root,
            store,
            rules,
            incidents,
            book,
            desired,
            shared,
            counted: None,
            kept: true,
            position: None,
            log_positions,
            logs_moved: false,
        };
        if !changes.is_empty() {
            health.keep(true);
        }
        health.show();
        (health, receiver)
    }

    /// Place in the kernel log that an earlier agent kept.
    pub fn kept_position(store: &Store) -> Option<Position> {
        store.load(POSITION)
    }

    /// Works until cancelled.
    pub async fn run(
        mut self,
        mut signals: mpsc::Receiver<Signal>,
        mut adopted: mpsc::Receiver<Adopted>,
        cancel: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(signal) = signals.recv() => self.take(signal),
                Some(found) = adopted.recv() => self.adopt(found),
                _ = tick.tick() => self.tick(),
            }
        }
        self.keep(true);
        self.keep_position();
    }

    fn take(&mut self, signal: Signal) {
        let now = Moment::now();
        match signal {
            // A reader may not have heard yet that its rule is gone.
            Signal::Seen(sighting) if !self.rules.knows(&sighting.rule) => {
                tracing::debug!(rule = sighting.rule, "what a removed rule saw is left alone");
            }
            Signal::Seen(mut sighting) => {
                if let Some(limit) = self.config.clear_after_at_most.filter(|_| !sighting.watched) {
                    sighting.clear_after = Some(sighting.clear_after.map_or(limit, |time| time.min(limit)));
                }
                let change = self.book.observe(sighting, &now);
                self.changed(vec![change]);
            }
            Signal::Over { rule, why } => {
                let changes = self.book.cancel(&rule, &why, &now);
                self.changed(changes);
            }
            Signal::Rules(rules) => {
                let changes = self.book.keep_rules(|rule| rules.knows(rule));
                self.book.promise(rules.promises(), &now);
                self.rules = rules;
                self.changed(changes);
                self.show();
            }
            Signal::Position(position) => self.position = Some(position),
            Signal::LogPosition { source, position } => {
                self.log_positions.insert(source, position);
                self.logs_moved = true;
            }
        }
    }

    fn adopt(&mut self, found: Adopted) {
        let Some(foster) = self.rules.foster(found.about) else { return };
        tracing::info!(condition = %found.about, "a condition of an earlier agent is taken up");
        let change = self.book.adopt(found, foster, &Moment::now());
        self.changed(change.into_iter().collect());
    }

    fn tick(&mut self) {
        let now = Moment::now();
        let mut changes = self.book.boot(&self.root.boot_id(), &now);
        changes.extend(self.book.expire(&now));
        self.changed(changes);
        self.keep_position();
        if self.counted.is_some_and(|since| since.elapsed() >= COUNT_INTERVAL) {
            self.counted = None;
        }
        self.show();
    }

    fn changed(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let urgent = changes.iter().any(Change::is_urgent);
        for change in &changes {
            match change {
                Change::Raised(kind) => self.begin_incident(*kind),
                Change::Cleared(kind) => tracing::info!(%kind, node = self.config.node, "problem is over"),
                Change::Changed(kind) => tracing::warn!(%kind, node = self.config.node, "problem got worse"),
                Change::Retired(kind) => tracing::info!(%kind, node = self.config.node, "problem went with its rule"),
                Change::Counted(_) => {}
            }
        }
        if urgent {
            self.keep(true);
            self.show();
        } else {
            self.counted.get_or_insert_with(Instant::now);
            self.kept = false;
        }
    }

    fn begin_incident(&mut self, kind: ConditionType) {
        let Some(problem) = self.book.get(kind) else { return };
        let shown = &problem.shown;
        let title = format!("{kind} on {}: {}", self.config.node, shown.summary);
        let attributes = vec![
            // What is only told needs nobody to end it.
            KeyValue::new(attribute::INCIDENT, problem.condition),
            KeyValue::new(attribute::INCIDENT_TITLE, title),
            KeyValue::new(attribute::PROBLEM_KIND, kind.kind().condition_type()),
            KeyValue::new(attribute::PROBLEM_SEVERITY, shown.severity.as_str()),
            KeyValue::new(attribute::PROBLEM_SUMMARY, shown.summary.clone()),
            KeyValue::new(attribute::PROBLEM_EVIDENCE, shown.evidence.join("\n")),
            KeyValue::new(attribute::NODE, self.config.node.clone()),
            KeyValue::new(attribute::SITE, self.config.site.clone()),
        ];
        tracing::warn!(
            %kind,
            severity = %shown.severity,
            summary = shown.summary,
            evidence = shown.evidence.first().map_or("", String::as_str),
            node = self.config.node,
            "problem detected"
        );
        let root = self.incidents.root(span::PROBLEM_DETECTED, attributes);
        let traceparent = root.traceparent().to_string();
        root.end();
        self.book.set_trace(kind, traceparent);
    }

    fn keep(&self, durable: bool) {
        if let Err(error) = self.store.save(CONDITIONS, &self.book, durable) {
            tracing::warn!(%error, "conditions could not be kept; a restart would find them on the Node only");
        }
    }

    fn keep_position(&mut self) {
        // Counts first: the place behind lines that were not counted would lose them.
        if !std::mem::replace(&mut self.kept, true) {
            self.keep(false);
        }
        if let Some(position) = self.position.take()
            && let Err(error) = self.store.save(POSITION, &position, false)
        {
            tracing::warn!(%error, "the place in the kernel log could not be kept");
        }
        if std::mem::take(&mut self.logs_moved) {
            // Of monitors that are there: a place of one that was removed is of no use to one that takes its name later.
            let logs = &self.rules.logs;
            self.log_positions.retain(|source, _| logs.iter().any(|log| log.source == *source));
            if let Err(error) = self.store.save(LOG_POSITIONS, &self.log_positions, false) {
                tracing::warn!(%error, "the places in the logs of monitors could not be kept");
            }
        }
    }

    /// Shows the state. Mere counts wait for their interval, so that a storm does not become a storm of writes.
    fn show(&self) {
        let (sources, energy) = self.shared.provenance();
        let predictions = self.shared.with(|view| view.predictions.clone());
        let fresh = Desired { sources, energy, predictions, ..Desired::from_book(&self.book) };
        self.shared.set_problems(&self.book);
        self.desired.send_if_modified(|shown| {
            let mut next = fresh;
            if self.counted.is_some() {
                for (about, problem) in &mut next.problems {
                    let before = shown
                        .problems
                        .get(about)
                        .filter(|before| before.severity == problem.severity && before.summary == problem.summary);
                    if let Some(before) = before {
                        problem.clone_from(before);
                    }
                }
            }
            next.observed_at.clone_from(&shown.observed_at);
            if *shown == next {
                return false;
            }
            next.observed_at = Moment::now().rfc3339();
            *shown = next;
            true
        });
    }
}
