//! One run, one question: what comes next? The status of the run is its write-ahead log; the answer is a pure function of
//! log, world and time.
//!
//! Every act is preceded by a record of the intent in the log, with what was there before. So after a crash at any point
//! the log and the world together say what happened: a record with an outcome is finished; a record without one is
//! compared with the world first, and only what is not there yet is done. Acts carry preconditions, so doing one twice
//! has one effect. What cannot be told apart counts as failed.

mod act;
mod memory;
mod program;
mod status;

use evergreen_api::resources::{
    PlaybookMode, PlaybookRunStatus, RestartStep, Rollback, RunPhase, Step, StepOutcome, StepRecord, Verify,
};
use jiff::Timestamp;

pub use act::{Act, evictable};
pub use memory::{ActFailure, Eviction, Memory};
pub use program::{InvalidRun, RunProgram};
pub use status::{Change, apply, progress};

use crate::{
    explain, planner,
    view::{DeploymentView, NodeView, PodView},
};

/// A cordon, an uncordon or the restart's patch must be through by then; each is one small write.
const ACT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);
/// Evictions asked for at once. The API server and the workloads' controllers set the pace, not we.
pub const MAX_EVICTIONS_AT_ONCE: usize = 16;
/// How often a restarted workload is looked at.
const ROLLOUT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);
/// Pods that a drain's record names; the count is always exact.
const MAX_NAMED_PODS: usize = 20;

/// The world as this run sees it.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The node; absent when it is gone, or another node has its name.
    pub node: Option<NodeView>,
    /// Pods on the node.
    pub pods: Vec<PodView>,
    /// Whether the pods were listed from the API server after the intent, not taken from a cache alone.
    pub pods_confirmed: bool,
    /// The Deployment of an open restart step: not looked at, absent, or there.
    pub deployment: Seen<DeploymentView>,
}

/// What to look at, at the API server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The pods on the node.
    Pods,
    /// A Deployment.
    Deployment {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
}

/// Something that may not have been looked at yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen<T> {
    /// Not looked at.
    #[default]
    Unknown,
    /// Looked at: it is not there.
    Absent,
    /// Looked at: it is there.
    There(T),
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
    match open {
        Some(record) => Decision { run, status, world, memory, now, record }.advance(),
        None => match failed_step(status) {
            Some(failed) => roll_back(run, status, world, failed, now),
            None => forward(run, status, world, now),
        },
    }
}

fn finish(phase: RunPhase, message: String) -> Action {
    Action::Record(Change::Finish { phase, message })
}

fn is_bad(outcome: Option<StepOutcome>) -> bool {
    matches!(outcome, Some(StepOutcome::Failed | StepOutcome::Ambiguous))
}

fn failed_step(status: &PlaybookRunStatus) -> Option<&StepRecord> {
    status.log.iter().find(|record| !record.undo && is_bad(record.outcome))
}

fn forward(run: &RunProgram, status: &PlaybookRunStatus, world: &World, now: Timestamp) -> Action {
    let done = status.log.iter().filter(|record| !record.undo).count();
    let plan = &run.spec().plan;
    let action = match plan.steps.get(done) {
        Some(step) => step.actions().first().copied().unwrap_or("unknown"),
        None if done == plan.steps.len() && plan.verify.is_some() => "verify",
        None => return finish(RunPhase::Succeeded, format!("{} steps done", plan.steps.len())),
    };
    let phase = if done == plan.steps.len() { RunPhase::Verifying } else { RunPhase::Running };
    match pre_image(run, action, done, world) {
        Ok(pre_image) => intend(run, action, done, false, pre_image, phase, now),
        Err(look) => Action::Look(look),
    }
}

fn roll_back(
    run: &RunProgram,
    status: &PlaybookRunStatus,
    world: &World,
    failed: &StepRecord,
    now: Timestamp,
) -> Action {
    let why = format!("step {} ({}) failed: {}", failed.index + 1, failed.action, failed.message);
    if run.spec().plan.rollback == Rollback::Never {
        return finish(RunPhase::Failed, format!("{why}; left as it is, as the playbook says"));
    }
    let undone = |step: &StepRecord| status.log.iter().any(|record| record.undo && record.index == step.index);
    // Only a cordon has an inverse. An uncordon needs none: undoing the cordon before it restores the same pre-image.
    // A failed cordon may have happened all the same, so it is undone too.
    let next = status.log.iter().rev().find(|record| !record.undo && record.action == "cordon" && !undone(record));
    if let Some(step) = next {
        let pre_image = node_image(world);
        return intend(run, "uncordon", step.index as usize, true, pre_image, RunPhase::RollingBack, now);
    }
    match status.log.iter().find(|record| record.undo && is_bad(record.outcome)) {
        Some(stuck) => finish(RunPhase::Failed, format!("{why}; undoing failed too: {}", stuck.message)),
        None => finish(RunPhase::RolledBack, format!("{why}; everything is as it was before")),
    }
}

type Image = serde_json::Map<String, serde_json::Value>;

fn intend(
    run: &RunProgram,
    action: &str,
    index: usize,
    undo: bool,
    pre_image: Image,
    phase: RunPhase,
    now: Timestamp,
) -> Action {
    let key = format!("{}/{index}/{}{action}", run.name(), if undo { "undo-" } else { "" });
    let record = StepRecord {
        index: index as u32,
        action: action.to_owned(),
        undo,
        key,
        intended_at: now.to_string(),
        pre_image,
        outcome: None,
        finished_at: None,
        // Never empty: API servers up to 1.20 take an empty text for null and refuse it.
        message: "under way".to_owned(),
    };
    Action::Record(Change::Intend { record, phase })
}

/// What is there before a step, or what has to be looked at to know.
fn pre_image(run: &RunProgram, action: &str, index: usize, world: &World) -> Result<Image, Look> {
    let mut image = Image::new();
    match action {
        "cordon" | "uncordon" => image = node_image(world),
        "drain" => {
            let pods: Vec<&PodView> = evictable(&world.pods).collect();
            let names = pods.iter().take(MAX_NAMED_PODS).map(|pod| format!("{}/{}", pod.namespace, pod.name));
            image.insert("podCount".into(), pods.len().into());
            image.insert("pods".into(), names.collect::<Vec<_>>().into());
        }
        "restart" => {
            let step = run.spec().plan.steps.get(index).and_then(|step| step.restart.as_ref());
            match (&world.deployment, step) {
                (Seen::Unknown, Some(step)) => return Err(look_at(step)),
                (Seen::Unknown | Seen::Absent, _) => {}
                (Seen::There(deployment), _) => {
                    image.insert("uid".into(), deployment.uid.clone().into());
                    image.insert("generation".into(), deployment.generation.into());
                    image.insert("restartedBy".into(), deployment.restarted_by.clone().into());
                }
            }
        }
        _ => {}
    }
    Ok(image)
}

fn look_at(step: &RestartStep) -> Look {
    Look::Deployment { namespace: step.namespace.clone(), name: step.deployment.clone() }
}

fn node_image(world: &World) -> Image {
    let mut image = Image::new();
    if let Some(node) = &world.node {
        image.insert("unschedulable".into(), node.unschedulable.into());
        image.insert("cordonedBy".into(), node.cordoned_by.clone().into());
    }
    image
}

/// What to do about an intent without an outcome.
struct Decision<'a> {
    run: &'a RunProgram,
    status: &'a PlaybookRunStatus,
    world: &'a World,
    memory: &'a Memory,
    now: Timestamp,
    record: &'a StepRecord,
}

impl Decision<'_> {
    fn advance(&self) -> Action {
        if self.record.intended_at.parse::<Timestamp>().is_err() {
            return settle(StepOutcome::Ambiguous, "the log does not say when this was intended".into());
        }
        let step = self.run.spec().plan.steps.get(self.record.index as usize);
        match (self.record.action.as_str(), self.record.undo, step) {
            ("uncordon", true, _) => self.undo_cordon(),
            ("cordon", false, _) => self.cordon(),
            ("uncordon", false, _) => self.uncordon(),
            ("drain", false, Some(Step { drain: Some(drain), .. })) => self.drain(drain.timeout.get()),
            ("restart", false, Some(Step { restart: Some(restart), .. })) => self.restart(restart),
            ("wait", false, Some(Step { wait: Some(wait), .. })) => self.wait(&wait.until, wait.timeout.get()),
            ("verify", false, Some(Step { verify: Some(verify), .. })) => self.verify(verify),
            ("verify", false, None) => match &self.run.spec().plan.verify {
                Some(verify) => self.verify(verify),
                None => settle(StepOutcome::Ambiguous, "the playbook has no verification".into()),
            },
            _ => settle(StepOutcome::Ambiguous, "the log names a step that the playbook does not have".into()),
        }
    }

    fn deadline(&self, timeout: std::time::Duration) -> Timestamp {
        let intended: Timestamp = self.record.intended_at.parse().unwrap_or(Timestamp::MIN);
        // An intent in the future is another machine's clock: the time then counts from now.
        planner::later(intended.min(self.now), timeout)
    }

    fn image_text(image: &Image, field: &str) -> Option<String> {
        image.get(field).and_then(|value| value.as_str()).map(ToOwned::to_owned)
    }

    fn gone(&self) -> Action {
        let subject = &self.run.spec().subject;
        settle(StepOutcome::Failed, format!("node {} ({}) is gone", subject.name, subject.uid))
    }

    fn cordon(&self) -> Action {
        let Some(node) = &self.world.node else { return self.gone() };
        let us = self.run.name();
        if node.unschedulable && node.cordoned_by.as_deref() == Some(us) {
            return settle(StepOutcome::Done, "the scheduler places nothing on it any more".into());
        }
        if node.unschedulable && node.cordoned_by.is_none() {
            return settle(StepOutcome::Skipped, "it was cordoned already, by someone else; it stays theirs".into());
        }
        self.act(Act::SetSchedulable { unschedulable: true, cordoned_by: Some(us.to_owned()) })
    }

    fn uncordon(&self) -> Action {
        let Some(node) = &self.world.node else { return self.gone() };
        if node.cordoned_by.as_deref() == Some(self.run.name()) {
            return self.act(Act::SetSchedulable { unschedulable: false, cordoned_by: None });
        }
        if Self::image_text(&self.record.pre_image, "cordonedBy").as_deref() == Some(self.run.name()) {
            return settle(StepOutcome::Done, "the scheduler may use it again".into());
        }
        settle(StepOutcome::Skipped, "this run did not cordon it, so it does not give it back".into())
    }

    fn undo_cordon(&self) -> Action {
        let Some(node) = &self.world.node else {
            return settle(StepOutcome::Skipped, "the node is gone: there is nothing to undo".into());
        };
        if node.cordoned_by.as_deref() == Some(self.run.name()) {
            let cordon = self.status.log.iter().find(|record| !record.undo && record.index == self.record.index);
            let before = cordon.map(|record| &record.pre_image);
            let unschedulable = before.and_then(|image| image.get("unschedulable")).and_then(|value| value.as_bool());
            let cordoned_by = before.and_then(|image| Self::image_text(image, "cordonedBy"));
            return self.act(Act::SetSchedulable { unschedulable: unschedulable.unwrap_or(false), cordoned_by });
        }
        if Self::image_text(&self.record.pre_image, "cordonedBy").as_deref() == Some(self.run.name()) {
            return settle(StepOutcome::Done, "it is as it was before".into());
        }
        settle(StepOutcome::Skipped, "it is not cordoned by this run: there is nothing to undo".into())
    }

    fn drain(&self, timeout: std::time::Duration) -> Action {
        if self.world.node.is_none() {
            return self.gone();
        }
        let left: Vec<&PodView> = evictable(&self.world.pods).collect();
        if left.is_empty() {
            if !self.world.pods_confirmed {
                return Action::Look(Look::Pods);
            }
            let before = self.record.pre_image.get("podCount").and_then(|value| value.as_u64()).unwrap_or(0);
            return match before {
                0 => settle(StepOutcome::Skipped, "there was no pod to move".into()),
                _ => settle(StepOutcome::Done, format!("{before} pods moved")),
            };
        }
        if let Some(failure) = self.memory.failure().filter(|failure| failure.permanent) {
            return settle(StepOutcome::Failed, failure.message.clone());
        }
        let deadline = self.deadline(timeout);
        if self.now >= deadline {
            return settle(StepOutcome::Failed, self.why_left(&left));
        }
        let due: Vec<PodView> = left
            .iter()
            .filter(|pod| !pod.terminating && self.memory.eviction_due(&pod.uid, self.now))
            .take(MAX_EVICTIONS_AT_ONCE)
            .map(|pod| (*pod).clone())
            .collect();
        if !due.is_empty() {
            return Action::Perform(Act::Evict { pods: due });
        }
        // Pods that are ending are not asked again: their end changes the world, which asks the next question.
        let asked_again = left.iter().filter(|pod| !pod.terminating);
        let next = asked_again.filter_map(|pod| self.memory.eviction_retry(&pod.uid)).min();
        let until = next.map_or(deadline, |at| at.min(deadline));
        Action::Wait { until, holds: false, why: format!("{} pods left", left.len()) }
    }

    fn why_left(&self, left: &[&PodView]) -> String {
        let named: Vec<String> = left
            .iter()
            .take(5)
            .map(|pod| match self.memory.refusal(&pod.uid) {
                Some(why) => format!("{}/{} ({why})", pod.namespace, pod.name),
                None => format!("{}/{}", pod.namespace, pod.name),
            })
            .collect();
        format!("{} pods are left after the timeout: {}", left.len(), named.join(", "))
    }

    fn restart(&self, step: &RestartStep) -> Action {
        let name = format!("{}/{}", step.namespace, step.deployment);
        let deployment = match &self.world.deployment {
            Seen::Unknown => return Action::Look(look_at(step)),
            Seen::Absent => return settle(StepOutcome::Failed, format!("Deployment {name} is not there")),
            Seen::There(deployment) => deployment,
        };
        let before = &self.record.pre_image;
        if Self::image_text(before, "uid").as_deref() != Some(&deployment.uid) {
            return settle(StepOutcome::Failed, format!("Deployment {name} is not the one that was there before"));
        }
        let deadline = self.deadline(step.timeout.get());
        if deployment.restarted_by.as_deref() == Some(&self.record.key) {
            if deployment.rolled_out() {
                return settle(StepOutcome::Done, format!("{} replicas of {name} replaced", deployment.wanted));
            }
            if self.now >= deadline {
                let message = format!("{name}: {} of {} replicas replaced", deployment.updated, deployment.wanted);
                return settle(StepOutcome::Failed, message);
            }
            let until = planner::later(self.now, ROLLOUT_INTERVAL).min(deadline);
            let why = format!("{} of {} replicas replaced", deployment.updated, deployment.wanted);
            return Action::Wait { until, holds: false, why };
        }
        if deployment.restarted_by != Self::image_text(before, "restartedBy") {
            let message = format!("{name} was restarted by someone else meanwhile; whether by us too cannot be told");
            return settle(StepOutcome::Ambiguous, message);
        }
        self.act(Act::Restart {
            namespace: step.namespace.clone(),
            deployment: step.deployment.clone(),
            uid: deployment.uid.clone(),
            key: self.record.key.clone(),
        })
    }

    fn wait(&self, until: &str, timeout: std::time::Duration) -> Action {
        let deadline = self.deadline(timeout);
        let Some(node) = &self.world.node else { return self.gone() };
        match self.run.holds(until, node) {
            Ok(true) => settle(StepOutcome::Done, format!("{until} holds")),
            held if self.now >= deadline => settle(StepOutcome::Failed, not_held(until, held)),
            _ => Action::Wait { until: deadline, holds: false, why: until.to_owned() },
        }
    }

    fn verify(&self, verify: &Verify) -> Action {
        let deadline = self.deadline(verify.timeout.get());
        let Some(node) = &self.world.node else { return self.gone() };
        let held = self.run.holds(&verify.that, node);
        if held == Ok(true) {
            let since = self.memory.holding_since().unwrap_or(self.now);
            let end = planner::later(since, verify.for_.get());
            if end <= self.now {
                return settle(StepOutcome::Done, format!("{} held for {}", verify.that, verify.for_));
            }
            if self.now < deadline {
                return Action::Wait { until: end.min(deadline), holds: true, why: verify.that.clone() };
            }
            let message = format!("{} has not held for {} by the timeout", verify.that, verify.for_);
            return settle(StepOutcome::Failed, message);
        }
        if self.now >= deadline {
            return settle(StepOutcome::Failed, not_held(&verify.that, held));
        }
        Action::Wait { until: deadline, holds: false, why: verify.that.clone() }
    }

    /// Acts, unless it failed for good, has to wait, or took too long.
    fn act(&self, act: Act) -> Action {
        let deadline = self.deadline(ACT_TIMEOUT);
        let failure = self.memory.failure();
        if let Some(failure) = failure.filter(|failure| failure.permanent) {
            return settle(StepOutcome::Failed, failure.message.clone());
        }
        if self.now >= deadline {
            let why = failure.map_or("nothing was tried in time", |failure| failure.message.as_str());
            return settle(StepOutcome::Failed, format!("not done within {}s: {why}", ACT_TIMEOUT.as_secs()));
        }
        match failure {
            Some(failure) if failure.retry_at > self.now => {
                Action::Wait { until: failure.retry_at.min(deadline), holds: false, why: failure.message.clone() }
            }
            _ => Action::Perform(act),
        }
    }
}

fn settle(outcome: StepOutcome, message: String) -> Action {
    Action::Record(Change::Settle { outcome, message })
}

fn not_held(source: &str, held: Result<bool, String>) -> String {
    match held {
        Ok(_) => format!("{source} did not hold by the timeout"),
        Err(why) => why,
    }
}

#[cfg(test)]
mod tests;
