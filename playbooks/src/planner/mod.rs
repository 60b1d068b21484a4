//! Which runs start now, which do not, and why: facts and a time in, a plan out.
//!
//! The planner imports no clock and no client. It is asked again on every change and at [`Plan::recheck_at`]; the same
//! facts and time give the same plan. Budgets count every run of every playbook, and the starts of the plan itself.

mod domain;
mod facts;

use std::{collections::BTreeMap, sync::Arc};

use domain::Service;
use evergreen_api::resources::{PlaybookRunSpec, Subject, spec_hash};
use jiff::{SignedDuration, Timestamp};

use facts::CompiledTrigger;
pub use facts::{CompiledPlaybook, Facts, RunView};

use crate::view::NodeView;

/// What is to be done, and what is not.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Runs to start, in this order.
    pub starts: Vec<Start>,
    /// Matches that do not start anything now.
    pub blocked: Vec<Blocked>,
    /// When the time alone may change the plan.
    pub recheck_at: Option<Timestamp>,
}

/// A run to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// Name of the run, the same whoever plans it.
    pub run: String,
    /// Playbook to execute.
    pub playbook: Arc<CompiledPlaybook>,
    /// Node that it is for.
    pub node: Arc<NodeView>,
    /// Condition that started it, by type.
    pub condition: String,
    /// What started it, for people.
    pub trigger: String,
    /// Which try, from 1.
    pub attempt: u32,
    /// Why it may start: one line a guard.
    pub reasons: Vec<String>,
    /// Other playbooks that matched the same node, and why they were not chosen.
    pub rejected: Vec<String>,
}

/// A match that does not start anything now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Playbook that matched.
    pub playbook: String,
    /// Node that it matched.
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
    /// Another run, or another playbook, has the node.
    OtherRun,
    /// The last run was too recent.
    Cooldown,
    /// All attempts are used: the node is in quarantine.
    Attempts,
    /// Too much is wrong at once.
    Storm,
    /// Too much of the failure domain would be out of service.
    Budget,
    /// A run cannot be read.
    Unreadable,
}

impl BlockedBy {
    /// Whether a person should know; the others pass by themselves.
    pub const fn needs_attention(self) -> bool {
        matches!(self, Self::Expression | Self::Attempts | Self::Storm | Self::Budget | Self::Unreadable)
    }
}

impl Start {
    /// The spec of the run; the caller adds the trace context.
    pub fn spec(&self) -> PlaybookRunSpec {
        PlaybookRunSpec {
            playbook: self.playbook.name.clone(),
            plan: (*self.playbook.spec).clone(),
            subject: self.node.subject(),
            trigger: self.trigger.clone(),
            attempt: self.attempt,
            traceparent: None,
            before: self.node.to_fields(),
        }
    }

    /// The run as later plans count it.
    pub fn view(&self, now: Timestamp) -> RunView {
        RunView {
            name: self.run.clone(),
            playbook: self.playbook.name.clone(),
            subject: self.node.subject(),
            attempt: self.attempt,
            acts: self.playbook.acts(),
            phase: Default::default(),
            created_at: now,
            finished_at: None,
        }
    }
}

/// Name of a run: two planners that see the same attempt give it the same name, so only one of them can create it.
pub fn run_name(playbook: &str, subject: &Subject, attempt: u32) -> String {
    let digest = spec_hash(&(playbook, &subject.kind, &subject.uid));
    format!("{playbook}-{}-{attempt}", &digest[..10])
}

/// Decides.
pub fn plan(facts: &Facts, now: Timestamp) -> Plan {
    let mut planning =
        Planning { facts, now, service: Service::of(facts), taken: BTreeMap::new(), plan: Plan::default() };
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

/// A playbook that matches a node.
struct Candidate<'a> {
    playbook: &'a Arc<CompiledPlaybook>,
    node: &'a Arc<NodeView>,
    trigger: &'a CompiledTrigger,
    raised_at: Timestamp,
}

struct Planning<'a> {
    facts: &'a Facts,
    now: Timestamp,
    service: Service,
    /// Nodes that a start of this plan is for -> index of the start.
    taken: BTreeMap<&'a str, usize>,
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
    /// Matches whose hold is over, the longest raised first; the others are blocked right away.
    fn candidates(&mut self) -> Vec<Candidate<'a>> {
        let mut found = Vec::new();
        for playbook in &self.facts.playbooks {
            for node in self.facts.nodes.iter().filter(|node| playbook.is_for(node)) {
                match self.triggered(playbook, node) {
                    Ok(Some(candidate)) => found.push(candidate),
                    Ok(None) => {}
                    Err(refusal) => self.push_blocked(playbook, node, refusal),
                }
            }
        }
        found.sort_by(|a, b| {
            (a.raised_at, &a.node.name, &a.playbook.name).cmp(&(b.raised_at, &b.node.name, &b.playbook.name))
        });
        found
    }

    fn triggered(
        &self,
        playbook: &'a Arc<CompiledPlaybook>,
        node: &'a Arc<NodeView>,
    ) -> Result<Option<Candidate<'a>>, Refusal> {
        let mut refusal = None;
        for trigger in playbook.triggers.iter().filter(|trigger| trigger.is_raised(node)) {
            match trigger.when.as_ref().map_or(Ok(true), |when| when.holds(node, None)) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    refusal = Some(Refusal::new(BlockedBy::Expression, error.to_string()));
                    continue;
                }
            }
            let Some(condition) = node.conditions.get(&trigger.condition.type_) else { continue };
            let due = later(condition.seen_since, trigger.condition.for_.get());
            if due > self.now {
                let reason =
                    format!("{} has not been seen for {} yet", trigger.condition.type_, trigger.condition.for_);
                refusal = Some(Refusal::until(BlockedBy::Hold, reason, due));
                continue;
            }
            return Ok(Some(Candidate { playbook, node, trigger, raised_at: condition.seen_since }));
        }
        refusal.map_or(Ok(None), Err)
    }

    /// All guards; the reasons why it may start, or the first that forbids it.
    fn guards(&self, candidate: &Candidate<'_>) -> Result<Vec<String>, Refusal> {
        let guards = &candidate.playbook.spec.guards;
        self.one_run_at_a_time(candidate)?;
        let mut reasons = vec![self.attempts(candidate)?];
        if let Some(storm) = self.service.storm(guards.storm.max_unhealthy) {
            return Err(Refusal::new(BlockedBy::Storm, storm));
        }
        let budget = self.service.budget(candidate.node, &guards.budget);
        reasons.push(budget.map_err(|reason| Refusal::new(BlockedBy::Budget, reason))?);
        Ok(reasons)
    }

    /// One run an object at a time. Observing touches nothing, so it goes on beside a run that acts.
    fn one_run_at_a_time(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        let (uid, acts) = (&candidate.node.uid, candidate.playbook.acts());
        let under_way = self.facts.runs.iter().find(|run| {
            let theirs = acts || run.playbook == candidate.playbook.name;
            run.subject.uid == *uid && !run.phase.is_final() && theirs
        });
        if let Some(run) = under_way {
            return Err(Refusal::new(BlockedBy::OtherRun, format!("run {} is under way for this node", run.name)));
        }
        match self.taken.get(&*candidate.node.name).filter(|_| acts) {
            Some(index) => {
                let chosen = &self.plan.starts[*index].playbook.name;
                let why = "its condition was raised earlier, or its name comes first";
                Err(Refusal::new(BlockedBy::OtherRun, format!("playbook {chosen} was chosen: {why}")))
            }
            None => Ok(()),
        }
    }

    /// Cooldown and attempts. Observed runs count among themselves: promotion starts afresh.
    fn attempts(&self, candidate: &Candidate<'_>) -> Result<String, Refusal> {
        let guards = &candidate.playbook.spec.guards;
        let acts = candidate.playbook.acts();
        let runs = || self.runs_of(candidate).filter(|run| run.acts == acts);
        if let Some(end) = runs().filter_map(|run| run.finished_at.or(Some(run.created_at))).max() {
            // An end in the future is another machine's clock: the cooldown then counts from now.
            let due = later(end.min(self.now), guards.cooldown.get());
            if due > self.now {
                let reason = format!("cooldown: {} after the last run", guards.cooldown);
                return Err(Refusal::until(BlockedBy::Cooldown, reason, due));
            }
        }
        let window = guards.attempts.window;
        let recent: Vec<Timestamp> =
            runs().map(|run| run.created_at).filter(|at| later(*at, window.get()) > self.now).collect();
        let max = guards.attempts.max as usize;
        if recent.len() >= max {
            let due = recent.iter().min().map(|oldest| later(*oldest, window.get()));
            let reason = format!("quarantine: {} of {max} attempts within {window} are used", recent.len());
            return Err(Refusal { by: BlockedBy::Attempts, reason, until: due });
        }
        Ok(format!("attempt {} of {max} within {window}", recent.len() + 1))
    }

    fn runs_of(&self, candidate: &Candidate<'_>) -> impl Iterator<Item = &RunView> {
        let (playbook, uid) = (candidate.playbook.name.clone(), candidate.node.uid.clone());
        self.facts.runs.iter().filter(move |run| run.playbook == playbook && run.subject.uid == uid)
    }

    fn start(&mut self, candidate: &Candidate<'a>, mut reasons: Vec<String>) {
        let condition = &candidate.trigger.condition;
        let attempt = 1 + self.runs_of(candidate).map(|run| run.attempt).max().unwrap_or(0);
        let trigger = format!("{}={}", condition.type_, condition.status);
        reasons.insert(0, format!("{trigger} on {}", candidate.node.name));
        if candidate.playbook.acts() {
            self.service.take_out(&candidate.node.name);
            self.taken.insert(&candidate.node.name, self.plan.starts.len());
        }
        self.plan.starts.push(Start {
            run: run_name(&candidate.playbook.name, &candidate.node.subject(), attempt),
            playbook: Arc::clone(candidate.playbook),
            node: Arc::clone(candidate.node),
            condition: condition.type_.clone(),
            trigger,
            attempt,
            reasons,
            rejected: Vec::new(),
        });
    }

    fn block(&mut self, candidate: &Candidate<'a>, refusal: Refusal) {
        if let Some(index) = self.taken.get(&*candidate.node.name) {
            self.plan.starts[*index].rejected.push(format!("{}: {}", candidate.playbook.name, refusal.reason));
        }
        self.push_blocked(candidate.playbook, candidate.node, refusal);
    }

    fn push_blocked(&mut self, playbook: &CompiledPlaybook, node: &NodeView, refusal: Refusal) {
        let Refusal { by, reason, until } = refusal;
        if let Some(until) = until {
            self.plan.recheck_at = Some(self.plan.recheck_at.map_or(until, |known| known.min(until)));
        }
        self.plan.blocked.push(Blocked { playbook: playbook.name.clone(), subject: node.subject(), by, reason, until });
    }
}

/// A moment so much later; saturates at the end of time.
pub(crate) fn later(at: Timestamp, by: std::time::Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
