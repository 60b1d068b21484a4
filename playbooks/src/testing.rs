//! Tests next to a playbook: which nodes it matches, and what it would do, as data.
//!
//! ```yaml
//! cases:
//!   - name: an oops starts it
//!     node: {conditions: {Ready: "True", KernelOops: "True"}}
//!     matches: true
//! dryRun:
//!   - cordon the node
//! ```

use std::{collections::BTreeMap, sync::Arc};

use evergreen_api::resources::Playbook;
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    Diagnostic, explain, parse,
    planner::{self, CompiledPlaybook, Facts},
    view::{ConditionView, NodeView},
};

/// Healthy nodes beside the one under test, so that guards leave room.
const HEALTHY_NEIGHBOURS: usize = 9;

/// The tests of one playbook.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tests {
    /// Nodes, and whether the playbook starts for them.
    pub cases: Vec<Case>,
    /// What it would do, line by line.
    pub dry_run: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// A sentence.
    pub name: String,
    /// The node.
    pub node: CaseNode,
    /// Whether a run starts for it.
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

/// Reads a test file.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(text: &str) -> Result<Tests, Diagnostic> {
    parse::read(text)
}

/// Runs the tests of a playbook; returns what failed, one line or block each.
pub fn run(playbook: &Playbook, tests: &Tests) -> Vec<String> {
    let name = playbook.metadata.name.clone().unwrap_or_default();
    let compiled = match CompiledPlaybook::new(name, playbook.spec.clone()) {
        Ok(compiled) => Arc::new(compiled),
        Err(errors) => return errors.iter().map(ToString::to_string).collect(),
    };
    let mut failures: Vec<String> = tests.cases.iter().filter_map(|case| run_case(&compiled, case)).collect();
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
    let mut nodes = vec![Arc::new(view("node-under-test", &case.node))];
    nodes.extend((0..HEALTHY_NEIGHBOURS).map(|i| Arc::new(view(&format!("neighbour-{i}"), &CaseNode::default()))));
    let facts = Facts { nodes, playbooks: vec![Arc::clone(playbook)], ..Facts::default() };
    // Conditions were first seen at the epoch, so every hold is long over.
    let long_after = Timestamp::from_second(100_000_000).unwrap_or(Timestamp::MAX);
    let plan = planner::plan(&facts, long_after);
    let started = plan.starts.iter().any(|start| start.node.name == "node-under-test");
    (started != case.matches).then(|| {
        let why: Vec<String> = plan.blocked.iter().map(|blocked| blocked.reason.clone()).collect();
        let did = if started { "it starts" } else { "it does not start" };
        format!("{}: {did}{}", case.name, if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) })
    })
}

fn view(name: &str, node: &CaseNode) -> NodeView {
    let mut conditions = BTreeMap::from([("Ready".to_owned(), "True".to_owned())]);
    conditions.extend(node.conditions.clone());
    NodeView {
        name: name.into(),
        uid: name.into(),
        boot_id: "boot".into(),
        unschedulable: node.unschedulable,
        cordoned_by: None,
        labels: node.labels.clone(),
        conditions: conditions
            .into_iter()
            .map(|(type_, status)| (type_, ConditionView { status, seen_since: Timestamp::UNIX_EPOCH }))
            .collect(),
        pod_count: 0,
    }
}
