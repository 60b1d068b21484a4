//! Tests next to a playbook: what it matches, and what it would do, as data.
//!
//! ```yaml
//! cases:
//!   - name: an oops starts it
//!     node: {conditions: {Ready: "True", KernelOops: "True"}}
//!     matches: true
//!   - name: a pod that hangs in the mount starts it
//!     event: {reason: FailedAttachVolume, kind: Pod, namespace: shop, name: db-0, count: 3}
//!     matches: true
//! dryRun:
//!   - cordon the node
//! runs:
//!   - name: it calms down by itself
//!     happens:
//!       - {conditions: {KernelOops: "True"}}
//!       - {at: 5m, conditions: {KernelOops: "False"}}
//!     ends: Succeeded
//!     then: "!node.unschedulable"
//! ```
//!
//! A case gives what the playbook's triggers look at: `node`, `event`, `alert`, `prediction`, `object` or `at` (a time).

mod runs;

use std::{collections::BTreeMap, sync::Arc};

use evergreen_api::{
    ProblemKind,
    resources::{NodePrediction, Playbook, PredictionBasis, PredictionSamples, Subject},
};
use jiff::{SignedDuration, Timestamp};
pub use runs::{Also, Happening, Power, RunCase};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Diagnostic,
    board::{AlertView, Board, EventView},
    explain, parse,
    planner::{self, CompiledPlaybook, Facts},
    view::{ConditionView, NodeView, ObjectView},
};

/// Healthy nodes beside the one under test, so that guards leave room.
pub const HEALTHY_NEIGHBOURS: usize = 9;
/// Name of the node under test.
pub const UNDER_TEST: &str = "node-under-test";

/// The tests of one playbook.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tests {
    /// Worlds, and whether the playbook starts in them.
    pub cases: Vec<Case>,
    /// What it would do, line by line.
    pub dry_run: Vec<String>,
    /// Runs on a simulated data center, and how they end.
    #[serde(default)]
    pub runs: Vec<RunCase>,
}

/// One world.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// A sentence.
    pub name: String,
    /// A node; without it there are healthy ones only.
    #[serde(default)]
    pub node: Option<CaseNode>,
    /// An Event that happened a moment ago.
    #[serde(default)]
    pub event: Option<CaseEvent>,
    /// An alert that fires.
    #[serde(default)]
    pub alert: Option<CaseAlert>,
    /// A prediction for the node.
    #[serde(default)]
    pub prediction: Option<CasePrediction>,
    /// An object, with apiVersion, kind and metadata.
    #[serde(default)]
    pub object: Option<Value>,
    /// A time, RFC 3339.
    #[serde(default)]
    pub at: Option<String>,
    /// Whether a run starts.
    pub matches: bool,
}

/// A node as far as a test says it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaseNode {
    /// Conditions by type, held for a long time already. Ready is True unless said otherwise.
    #[serde(default)]
    pub conditions: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it is cordoned.
    #[serde(default)]
    pub unschedulable: bool,
}

/// An Event as far as a test says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaseEvent {
    /// Reason.
    pub reason: String,
    /// Type. Default: Warning.
    #[serde(default = "warning", rename = "type")]
    pub type_: String,
    /// Kind of the object that it is about.
    pub kind: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Its name. Default: the node under test.
    #[serde(default = "under_test")]
    pub name: String,
    /// What it says.
    #[serde(default)]
    pub message: String,
    /// How often it happened. Default: 1.
    #[serde(default = "one")]
    pub count: u32,
    /// Seconds since it last happened. Default: 0.
    #[serde(default)]
    pub seconds_ago: i64,
}

fn warning() -> String {
    "Warning".to_owned()
}

fn under_test() -> String {
    UNDER_TEST.to_owned()
}

const fn one() -> u32 {
    1
}

/// An alert as far as a test says it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaseAlert {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A prediction as far as a test says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CasePrediction {
    /// Problem.
    pub kind: String,
    /// What it is about, as in `/var`.
    #[serde(default)]
    pub subject: String,
    /// Seconds until it is expected.
    #[serde(default)]
    pub expected_in_seconds: Option<i64>,
    /// Seconds until the latest time of the 95 % interval.
    #[serde(default)]
    pub latest_in_seconds: Option<i64>,
}

impl CasePrediction {
    /// The prediction as an agent makes it now.
    ///
    /// # Errors
    /// Its kind is none.
    pub fn at(&self, now: Timestamp) -> Result<NodePrediction, String> {
        let after = |seconds: i64| now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now).to_string();
        let kind = ProblemKind::ALL.iter().find(|kind| kind.condition_type() == self.kind);
        Ok(NodePrediction {
            kind: *kind.ok_or_else(|| format!("`{}` is no kind of problem", self.kind))?,
            basis: PredictionBasis::TimeToLimit,
            subject: self.subject.clone(),
            summary: String::new(),
            method: String::new(),
            made_at: now.to_string(),
            expected_at: self.expected_in_seconds.map(after),
            earliest: None,
            latest: self.latest_in_seconds.map(after),
            evidence: Vec::new(),
            samples: PredictionSamples::default(),
        })
    }
}

/// Reads a test file.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(text: &str) -> Result<Tests, Diagnostic> {
    let mut tests: Tests = parse::read(text)?;
    let lines = parse::lines_of(text, "runs", tests.runs.len());
    tests.runs.iter_mut().zip(lines).for_each(|(run, line)| run.line = line);
    Ok(tests)
}

/// Runs the tests of a playbook; returns what failed, one line or block each.
pub fn run(playbook: &Playbook, tests: &Tests) -> Vec<String> {
    let name = playbook.metadata.name.clone().unwrap_or_default();
    let compiled = match CompiledPlaybook::new(name, playbook.spec.clone()) {
        Ok(compiled) => Arc::new(compiled),
        Err(errors) => return errors.iter().map(ToString::to_string).collect(),
    };
    let wrong = tests.runs.iter().filter_map(|run| {
        run.check(&playbook.spec).err().map(|wrong| format!("line {}: {}: {wrong}", run.line, run.name))
    });
    let mut failures: Vec<String> = wrong.collect();
    failures.extend(tests.cases.iter().filter_map(|case| run_case(&compiled, case)));
    let would = explain::steps(&playbook.spec);
    if would != tests.dry_run {
        failures.push(format!(
            "dry run: it would do\n  {}\nthe test says\n  {}",
            would.join("\n  "),
            tests.dry_run.join("\n  ")
        ));
    }
    failures
}

fn run_case(playbook: &Arc<CompiledPlaybook>, case: &Case) -> Option<String> {
    match judge(playbook, case) {
        Ok(verdict) => {
            let did = if verdict.starts { "it starts" } else { "it does not start" };
            let why = verdict.why.join("; ");
            (verdict.starts != case.matches).then(|| {
                format!("{}: {did}{}", case.name, if why.is_empty() { String::new() } else { format!(" ({why})") })
            })
        }
        Err(wrong) => Some(format!("{}: {wrong}", case.name)),
    }
}

/// Whether a playbook starts in a world, and why, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether a run starts.
    pub starts: bool,
    /// Reasons, one line each.
    pub why: Vec<String>,
}

/// Asks the planner about one world.
///
/// # Errors
/// What of the case cannot be understood.
pub fn judge(playbook: &Arc<CompiledPlaybook>, case: &Case) -> Result<Verdict, String> {
    let under_test = Arc::new(view(UNDER_TEST, case.node.as_ref().unwrap_or(&CaseNode::default())));
    let mut nodes = vec![Arc::clone(&under_test)];
    nodes.extend((0..HEALTHY_NEIGHBOURS).map(|i| Arc::new(view(&format!("neighbour-{i}"), &CaseNode::default()))));
    // Conditions were first seen at the epoch, so every hold is long over.
    let long_after = Timestamp::from_second(100_000_000).unwrap_or(Timestamp::MAX);
    let now = match &case.at {
        Some(at) => at.parse().map_err(|_| format!("`{at}` is no time: write it as in 2026-10-01T03:00:00+08:00"))?,
        None => long_after,
    };
    let playbooks = vec![Arc::clone(playbook)];
    let mut board = Board::default();
    put(&mut board, &playbooks, case, &under_test, now)?;
    let facts = Facts { nodes, playbooks, signals: board.signals(), ..Facts::default() };
    // What has to be seen for a while is seen for that long.
    let hold = facts.signals.iter().map(|signal| signal.hold).max().unwrap_or_default();
    let plan = planner::plan(&facts, planner::later(now, hold));
    Ok(match plan.starts.first() {
        Some(start) => Verdict { starts: true, why: start.reasons.clone() },
        None => Verdict { starts: false, why: plan.blocked.iter().map(|blocked| blocked.reason.clone()).collect() },
    })
}

fn put(
    board: &mut Board,
    playbooks: &[Arc<CompiledPlaybook>],
    case: &Case,
    node: &NodeView,
    now: Timestamp,
) -> Result<(), String> {
    if let Some(event) = &case.event {
        let about = Subject {
            kind: event.kind.clone(),
            namespace: event.namespace.clone(),
            name: event.name.clone(),
            uid: event.name.clone(),
            ..Subject::default()
        };
        let event = EventView {
            reason: event.reason.clone(),
            type_: event.type_.clone(),
            message: event.message.clone(),
            count: event.count,
            last_seen: now.checked_sub(SignedDuration::from_secs(event.seconds_ago)).unwrap_or(now),
            source: "test".into(),
            about,
            uid: "event".into(),
        };
        board.event(playbooks, &event, now);
    }
    if let Some(alert) = &case.alert {
        let alert = AlertView {
            fingerprint: "test".into(),
            firing: true,
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            starts_at: now.to_string(),
        };
        board.alert(playbooks, &alert, now);
    }
    if let Some(prediction) = &case.prediction {
        let prediction = prediction.at(now)?;
        board.predictions(playbooks, node, &[prediction], now);
    }
    if let Some(object) = &case.object {
        let text =
            |field: &str| object.get(field).and_then(Value::as_str).ok_or_else(|| format!("the object has no {field}"));
        board.object(playbooks, &ObjectView::new(text("apiVersion")?, text("kind")?, object.clone()), now);
    }
    if case.at.is_some() {
        board.tick(playbooks, now);
    }
    Ok(())
}

fn view(name: &str, node: &CaseNode) -> NodeView {
    let mut conditions = BTreeMap::from([("Ready".to_owned(), "True".to_owned())]);
    conditions.extend(node.conditions.clone());
    NodeView {
        name: name.into(),
        uid: name.into(),
        boot_id: "boot".into(),
        unschedulable: node.unschedulable,
        labels: node.labels.clone(),
        conditions: conditions
            .into_iter()
            .map(|(type_, status)| (type_, ConditionView { status, seen_since: Timestamp::UNIX_EPOCH }))
            .collect(),
        ..NodeView::default()
    }
}
