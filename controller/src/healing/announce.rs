//! What healing says about what it does: spans of the incident, Events on the node, a counter, log lines. None of it is
//! ever waited for by a decision, and none of it may fail a run.

use std::{collections::BTreeMap, time::SystemTime};

use evergreen_api::{
    TraceParent, names,
    resources::{DATA_CENTER, PlaybookRunSpec, RunPhase, StepRecord, Subject},
    telemetry::{attribute, metric, span},
};
use evergreen_playbooks::planner::{Blocked, Incident, Quarantine, Start};
use evergreen_telemetry::{IncidentSpan, IncidentTracer, KeyValue};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use opentelemetry::metrics::Counter;
use tokio::sync::mpsc;

use super::{HealingContext, calls::call};

/// Where Events of objects without a namespace live; API servers up to 1.20 take them only in the second.
const EVENT_NAMESPACES: [&str; 2] = ["default", "kube-system"];
/// Longest note that the API server takes.
const MAX_NOTE: usize = 1_000;
/// Events that wait to be written; more are dropped, the log line stays.
const EVENT_QUEUE: usize = 256;

/// Says what happens.
pub(crate) struct Announcer {
    site: String,
    incidents: IncidentTracer,
    runs: Counter<u64>,
    events: mpsc::Sender<Event>,
}

impl Announcer {
    /// Events go into the returned queue; see [`write_events`].
    pub(crate) fn new(ctx: &HealingContext) -> (Self, mpsc::Receiver<Event>) {
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let runs = ctx
            .meter
            .u64_counter(metric::PLAYBOOK_RUNS)
            .with_description("Playbook runs that ended, by phase.")
            .build();
        (Self { site: ctx.site.clone(), incidents: ctx.incidents.clone(), runs, events }, queue)
    }

    fn attributes(&self, subject: &Subject) -> Vec<KeyValue> {
        let what = match subject.kind.as_str() {
            "Node" => KeyValue::new(attribute::NODE, subject.name.clone()),
            _ => KeyValue::new("evergreen.subject", subject.display()),
        };
        vec![KeyValue::new(attribute::SITE, self.site.clone()), what]
    }

    /// Begins an incident that no agent has begun: the condition came from another detector.
    pub(crate) fn detected(&self, start: &Start) -> TraceParent {
        let mut attributes = self.attributes(&start.subject);
        attributes.extend([
            KeyValue::new(attribute::INCIDENT, true),
            KeyValue::new(attribute::INCIDENT_TITLE, format!("{} on {}", start.condition, start.subject.name)),
            KeyValue::new(attribute::PROBLEM_KIND, start.condition.clone()),
        ]);
        let root = self.incidents.root(span::PROBLEM_DETECTED, attributes);
        let trace = root.traceparent();
        root.end();
        trace
    }

    /// A playbook was chosen for a problem: why, and what was not.
    pub(crate) fn matched(&self, start: &Start, trace: TraceParent, since: SystemTime) {
        let mut attributes = self.attributes(&start.subject);
        attributes.extend([
            KeyValue::new(attribute::PLAYBOOK, start.playbook.name.clone()),
            KeyValue::new(attribute::RUN, start.run.clone()),
            KeyValue::new(attribute::REASON, start.reasons.join("; ")),
            KeyValue::new(attribute::REJECTED, start.rejected.join("; ")),
        ]);
        self.incidents.child_since(trace, span::PLAYBOOK_MATCH, attributes, since).end();
    }

    /// Begins the span of a run, or of its continuation after a crash.
    pub(crate) fn run(&self, name: &str, spec: &PlaybookRunSpec, resumed: bool) -> RunSpans {
        let trace = spec.traceparent.as_deref().and_then(|text| text.parse().ok());
        let mut attributes = self.attributes(&spec.subject);
        attributes.extend([
            KeyValue::new(attribute::PLAYBOOK, spec.playbook.clone()),
            KeyValue::new(attribute::RUN, name.to_owned()),
            KeyValue::new("evergreen.run.attempt", i64::from(spec.attempt)),
            KeyValue::new("evergreen.run.resumed", resumed),
        ]);
        let run = match trace {
            Some(trace) => self.incidents.child(trace, span::PLAYBOOK_RUN, attributes),
            None => self.incidents.root(span::PLAYBOOK_RUN, attributes),
        };
        let trace = trace.unwrap_or_else(|| run.traceparent());
        RunSpans {
            incidents: self.incidents.clone(),
            common: self.attributes(&spec.subject),
            trace,
            run: Some(run),
            step: None,
        }
    }

    /// A run is over.
    pub(crate) fn ended(
        &self,
        name: &str,
        spec: &PlaybookRunSpec,
        spans: &mut RunSpans,
        phase: RunPhase,
        message: &str,
    ) {
        let verdict = verdict(phase);
        let attributes = [
            KeyValue::new(attribute::PLAYBOOK, spec.playbook.clone()),
            KeyValue::new(attribute::RUN_PHASE, format!("{phase:?}")),
        ];
        self.runs.add(1, &attributes);
        spans.close(verdict, phase == RunPhase::Succeeded || phase == RunPhase::Observed, message);
        tracing::info!(run = %name, playbook = %spec.playbook, node = %spec.subject.name, verdict, %message, "run ended");
    }

    /// An Event about a run on its node.
    pub(crate) fn event(&self, spec: &PlaybookRunSpec, what: Happened<'_>) {
        let note = of_playbook(&spec.playbook, what.note);
        self.send(self.event_object(&spec.subject, &Happened { note: &note, ..what }, spec.traceparent.clone()));
    }

    /// An Event about a match that starts nothing.
    pub(crate) fn blocked(&self, blocked: &Blocked) {
        let note = of_playbook(&blocked.playbook, &blocked.reason);
        let what = Happened { reason: "PlaybookBlocked", action: "Match", note: &note, bad: true };
        self.send(self.event_object(&blocked.subject, &what, None));
    }

    /// An Event about a node in quarantine.
    pub(crate) fn quarantined(&self, quarantine: &Quarantine) {
        let note = of_playbook(&quarantine.playbook, &quarantine.reason);
        let what = Happened { reason: "NodeQuarantined", action: "Quarantine", note: &note, bad: true };
        self.send(self.event_object(&quarantine.node.subject(), &what, None));
    }

    /// An Event about the data center: nodes of one rack show the same.
    pub(crate) fn incident(&self, incident: &Incident) {
        let what = incident.describe();
        let note = match &incident.failed {
            None => format!("{what}: one incident, one run at a time ({})", incident.nodes.join(", ")),
            Some((run, until)) => format!(
                "{what}: run {run} did not end well; nothing more is tried by itself until {until:.0}. Look at the rack, \
                 or delete that run to let the next one start"
            ),
        };
        tracing::warn!(rack = %incident.rack, symptom = %incident.symptom, nodes = incident.nodes.len(), "{note}");
        let subject = Subject { kind: DATA_CENTER.to_owned(), name: self.site.clone(), ..Subject::default() };
        let happened = Happened { reason: "RackIncident", action: "Match", note: &note, bad: true };
        self.send(self.event_object(&subject, &happened, None));
    }

    fn send(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("an Event was dropped: the API server takes them too slowly");
        }
    }

    fn event_object(&self, subject: &Subject, what: &Happened<'_>, trace: Option<String>) -> Event {
        let note: String = what.note.chars().take(MAX_NOTE).collect();
        let annotations = trace.map(|trace| BTreeMap::from([(names::ANNOTATION_TRACEPARENT.to_owned(), trace)]));
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{}", subject.name, uuid::Uuid::new_v4().simple())),
                annotations,
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some("evergreen.dev/controller".to_owned()),
            reporting_instance: Some(format!("evergreen-controller-{}", self.site)),
            action: Some(what.action.to_owned()),
            reason: Some(what.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(subject.object().api_version),
                kind: Some(subject.kind.clone()),
                namespace: subject.namespace.clone(),
                name: Some(subject.name.clone()),
                uid: Some(subject.uid.clone()),
                ..ObjectReference::default()
            }),
            note: Some(note),
            type_: Some(if what.bad { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

fn of_playbook(playbook: &str, note: &str) -> String {
    format!("playbook {playbook}: {note}")
}

/// Writes Events one after the other, so that no decision ever waits for one.
pub(crate) async fn write_events(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut namespaces = EVENT_NAMESPACES.into_iter();
    let mut namespace = namespaces.next();
    while let (Some(mut event), Some(mut current)) = (events.recv().await, namespace) {
        loop {
            // An Event about an object in a namespace must be in it.
            let own = event.regarding.as_ref().and_then(|about| about.namespace.clone());
            let place = own.clone().unwrap_or_else(|| current.to_owned());
            event.metadata.namespace = Some(place.clone());
            let api = Api::<Event>::namespaced(client.clone(), &place);
            match call("write an Event", api.create(&PostParams::default(), &event)).await {
                Ok(_) => break,
                Err(error) => match own.is_none().then(|| namespaces.next()).flatten().filter(|_| error.is_invalid()) {
                    Some(next) => (namespace, current) = (Some(next), next),
                    None => {
                        tracing::warn!(error = %error.describe(), "an Event was not written");
                        break;
                    }
                },
            }
        }
    }
}

/// Something to tell in an Event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Happened<'a> {
    /// One word, in CamelCase.
    pub(crate) reason: &'a str,
    /// What was done, one word.
    pub(crate) action: &'a str,
    /// One sentence.
    pub(crate) note: &'a str,
    /// Whether a person should look.
    pub(crate) bad: bool,
}

/// How an incident ended, as the span says it.
pub(crate) fn verdict(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::Succeeded => "healed",
        RunPhase::RolledBack => "rolled_back",
        RunPhase::Observed => "observed",
        _ => "failed",
    }
}

/// Open spans of a run. They live in the process: a crash ends them, the log of the run goes on.
pub(crate) struct RunSpans {
    incidents: IncidentTracer,
    common: Vec<KeyValue>,
    trace: TraceParent,
    run: Option<IncidentSpan>,
    step: Option<IncidentSpan>,
}

impl RunSpans {
    /// A step was intended, now or before a crash.
    pub(crate) fn step(&mut self, spec: &PlaybookRunSpec, record: &StepRecord, resumed: bool) {
        let parent = self.run.as_ref().map_or(self.trace, IncidentSpan::traceparent);
        let name = match (record.action.as_str(), record.undo) {
            ("verify", false) if record.index as usize >= spec.plan.steps.len() => span::VERIFY.to_owned(),
            (action, _) => format!("{}{action}", span::STEP_PREFIX),
        };
        let mut attributes = self.common.clone();
        attributes.push(KeyValue::new("evergreen.step.index", i64::from(record.index)));
        attributes.push(KeyValue::new("evergreen.step.undo", record.undo));
        let intended = record.intended_at.parse::<Timestamp>().ok().filter(|_| resumed).map(SystemTime::from);
        self.step = Some(match intended {
            Some(since) => self.incidents.child_since(parent, name, attributes, since),
            None => self.incidents.child(parent, name, attributes),
        });
    }

    /// Something happened within the open step.
    pub(crate) fn note(&mut self, name: &'static str, message: &str) {
        if let Some(step) = &mut self.step {
            step.event(name, vec![KeyValue::new("message", message.to_owned())]);
        }
    }

    /// The open step ended.
    pub(crate) fn step_ended(&mut self, good: bool, message: &str) {
        if let Some(mut step) = self.step.take() {
            step.set(KeyValue::new("evergreen.step.message", message.to_owned()));
            if good { step.end() } else { step.fail(message.to_owned()) }
        }
    }

    fn close(&mut self, verdict: &'static str, good: bool, message: &str) {
        if let Some(mut run) = self.run.take() {
            run.set(KeyValue::new(attribute::INCIDENT_VERDICT, verdict));
            if good { run.end() } else { run.fail(message.to_owned()) }
        }
        let mut attributes = self.common.clone();
        attributes.push(KeyValue::new(attribute::INCIDENT_VERDICT, verdict));
        attributes.push(KeyValue::new("evergreen.incident.message", message.to_owned()));
        self.incidents.child(self.trace, span::INCIDENT_CLOSE, attributes).end();
    }
}
