//! What is written: pure functions from the desired state to patches, statuses and Events.

use std::collections::BTreeMap;

use evergreen_api::{
    Severity, names,
    resources::{EnergyProvenance, NodeHealthStatus, NodePrediction, NodeProblem, SourceStatus},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use serde_json::{Map, Value, json};

use crate::conditions::{Cleared, ConditionBook, ConditionType, Promised};

/// Name under which the agent writes.
pub const CONTROLLER: &str = "evergreen.dev/agent";
/// Events are kept for an hour by default.
const YOUNG_SECONDS: i64 = 3_000;
/// The API server refuses longer notes of Events.
const MAX_NOTE: usize = 1000;

/// What the cluster should show about the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Boot that it speaks of.
    pub boot_id: String,
    /// `ok`, or the severity of the worst problem.
    pub verdict: String,
    /// Raised problems.
    pub problems: BTreeMap<ConditionType, NodeProblem>,
    /// Reasons that rules give for the raised ones.
    pub reasons: BTreeMap<ConditionType, String>,
    /// What conditions say that were promised, while nothing is wrong.
    pub promised: BTreeMap<ConditionType, Promised>,
    /// Raised problems that are no conditions of the Node.
    pub only_told: Vec<ConditionType>,
    /// Problems that ended.
    pub cleared: BTreeMap<ConditionType, Cleared>,
    /// Kinds whose condition is taken off the node.
    pub retired: Vec<ConditionType>,
    /// What is to be expected.
    pub predictions: Vec<NodePrediction>,
    /// What is read.
    pub sources: Vec<SourceStatus>,
    /// Where energy figures come from.
    pub energy: Option<EnergyProvenance>,
    /// When this was decided, RFC 3339.
    pub observed_at: String,
}

impl Desired {
    /// What a book of conditions wants shown.
    pub fn from_book(book: &ConditionBook) -> Self {
        Self {
            boot_id: book.boot_id().to_owned(),
            verdict: book.verdict().to_owned(),
            problems: book.raised().iter().map(|(about, problem)| (*about, problem.shown.clone())).collect(),
            reasons: book
                .raised()
                .iter()
                .filter_map(|(about, problem)| Some((*about, problem.reason.clone()?)))
                .collect(),
            promised: book.promised().clone(),
            only_told: book.only_told(),
            cleared: book.cleared().clone(),
            retired: book.retired().to_vec(),
            ..Self::default()
        }
    }

    /// Whether it says anything about a kind.
    pub fn knows(&self, kind: ConditionType) -> bool {
        self.problem(kind).is_some() || self.cleared.contains_key(&kind) || self.retired.contains(&kind)
    }

    /// Whether a problem of a kind is raised.
    pub(super) fn is_raised(&self, kind: ConditionType) -> bool {
        self.problem(kind).is_some()
    }

    fn problem(&self, kind: ConditionType) -> Option<&NodeProblem> {
        self.problems.get(&kind)
    }

    pub(super) fn traceparent(&self, kind: ConditionType) -> Option<&str> {
        let raised = self.problem(kind).and_then(|problem| problem.traceparent.as_deref());
        raised.or_else(|| self.cleared.get(&kind)?.traceparent.as_deref())
    }

    /// Conditions of the Node, by kind.
    pub(super) fn conditions(&self) -> BTreeMap<ConditionType, Value> {
        let conditions = self.problems.iter().filter(|(about, _)| !self.only_told.contains(about));
        let raised = conditions.map(|(about, problem)| {
            let message = message(problem);
            let reason = self.reason(*about);
            let condition = condition(*about, true, &reason, &message, &problem.first_seen, &problem.last_seen);
            (*about, condition)
        });
        let cleared = self.cleared.iter().map(|(about, cleared)| {
            let reason =
                self.promised.get(about).map_or_else(|| format!("{about}Cleared"), |promised| promised.reason.clone());
            (*about, condition(*about, false, &reason, &cleared.why, &cleared.at, &cleared.at))
        });
        let promised = self.promised.iter().map(|(about, promised)| {
            let Promised { reason, message, since } = promised;
            (*about, condition(*about, false, reason, message, since, since))
        });
        promised.chain(raised).chain(cleared).collect()
    }

    /// Whether the Node shows this condition even while nothing is wrong.
    pub(super) fn is_promised(&self, about: ConditionType) -> bool {
        self.promised.contains_key(&about)
    }

    fn reason(&self, about: ConditionType) -> String {
        self.reasons.get(&about).cloned().unwrap_or_else(|| format!("{about}Detected"))
    }

    /// Trace contexts that go with changed conditions; `null` takes one away.
    pub(super) fn annotations(
        &self,
        changed: &[(ConditionType, Value)],
        removed: &[ConditionType],
    ) -> Map<String, Value> {
        let name = |kind: &ConditionType| names::node_traceparent_annotation(kind.as_str());
        let set = changed.iter().filter_map(|(kind, _)| Some((name(kind), json!(self.traceparent(*kind)?))));
        set.chain(removed.iter().map(|kind| (name(kind), Value::Null))).collect()
    }

    /// Status of the NodeHealth.
    pub(super) fn health(&self) -> NodeHealthStatus {
        NodeHealthStatus {
            verdict: self.verdict.clone(),
            boot_id: self.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            observed_at: self.observed_at.clone(),
            problems: self.problems.values().cloned().collect(),
            predictions: self.predictions.clone(),
            sources: self.sources.clone(),
            energy: self.energy.clone(),
        }
    }

    /// Event about a problem that began or ended.
    pub(super) fn event(&self, node: &str, kind: ConditionType, raised: bool) -> Option<Event> {
        let (note, warning, at) = if raised {
            let problem = self.problem(kind)?;
            (message(problem), problem.severity >= Severity::Warning, problem.first_seen.clone())
        } else {
            let cleared = self.cleared.get(&kind)?;
            (cleared.why.clone(), false, cleared.at.clone())
        };
        let now = Timestamp::now();
        // The name says what happened when, so that a repeated write of the same Event is refused, not doubled.
        let moment = at.parse::<Timestamp>().unwrap_or(now);
        let verb = if raised { "detected" } else { "cleared" };
        let annotations = self
            .traceparent(kind)
            .map(|trace| BTreeMap::from([(names::ANNOTATION_TRACEPARENT.to_owned(), trace.to_owned())]));
        Some(Event {
            metadata: ObjectMeta {
                name: Some(format!("{node}.{}.{verb}.{:x}", kind.as_str().to_lowercase(), moment.as_millisecond())),
                annotations,
                ..ObjectMeta::default()
            },
            action: Some(if raised { "Detect".into() } else { "Clear".into() }),
            event_time: Some(MicroTime(now)),
            note: Some(note.chars().take(MAX_NOTE).collect()),
            reason: Some(if raised { self.reason(kind) } else { format!("{kind}Cleared") }),
            // As the kubelet does it, so that `kubectl describe node` shows it.
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                uid: Some(node.to_owned()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(node.to_owned()),
            type_: Some(if warning { "Warning".into() } else { "Normal".into() }),
            ..Event::default()
        })
    }
}

fn message(problem: &NodeProblem) -> String {
    let crash = problem.crash_type.as_ref().map(|crash| format!(" [{crash}]")).unwrap_or_default();
    let seen = if problem.count > 1 { format!(", seen {} times", problem.count) } else { String::new() };
    let evidence = problem.evidence.first().map(|line| format!("; evidence: {line}")).unwrap_or_default();
    format!("{}: {}{crash}{seen}{evidence}", problem.severity, problem.summary)
}

/// Whether a problem began so lately that its Event is still kept by the cluster, if it was written.
pub(super) fn is_young(problem: &NodeProblem) -> bool {
    let began = problem.first_seen.parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH);
    Timestamp::now().as_second() - began.as_second() < YOUNG_SECONDS
}

/// Kubernetes keeps whole seconds in conditions.
fn whole_seconds(rfc3339: &str) -> String {
    let moment = rfc3339.parse::<Timestamp>().unwrap_or_else(|_| Timestamp::now());
    format!("{moment:.0}")
}

fn condition(kind: ConditionType, status: bool, reason: &str, message: &str, since: &str, seen: &str) -> Value {
    json!({
        "type": kind.as_str(),
        "status": if status { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "lastTransitionTime": whole_seconds(since),
        "lastHeartbeatTime": whole_seconds(seen),
    })
}

/// Whether two conditions differ in nothing but their heartbeat.
pub(super) fn says_the_same(written: &Value, wanted: &Value) -> bool {
    ["status", "reason", "message"].iter().all(|field| written.get(field) == wanted.get(field))
}

/// Whether two statuses differ in nothing but when they were written.
pub(super) fn same_health(written: &NodeHealthStatus, wanted: &NodeHealthStatus) -> bool {
    NodeHealthStatus { observed_at: wanted.observed_at.clone(), ..written.clone() } == *wanted
}

/// The one patch of the Node: conditions that changed, conditions that go, trace contexts.
pub(super) fn node_patch(
    changed: &[(ConditionType, Value)],
    removed: &[ConditionType],
    annotations: &Map<String, Value>,
) -> Value {
    let mut conditions: Vec<Value> = changed.iter().map(|(_, condition)| condition.clone()).collect();
    conditions.extend(removed.iter().map(|kind| json!({"type": kind.as_str(), "$patch": "delete"})));
    let mut patch = json!({"status": {"conditions": conditions}});
    if !annotations.is_empty() {
        patch["metadata"] = json!({"annotations": annotations});
    }
    patch
}
