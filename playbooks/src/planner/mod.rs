//! Which runs start now, which do not, and why: facts and a time in, a plan out.
//!
//! The planner imports no clock and no client. It is asked again on every change and at [`Plan::recheck_at`]; the same
//! facts and time give the same plan. Budgets count every run of every playbook, and the starts of the plan itself.

mod candidates;
mod domain;
mod facts;
mod guards;
mod incidents;

use std::{collections::BTreeMap, sync::Arc};

use candidates::Candidate;
use domain::Service;
use evergreen_api::{
    names,
    resources::{ChainLink, ObjectName, PlaybookRunSpec, Subject, spec_hash},
};
use jiff::{SignedDuration, Timestamp};

pub(crate) use facts::CompiledSource;
pub use facts::{Ask, CompiledPlaybook, Facts, RunView, Signal};
pub use incidents::Incident;

use crate::{steps, view::NodeView};

/// What is to be done, and what is not.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Runs to start, in this order.
    pub starts: Vec<Start>,
    /// Matches that do not start anything now.
    pub blocked: Vec<Blocked>,
    /// When the time alone may change the plan.
    pub recheck_at: Option<Timestamp>,
    /// When each playbook's storm bound was last exceeded: to be given to the next plan.
    pub storms: BTreeMap<String, Timestamp>,
    /// Nodes that are to be marked, because all attempts on them are used up.
    pub quarantines: Vec<Quarantine>,
    /// Symptoms that several nodes of a rack show at once.
    pub incidents: Vec<Incident>,
}

/// A node to mark so that nothing new is placed on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// The node.
    pub node: Arc<NodeView>,
    /// Playbook whose attempts are used up.
    pub playbook: String,
    /// Why, for people.
    pub reason: String,
}

/// A run to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// Name of the run, the same whoever plans it.
    pub run: String,
    /// Playbook to execute.
    pub playbook: Arc<CompiledPlaybook>,
    /// Object that it is for. Without a UID where only a name is known: who creates the run looks it up.
    pub subject: Subject,
    /// The node, where the object is one, or is on one that is known.
    pub node: Option<Arc<NodeView>>,
    /// What started it, in one word: the type of the condition, or the source.
    pub condition: String,
    /// What started it, for people.
    pub trigger: String,
    /// Which try, from 1.
    pub attempt: u32,
    /// Runs that led to it.
    pub chain: Vec<ChainLink>,
    /// Who asked for it; nobody: the controller does by itself.
    pub requested_by: Option<String>,
    /// Why it may start: one line a guard.
    pub reasons: Vec<String>,
    /// Other playbooks that matched the same object, and why they were not chosen.
    pub rejected: Vec<String>,
}

/// What is found out about the object of a run right before the run is created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// UID.
    pub uid: String,
    /// Node that it is on.
    pub node: Option<String>,
    /// Workload that it is, or that owns it.
    pub workload: Option<ObjectName>,
    /// Whether it is agile; anything else is steady.
    pub agile: bool,
    /// It, trimmed to what expressions may use.
    pub before: serde_json::Map<String, serde_json::Value>,
}

/// A match that does not start anything now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Playbook that matched.
    pub playbook: String,
    /// Object that it matched.
    pub subject: Subject,
    /// What keeps it from starting.
    pub by: BlockedBy,
    /// Why nothing is started, for people.
    pub reason: String,
    /// From when on that reason no longer holds, if the time alone ends it.
    pub until: Option<Timestamp>,
}

/// What keeps a match from starting anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockedBy {
    /// The condition has not been seen for long enough.
    Hold,
    /// `when` cannot be told.
    Expression,
    /// Another run, or another playbook, has the object.
    OtherRun,
    /// The last run was too recent.
    Cooldown,
    /// All attempts are used: the object is in quarantine.
    Attempts,
    /// Too much is wrong at once.
    Storm,
    /// Too much of the failure domain would be out of service.
    Budget,
    /// Other nodes of the rack show the same, and are dealt with as one.
    Incident,
    /// A run cannot be read.
    Unreadable,
    /// A change freeze, or everything is paused.
    Stopped,
    /// Someone took the object out of healing.
    Denied,
    /// Playbooks undo each other's work.
    Fight,
    /// A playbook would run itself through others, or one that does not exist is asked for.
    Chain,
}

impl BlockedBy {
    /// Whether a person should know; the others pass by themselves.
    pub const fn needs_attention(self) -> bool {
        matches!(
            self,
            Self::Expression
                | Self::Attempts
                | Self::Storm
                | Self::Budget
                | Self::Unreadable
                | Self::Fight
                | Self::Chain
        )
    }
}

impl Start {
    /// What is known of the object without looking it up; `None`: it has to be looked up.
    pub fn found(&self) -> Option<Found> {
        if self.subject.kind == evergreen_api::resources::DATA_CENTER {
            return Some(Found::default());
        }
        let node = self.node.as_ref().filter(|_| self.subject.kind == "Node")?;
        Some(Found {
            uid: node.uid.clone(),
            node: Some(node.name.clone()),
            workload: None,
            agile: node.labels.get(names::LABEL_STABILITY).is_some_and(|class| class == "agile"),
            before: node.to_fields(),
        })
    }

    /// The spec of the run; the caller adds the trace context.
    pub fn spec(&self, found: Found) -> PlaybookRunSpec {
        PlaybookRunSpec {
            playbook: self.playbook.name.clone(),
            plan: (*self.playbook.spec).clone(),
            subject: Subject { uid: found.uid, ..self.subject.clone() },
            trigger: self.trigger.clone(),
            attempt: self.attempt,
            traceparent: None,
            node: found.node,
            workload: found.workload,
            approvals: steps::approvals(&self.playbook.spec, found.agile),
            requested_by: self.requested_by.clone(),
            chain: self.chain.clone(),
            before: found.before,
        }
    }

    /// The run as later plans count it.
    pub fn view(&self, now: Timestamp) -> RunView {
        RunView {
            name: self.run.clone(),
            playbook: self.playbook.name.clone(),
            subject: self.subject.clone(),
            node: self.node.as_ref().map(|node| node.name.clone()),
            attempt: self.attempt,
            acts: self.playbook.acts(),
            destructive: self.playbook.destructive,
            phase: Default::default(),
            created_at: now,
            finished_at: None,
            chain: self.chain.clone(),
            asks: None,
            requested_by: self.requested_by.clone(),
        }
    }
}

/// Name of a run: two planners that see the same attempt give it the same name, so only one of them can create it.
pub fn run_name(playbook: &str, subject: &Subject, attempt: u32) -> String {
    // Nodes are named by their UID, as they always were; anything else by its name too, for sources that know no UID.
    let digest = match subject.kind.as_str() {
        "Node" => spec_hash(&(playbook, &subject.kind, &subject.uid)),
        kind => spec_hash(&(playbook, kind, &subject.namespace, &subject.name)),
    };
    format!("{playbook}-{}-{attempt}", &digest[..10])
}

/// Decides.
pub fn plan(facts: &Facts, now: Timestamp) -> Plan {
    let mut planning =
        Planning { facts, now, service: Service::of(facts), taken: BTreeMap::new(), plan: Plan::default() };
    planning.note_storms();
    planning.plan.incidents = incidents::incidents(facts, now);
    let stop = match facts.unreadable_runs.first() {
        Some(run) => {
            let reason = format!("run {run} cannot be read: repair or delete it, until then nothing is started");
            Some(Refusal::new(BlockedBy::Unreadable, reason))
        }
        None => planning.service.blindness().map(|reason| Refusal::new(BlockedBy::Storm, reason)),
    };
    for candidate in planning.candidates() {
        match stop.clone().map_or_else(|| planning.guards(&candidate), Err) {
            Ok(reasons) => planning.start(&candidate, reasons),
            Err(refusal) => planning.block(&candidate, refusal),
        }
    }
    planning.plan
}

struct Planning<'a> {
    facts: &'a Facts,
    now: Timestamp,
    service: Service,
    /// Objects that a start of this plan is for -> index of the start.
    taken: BTreeMap<ObjectName, usize>,
    plan: Plan,
}

#[derive(Clone, Debug)]
struct Refusal {
    by: BlockedBy,
    reason: String,
    until: Option<Timestamp>,
}

impl Refusal {
    fn new(by: BlockedBy, reason: String) -> Self {
        Self { by, reason, until: None }
    }

    fn until(by: BlockedBy, reason: String, until: Timestamp) -> Self {
        Self { by, reason, until: Some(until) }
    }
}

impl<'a> Planning<'a> {
    /// Remembers of every playbook when its storm bound was last exceeded.
    fn note_storms(&mut self) {
        for playbook in &self.facts.playbooks {
            let stormy = self.service.storm(playbook.spec.guards.storm.max_unhealthy).is_some();
            let last = if stormy { Some(self.now) } else { self.facts.storms.get(&playbook.name).copied() };
            if let Some(last) = last {
                self.plan.storms.insert(playbook.name.clone(), last.min(self.now));
            }
        }
    }

    fn start(&mut self, candidate: &Candidate<'a>, mut reasons: Vec<String>) {
        let attempt = 1 + self.runs_of(candidate).map(|run| run.attempt).max().unwrap_or(0);
        reasons.insert(0, format!("{} on {}", candidate.text, candidate.subject.name));
        if candidate.playbook.acts() {
            match candidate.subject.kind.as_str() {
                "Node" => self.service.take_out(&candidate.subject.name),
                _ => self.service.take_other(candidate.node.map(|node| node.name.as_str())),
            }
            self.taken.insert(candidate.subject.object(), self.plan.starts.len());
        }
        let name = &candidate.playbook.name;
        self.plan.starts.push(Start {
            run: candidate.run.clone().unwrap_or_else(|| run_name(name, &candidate.subject, attempt)),
            playbook: Arc::clone(candidate.playbook),
            subject: candidate.subject.clone(),
            node: candidate.node.map(Arc::clone),
            condition: candidate.condition.clone(),
            trigger: candidate.text.clone(),
            attempt,
            chain: candidate.chain.clone(),
            requested_by: candidate.requested_by.clone(),
            reasons,
            rejected: Vec::new(),
        });
    }

    fn block(&mut self, candidate: &Candidate<'a>, refusal: Refusal) {
        if let Some(index) = self.taken.get(&candidate.subject.object()) {
            self.plan.starts[*index].rejected.push(format!("{}: {}", candidate.playbook.name, refusal.reason));
        }
        let attempts = &candidate.playbook.spec.guards.attempts;
        if let (BlockedBy::Attempts, true, true, Some(node)) =
            (refusal.by, attempts.then_quarantine, candidate.playbook.acts(), candidate.node)
            && candidate.subject.kind == "Node"
            && !node.labels.contains_key(names::LABEL_QUARANTINE)
        {
            self.plan.quarantines.push(Quarantine {
                node: Arc::clone(node),
                playbook: candidate.playbook.name.clone(),
                reason: refusal.reason.clone(),
            });
        }
        self.push_blocked(&candidate.playbook.name, candidate.subject.clone(), refusal);
    }

    fn push_blocked(&mut self, playbook: &str, subject: Subject, refusal: Refusal) {
        let Refusal { by, reason, until } = refusal;
        if let Some(until) = until {
            self.recheck(until);
        }
        self.plan.blocked.push(Blocked { playbook: playbook.to_owned(), subject, by, reason, until });
    }

    fn recheck(&mut self, at: Timestamp) {
        self.plan.recheck_at = Some(self.plan.recheck_at.map_or(at, |known| known.min(at)));
    }
}

/// A moment so much later; saturates at the end of time.
pub(crate) fn later(at: Timestamp, by: std::time::Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
