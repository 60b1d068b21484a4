//! Nodes of one rack that show the same symptom at about the same time have one cause: they are one incident, with one
//! run at a time, not with a run each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{names, resources::RunPhase};
use jiff::Timestamp;

use super::{BlockedBy, Planning, Refusal, RunView, candidates::Candidate, later};
use crate::{planner::Facts, view::NodeView};

/// So many nodes of a rack are more than chance.
const NODES: usize = 3;
/// Symptoms of one cause show at most so long one after the other.
const APART: Duration = Duration::from_secs(120);
/// How long nothing more is tried by itself after a run of an incident ended otherwise than well.
const PAUSE: Duration = Duration::from_secs(3_600);

/// Nodes of a rack with the same symptom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Value of the rack's label.
    pub rack: String,
    /// The symptom: type and status of the condition, as `Ready=False`.
    pub symptom: String,
    /// Names of the nodes, in their order.
    pub nodes: Vec<String>,
    /// When the first of them showed it.
    pub since: Timestamp,
    /// A run for one of them that ended otherwise than well, and until when nothing more is tried by itself.
    pub failed: Option<(String, Timestamp)>,
}

impl Incident {
    /// What it is, for people.
    pub fn describe(&self) -> String {
        format!("{} nodes of rack {} show {} since {:.0}", self.nodes.len(), self.rack, self.symptom, self.since)
    }

    fn has(&self, node: Option<&str>) -> bool {
        node.is_some_and(|node| self.nodes.iter().any(|known| known == node))
    }
}

/// Incidents among the nodes, by rack and symptom.
pub(super) fn incidents(facts: &Facts, now: Timestamp) -> Vec<Incident> {
    let mut shown: BTreeMap<(&str, String), Vec<(Timestamp, &Arc<NodeView>)>> = BTreeMap::new();
    for node in &facts.nodes {
        let Some(rack) = node.labels.get(names::LABEL_RACK) else { continue };
        let raised = facts.playbooks.iter().filter(|playbook| playbook.acts()).flat_map(|playbook| &playbook.triggers);
        for trigger in raised.filter(|trigger| trigger.is_raised(node)) {
            let Some(condition) = node.conditions.get(&trigger.condition.type_) else { continue };
            let nodes = shown.entry((rack, symptom(&trigger.condition.type_, &trigger.condition.status))).or_default();
            if nodes.last().is_none_or(|(_, last)| last.name != node.name) {
                nodes.push((condition.seen_since, node));
            }
        }
    }
    let mut found = Vec::new();
    for ((rack, symptom), mut nodes) in shown {
        nodes.sort_by_key(|(since, _)| *since);
        for group in nodes.chunk_by(|(one, _), (next, _)| later(*one, APART) >= *next) {
            if group.len() < NODES {
                continue;
            }
            let mut names: Vec<String> = group.iter().map(|(_, node)| node.name.clone()).collect();
            names.sort();
            let (rack, symptom, since) = (rack.to_owned(), symptom.clone(), group[0].0);
            let mut incident = Incident { rack, symptom, nodes: names, since, failed: None };
            incident.failed = failed(&incident, &facts.runs, now);
            found.push(incident);
        }
    }
    found
}

/// Name of a symptom.
fn symptom(type_: &str, status: &str) -> String {
    format!("{type_}={status}")
}

/// The last run of an incident that ended otherwise than well, while its pause lasts.
fn failed(incident: &Incident, runs: &[RunView], now: Timestamp) -> Option<(String, Timestamp)> {
    let bad = runs.iter().filter(|run| run.acts && matches!(run.phase, RunPhase::Failed | RunPhase::RolledBack));
    let of_incident = bad.filter(|run| incident.has(run.node.as_deref()));
    let until = |run: &RunView| later(run.finished_at.unwrap_or(run.created_at).min(now), PAUSE);
    let last = of_incident.max_by_key(|run| (until(run), &run.name))?;
    Some((last.name.clone(), until(last))).filter(|(_, until)| *until > now)
}

impl Planning<'_> {
    /// One run at a time for all nodes of an incident, and none for a while after one that did not end well.
    pub(super) fn one_run_an_incident(&self, candidate: &Candidate<'_>) -> Result<Option<String>, Refusal> {
        let node = candidate.node.filter(|_| candidate.playbook.acts() && candidate.chain.is_empty());
        let node = node.map(|node| node.name.as_str());
        let of_symptom = |incident: &&Incident| incident.symptom == candidate.text && incident.has(node);
        let Some(incident) = self.plan.incidents.iter().find(of_symptom) else { return Ok(None) };
        let what = incident.describe();
        if let Some((run, until)) = &incident.failed {
            let reason = format!(
                "{what}: one incident. Run {run} did not end well, so nothing more is tried by itself until {until:.0}; \
                 look at the rack, or delete that run to let the next one start"
            );
            return Err(Refusal::until(BlockedBy::Incident, reason, *until));
        }
        let under_way = self.facts.runs.iter().find(|run| run.is_active() && incident.has(run.node.as_deref()));
        let started = || {
            let acting = self.plan.starts.iter().filter(|start| start.playbook.acts());
            acting
                .map(|start| (&start.run, start.node.as_ref()))
                .find_map(|(run, node)| incident.has(node.map(|node| node.name.as_str())).then_some(run))
        };
        match under_way.map(|run| &run.name).or_else(started) {
            Some(run) => {
                let reason = format!("{what}: one incident, one run at a time; run {run} is under way");
                Err(Refusal::new(BlockedBy::Incident, reason))
            }
            None => Ok(Some(format!("{what}: one incident, one run at a time, and no other is under way"))),
        }
    }
}
