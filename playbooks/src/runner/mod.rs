//! One run, one question: what comes next? The status of the run is its write-ahead log; the answer is a pure function of
//! log, world and time.
//!
//! Every act is preceded by a record of the intent in the log, with what was there before. So after a crash at any point
//! the log and the world together say what happened: a record with an outcome is finished; a record without one is
//! compared with the world first, and only what is not there yet is done. Acts carry preconditions, so doing one twice
//! has one effect. What cannot be told apart counts as failed.
//!
//! - [`next`] asks the questions in order: is it over, may it go on, what was undone, what comes next
//! - `steps` knows for each kind of step what to record before, how to see that it is done, and how to undo it

mod act;
mod decision;
mod memory;
mod program;
mod status;
mod steps;
mod text;

use std::collections::BTreeMap;

use evergreen_api::resources::{
    ObjectName, PlaybookMode, PlaybookRunStatus, Rollback, RunPhase, Step, StepKind, StepOutcome, StepRecord,
    WhenStopped,
};
use jiff::Timestamp;

pub use act::{Act, Message, Outbound, evictable};
use decision::Decision;
pub use memory::{ActFailure, Eviction, Memory};
pub use program::{InvalidRun, RunProgram};
pub use status::{Change, apply, progress};
pub use steps::child_name;

use crate::{
    explain, planner,
    steps::{Inverse, inverse},
    view::{NodeView, ObjectView, PodView},
};

/// Evictions asked for at once. The API server and the workloads' controllers set the pace, not we.
pub const MAX_EVICTIONS_AT_ONCE: usize = 16;
/// How often a run that is stopped asks whether it may go on.
const GATE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// The world as this run sees it.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The node; absent when it is gone, or another node has its name.
    pub node: Option<NodeView>,
    /// Pods on the node.
    pub pods: Vec<PodView>,
    /// Whether the pods were listed from the API server after the intent, not taken from a cache alone.
    pub pods_confirmed: bool,
    /// Objects that were looked at for this question; `None`: it is not there.
    pub objects: BTreeMap<ObjectName, Option<ObjectView>>,
    /// Runs that were looked at for this question; `None`: it is not there.
    pub runs: BTreeMap<String, Option<ChildRun>>,
    /// How many volumes are attached to the node, as it was looked at for this question.
    pub volumes: Option<usize>,
    /// Why nothing may be begun now: a freeze, a pause.
    pub stopped: Option<String>,
    /// People who approve the run, as they were looked at for this question.
    pub approved_by: Option<Vec<Approval>>,
}

/// One person's approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Who.
    pub by: String,
    /// Index of the `approve` step that it is for; `None`: for the run as a whole.
    pub step: Option<u32>,
}

/// A run that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildRun {
    /// Where it stands.
    pub phase: RunPhase,
    /// One line for people.
    pub message: String,
}

/// What to look at, at the API server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The pods on the node.
    Pods,
    /// An object.
    Object(ObjectName),
    /// A run, by name.
    Run(String),
    /// Who approves this run.
    Approvals,
    /// How many volumes are attached to the node.
    Volumes,
}

/// What to do next. The caller does it and asks again.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Persist a change of the log; nothing else until it is persisted.
    Record(Change),
    /// Look at something that is missing in [`World`], and ask again at the same moment.
    Look(Look),
    /// Act on the world.
    Perform(Act),
    /// Ask again when the world changes, at the latest at a moment.
    Wait {
        /// Ask again then.
        until: Timestamp,
        /// Whether the condition of a verification holds now; [`Memory::note_hold`] must be told.
        holds: bool,
        /// What it waits for.
        why: String,
    },
    /// Nothing is left to do.
    Rest,
}

/// Decides what comes next.
pub fn next(run: &RunProgram, status: &PlaybookRunStatus, world: &World, memory: &Memory, now: Timestamp) -> Action {
    if status.phase.is_final() {
        return Action::Rest;
    }
    if run.spec().plan.mode == PlaybookMode::Observe {
        let message = format!("observed only; would have done: {}", explain::actions(&run.spec().plan).join(", "));
        return finish(RunPhase::Observed, message);
    }
    let (open, earlier) = match status.log.split_last() {
        Some((last, earlier)) if last.outcome.is_none() => (Some(last), earlier),
        _ => (None, &status.log[..]),
    };
    if let Some(record) = earlier.iter().find(|record| record.outcome.is_none()) {
        return finish(RunPhase::Failed, format!("the log has a hole at {}: a person must look", record.key));
    }
    let asking = Asking { run, status, world, now };
    match open {
        Some(record) => Decision { run, status, world, memory, now, record }.advance(),
        None => match asking.why_failed() {
            Some(why) => asking.roll_back(&why),
            None => asking.forward(),
        },
    }
}

fn finish(phase: RunPhase, message: String) -> Action {
    Action::Record(Change::Finish { phase, message, follow_up: None })
}

fn is_bad(outcome: Option<StepOutcome>) -> bool {
    matches!(outcome, Some(StepOutcome::Failed | StepOutcome::Ambiguous))
}

type Image = serde_json::Map<String, serde_json::Value>;

/// A question while no step is open.
struct Asking<'a> {
    run: &'a RunProgram,
    status: &'a PlaybookRunStatus,
    world: &'a World,
    now: Timestamp,
}

impl Asking<'_> {
    fn steps(&self) -> &[Step] {
        &self.run.spec().plan.steps
    }

    /// Records of steps, without those that undo and those that follow a failure.
    fn forward_records(&self) -> impl DoubleEndedIterator<Item = &StepRecord> {
        let last = self.steps().len();
        self.status.log.iter().filter(move |record| !record.undo && record.index as usize <= last)
    }

    fn why_failed(&self) -> Option<String> {
        let failed = self.forward_records().find(|record| is_bad(record.outcome));
        let why =
            failed.map(|record| format!("step {} ({}) failed: {}", record.index + 1, record.action, record.message));
        why.or_else(|| self.status.stopped.clone())
    }

    fn forward(&self) -> Action {
        let done = self.forward_records().count();
        let plan = &self.run.spec().plan;
        if let Some(stop) =
            self.forward_records().next_back().filter(|r| r.action == "stop" && r.outcome == Some(StepOutcome::Done))
        {
            return finish(RunPhase::Succeeded, stop.message.clone());
        }
        let action = match plan.steps.get(done) {
            Some(step) => step.actions().first().copied().unwrap_or("unknown"),
            None if done == plan.steps.len() && plan.verify.is_some() => "verify",
            None => return finish(RunPhase::Succeeded, format!("{} steps done", plan.steps.len())),
        };
        if let Some(stopped) = self.gate() {
            return stopped;
        }
        let phase = if done == plan.steps.len() { RunPhase::Verifying } else { RunPhase::Running };
        let step = plan.steps.get(done).and_then(Step::kind);
        match steps::pre_image(self.run, step, done, self.world) {
            Ok(image) => self.intend(action, done, false, image, phase),
            Err(look) => Action::Look(look),
        }
    }

    /// What keeps the run from its next step: approvals that are missing, a freeze, a pause.
    fn gate(&self) -> Option<Action> {
        let spec = self.run.spec();
        if let Some(why) = &self.world.stopped {
            return Some(self.stop_or_park(why.clone(), None));
        }
        if spec.approvals == 0 {
            return None;
        }
        let Some(approved) = &self.world.approved_by else { return Some(Action::Look(Look::Approvals)) };
        let people = approvers(approved, spec.requested_by.as_deref(), None);
        if people.len() >= spec.approvals as usize {
            return None;
        }
        let timeout = spec.plan.guards.approvals.timeout;
        let began = self.status.started_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
        let deadline = began.map(|began| planner::later(began.min(self.now), timeout.get()));
        let why = format!("{} of {} people have approved", people.len(), spec.approvals);
        if self.status.log.is_empty() && deadline.is_some_and(|deadline| deadline <= self.now) {
            return Some(finish(RunPhase::Failed, format!("{why} within {timeout}; nothing was done")));
        }
        Some(self.stop_or_park(format!("waiting for approval: {why}"), deadline.filter(|_| self.status.log.is_empty())))
    }

    /// A run that has done something is undone when its playbook says so; otherwise it waits.
    fn stop_or_park(&self, why: String, deadline: Option<Timestamp>) -> Action {
        if !self.status.log.is_empty() && self.run.spec().plan.guards.when_stopped == WhenStopped::RollBack {
            return Action::Record(Change::Stop { message: why });
        }
        if self.status.phase != RunPhase::Parked || self.status.message != why {
            return Action::Record(Change::Park { message: why });
        }
        let until = planner::later(self.now, GATE_INTERVAL);
        Action::Wait { until: deadline.map_or(until, |deadline| deadline.min(until)), holds: false, why }
    }

    fn roll_back(&self, why: &str) -> Action {
        if self.run.spec().plan.rollback == Rollback::Never && self.status.stopped.is_none() {
            return self.after_failure(RunPhase::Failed, format!("{why}; left as it is, as the playbook says"));
        }
        let log = &self.status.log;
        let undone = |step: &StepRecord| log.iter().any(|record| record.undo && record.index == step.index);
        // A failed step may have happened all the same, so it is undone too.
        let next =
            self.forward_records().rev().find(|record| self.inverse_of(record) == Inverse::PreImage && !undone(record));
        if let Some(step) = next {
            let action = steps::undo_action(&step.action);
            return match steps::undo_image(self.run, step, self.world) {
                Ok(image) => self.intend(action, step.index as usize, true, image, RunPhase::RollingBack),
                Err(look) => Action::Look(look),
            };
        }
        if let Some(stuck) = log.iter().find(|record| record.undo && is_bad(record.outcome)) {
            return self.after_failure(RunPhase::Failed, format!("{why}; undoing failed too: {}", stuck.message));
        }
        let lasting: Vec<&str> = self
            .forward_records()
            .filter(|record| record.outcome != Some(StepOutcome::Skipped) && self.inverse_of(record) == Inverse::Cannot)
            .map(|record| record.action.as_str())
            .collect();
        let rest = match lasting.is_empty() {
            true => "everything is as it was before".to_owned(),
            false => format!("the rest is as it was before, but {} cannot be undone", lasting.join(", ")),
        };
        self.after_failure(RunPhase::RolledBack, format!("{why}; {rest}"))
    }

    fn inverse_of(&self, record: &StepRecord) -> Inverse {
        let step = self.steps().get(record.index as usize).and_then(Step::kind);
        step.map_or(Inverse::Nothing, |step| inverse(&step))
    }

    /// What the playbook does after a failure, then the end.
    fn after_failure(&self, phase: RunPhase, message: String) -> Action {
        let first = self.steps().len() + 1;
        let done = self.status.log.iter().filter(|record| record.index as usize >= first).count();
        match self.run.spec().plan.on_failure.get(done).and_then(Step::kind) {
            None => finish(phase, message),
            Some(StepKind::RunPlaybook(next)) => {
                Action::Record(Change::Finish { phase, message, follow_up: Some(next.name.clone()) })
            }
            Some(step) => match steps::pre_image(self.run, Some(step), first + done, self.world) {
                Ok(image) => {
                    let action = self.run.spec().plan.on_failure[done].actions().first().copied().unwrap_or("unknown");
                    self.intend(action, first + done, false, image, RunPhase::RollingBack)
                }
                Err(look) => Action::Look(look),
            },
        }
    }

    fn intend(&self, action: &str, index: usize, undo: bool, pre_image: Image, phase: RunPhase) -> Action {
        let record = StepRecord {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            action: action.to_owned(),
            undo,
            key: step_key(self.run.name(), index, undo, action),
            intended_at: self.now.to_string(),
            pre_image,
            outcome: None,
            finished_at: None,
            // Never empty: API servers up to 1.20 take an empty text for null and refuse it.
            message: "under way".to_owned(),
        };
        Action::Record(Change::Intend { record, phase })
    }
}

fn step_key(run: &str, index: usize, undo: bool, action: &str) -> String {
    format!("{run}/{index}/{}{action}", if undo { "undo-" } else { "" })
}

/// Different people who approve a step, or the run as a whole, without the one who asked.
fn approvers<'a>(
    approved: &'a [Approval],
    requested_by: Option<&str>,
    step: Option<u32>,
) -> std::collections::BTreeSet<&'a str> {
    let counts = |approval: &&Approval| approval.step == step && Some(approval.by.as_str()) != requested_by;
    approved.iter().filter(counts).map(|approval| approval.by.as_str()).collect()
}

#[cfg(test)]
mod tests;
