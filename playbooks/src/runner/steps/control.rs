//! Steps that change nothing: wait, verify, stop, approve, runPlaybook.

use std::time::Duration;

use evergreen_api::resources::{ApproveStep, RunPhase, RunPlaybookStep, StepOutcome, StopStep, Verify};
use serde_json::json;

use super::super::{
    Action, Look, approvers,
    decision::{Decision, image_text, settle},
};
use crate::{
    expression::{Scope, Variables},
    planner,
};

/// How often an object is looked at that is waited for; nodes are watched instead.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

impl Decision<'_> {
    /// What expressions see now.
    ///
    /// # Errors
    /// What has to be looked at first, or that the node is gone.
    fn variables(&self) -> Result<Variables, Box<Action>> {
        let spec = self.run.spec();
        let mut variables = Variables::new();
        if self.run.scope() == Scope::NodeRun {
            let node = self.world.node.as_ref().ok_or_else(|| Box::new(self.gone()))?;
            variables.insert("node".into(), node.to_fields().into());
            variables.insert("before".into(), json!({"node": spec.before}));
            return Ok(variables);
        }
        let object = self.looked(&self.run.subject())?.filter(|object| object.uid == spec.subject.uid);
        variables.insert("gone".into(), object.is_none().into());
        if let Some(object) = object {
            variables.insert("object".into(), object.body.clone());
        }
        if let Some(workload) = &spec.workload {
            let fields = self.looked(workload)?.and_then(|workload| workload.workload_fields());
            variables.extend(fields.map(|fields| ("workload".to_owned(), fields)));
        }
        variables.insert("before".into(), json!({"object": spec.before}));
        Ok(variables)
    }

    /// Until when to wait for a condition: nodes are watched, anything else is looked at again.
    fn wait_for(&self, deadline: jiff::Timestamp, holds: bool, why: &str) -> Action {
        let until = match self.run.scope() {
            Scope::NodeRun => deadline,
            _ => planner::later(self.now, LOOK_INTERVAL).min(deadline),
        };
        Action::Wait { until, holds, why: why.to_owned() }
    }

    pub(in super::super) fn wait(&self, until: &str, timeout: Duration) -> Action {
        let deadline = self.deadline(timeout);
        let variables = match self.variables() {
            Ok(variables) => variables,
            Err(action) => return *action,
        };
        match self.run.holds(until, &variables) {
            Ok(true) => settle(StepOutcome::Done, format!("{until} holds")),
            held if self.now >= deadline => settle(StepOutcome::Failed, not_held(until, held)),
            _ => self.wait_for(deadline, false, until),
        }
    }

    pub(in super::super) fn verify(&self, verify: &Verify) -> Action {
        let deadline = self.deadline(verify.timeout.get());
        let variables = match self.variables() {
            Ok(variables) => variables,
            Err(action) => return *action,
        };
        let held = self.run.holds(&verify.that, &variables);
        if held == Ok(true) {
            let since = self.memory.holding_since().unwrap_or(self.now);
            let end = planner::later(since, verify.for_.get());
            if end <= self.now {
                return settle(StepOutcome::Done, format!("{} held for {}", verify.that, verify.for_));
            }
            if self.now < deadline {
                return self.wait_for(end.min(deadline), true, &verify.that);
            }
            let message = format!("{} has not held for {} by the timeout", verify.that, verify.for_);
            return settle(StepOutcome::Failed, message);
        }
        if self.now >= deadline {
            return settle(StepOutcome::Failed, not_held(&verify.that, held));
        }
        self.wait_for(deadline, false, &verify.that)
    }

    pub(in super::super) fn stop(&self, stop: &StopStep) -> Action {
        let variables = match self.variables() {
            Ok(variables) => variables,
            Err(action) => return *action,
        };
        match self.run.holds(&stop.when, &variables) {
            Ok(true) => settle(StepOutcome::Done, format!("nothing more is to be done: {}", stop.why)),
            Ok(false) => settle(StepOutcome::Skipped, format!("{} does not hold: it goes on", stop.when)),
            Err(why) => settle(StepOutcome::Failed, why),
        }
    }

    pub(in super::super) fn approve(&self, approve: &ApproveStep) -> Action {
        let Some(approved) = &self.world.approved_by else { return Action::Look(Look::Approvals) };
        let people = approvers(approved, self.run.spec().requested_by.as_deref(), Some(self.record.index));
        let names: Vec<&str> = people.iter().copied().collect();
        if people.len() >= approve.people as usize {
            return settle(StepOutcome::Done, format!("approved by {}", names.join(", ")));
        }
        let deadline = self.deadline(approve.timeout.get());
        let why = format!("{} of {} people have approved: {}", people.len(), approve.people, approve.why);
        if self.now >= deadline {
            return settle(StepOutcome::Failed, format!("{why}; nobody else did within {}", approve.timeout));
        }
        self.look_again(LOOK_INTERVAL, deadline, why)
    }

    pub(in super::super) fn run_playbook(&self, step: &RunPlaybookStep) -> Action {
        let spec = self.run.spec();
        if spec.playbook == step.name || spec.chain.iter().any(|link| link.playbook == step.name) {
            let mut chain: Vec<&str> = spec.chain.iter().map(|link| link.playbook.as_str()).collect();
            chain.extend([spec.playbook.as_str(), step.name.as_str()]);
            return settle(StepOutcome::Failed, format!("endless loop of playbooks: {}", chain.join(" -> ")));
        }
        let Some(child) = image_text(&self.record.pre_image, "run") else {
            return settle(StepOutcome::Ambiguous, "the log does not say which run was asked for".into());
        };
        let deadline = self.deadline(step.timeout.get());
        let Some(found) = self.world.runs.get(&child) else { return Action::Look(Look::Run(child)) };
        match found {
            Some(run) if run.phase == RunPhase::Succeeded => {
                settle(StepOutcome::Done, format!("run {child} succeeded"))
            }
            Some(run) if run.phase.is_final() => {
                settle(StepOutcome::Failed, format!("run {child} ended as {:?}: {}", run.phase, run.message))
            }
            _ if self.now >= deadline => {
                let why =
                    found.as_ref().map_or("it was not started: its guards, or no such playbook", |run| &run.message);
                settle(StepOutcome::Failed, format!("run {child} has not succeeded within {}: {why}", step.timeout))
            }
            _ => self.look_again(LOOK_INTERVAL, deadline, format!("waiting for run {child}")),
        }
    }
}

fn not_held(source: &str, held: Result<bool, String>) -> String {
    match held {
        Ok(_) => format!("{source} did not hold by the timeout"),
        Err(why) => why,
    }
}
