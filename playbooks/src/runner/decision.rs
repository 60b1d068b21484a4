//! What to do about an intent without an outcome.

use std::time::Duration;

use evergreen_api::resources::{ObjectName, PlaybookRunStatus, Step, StepKind, StepOutcome, StepRecord};
use jiff::Timestamp;

use super::{Act, Action, Change, Image, Look, Memory, RunProgram, World};
use crate::{planner, view::ObjectView};

/// One small write must be through by then.
pub(super) const ACT_TIMEOUT: Duration = Duration::from_secs(120);

/// A question about the open step.
pub(super) struct Decision<'a> {
    pub(super) run: &'a RunProgram,
    pub(super) status: &'a PlaybookRunStatus,
    pub(super) world: &'a World,
    pub(super) memory: &'a Memory,
    pub(super) now: Timestamp,
    pub(super) record: &'a StepRecord,
}

impl<'a> Decision<'a> {
    pub(super) fn advance(&self) -> Action {
        if self.record.intended_at.parse::<Timestamp>().is_err() {
            return settle(StepOutcome::Ambiguous, "the log does not say when this was intended".into());
        }
        let Some(step) = self.step() else {
            return match (&self.run.spec().plan.verify, self.record.action.as_str()) {
                (Some(verify), "verify") => self.verify(verify),
                _ => settle(StepOutcome::Ambiguous, "the log names a step that the playbook does not have".into()),
            };
        };
        if self.record.undo {
            return match step {
                StepKind::Cordon(_) => self.undo_cordon(),
                _ => self.undo_fields(),
            };
        }
        match step {
            StepKind::Cordon(_) => self.cordon(),
            StepKind::Uncordon(_) => self.uncordon(),
            StepKind::Drain(drain) => self.drain(drain.timeout.get()),
            StepKind::Restart(restart) => self.restart(restart),
            StepKind::Wait(wait) => self.wait(&wait.until, wait.timeout.get()),
            StepKind::Verify(verify) => self.verify(verify),
            StepKind::Stop(stop) => self.stop(stop),
            StepKind::Approve(approve) => self.approve(approve),
            StepKind::RunPlaybook(other) => self.run_playbook(other),
            StepKind::Taint(_)
            | StepKind::Untaint(_)
            | StepKind::Label(_)
            | StepKind::Annotate(_)
            | StepKind::Scale(_)
            | StepKind::Patch(_) => self.fields(),
            StepKind::Evict(evict) => self.evict(evict.timeout.get()),
            StepKind::DeletePod(delete) => self.delete_pod(delete.timeout.get()),
            StepKind::CreateJob(job) => self.create_job(job),
            StepKind::Http(http) => self.http(http),
            StepKind::Notify(notify) => self.notify(notify),
            StepKind::Fence(fence) => self.fence(fence.timeout.get()),
            StepKind::OutOfService(out) => self.out_of_service(out.timeout.get()),
        }
    }

    /// The step of the open record, among the steps or among what follows a failure; its name must be the record's.
    fn step(&self) -> Option<StepKind<'a>> {
        let plan = &self.run.spec().plan;
        let index = self.record.index as usize;
        let step: &Step =
            plan.steps.get(index).or_else(|| plan.on_failure.get(index.checked_sub(plan.steps.len() + 1)?))?;
        let action = step.actions().first().copied()?;
        let expected = if self.record.undo { super::steps::undo_action(action) } else { action };
        step.kind().filter(|_| expected == self.record.action)
    }

    pub(super) fn deadline(&self, timeout: Duration) -> Timestamp {
        let intended: Timestamp = self.record.intended_at.parse().unwrap_or(Timestamp::MIN);
        // An intent in the future is another machine's clock: the time then counts from now.
        planner::later(intended.min(self.now), timeout)
    }

    /// An object as it was looked at for this question.
    ///
    /// # Errors
    /// What has to be looked at first.
    pub(super) fn looked(&self, object: &ObjectName) -> Result<Option<&'a ObjectView>, Box<Action>> {
        match self.world.objects.get(object) {
            Some(found) => Ok(found.as_ref()),
            None => Err(Box::new(Action::Look(Look::Object(object.clone())))),
        }
    }

    pub(super) fn gone(&self) -> Action {
        let subject = &self.run.spec().subject;
        settle(StepOutcome::Failed, format!("{} ({}) is gone", subject.display(), subject.uid))
    }

    /// Acts, unless it failed for good, has to wait, or took too long.
    pub(super) fn act(&self, act: Act) -> Action {
        self.act_within(act, ACT_TIMEOUT)
    }

    pub(super) fn act_within(&self, act: Act, timeout: Duration) -> Action {
        let deadline = self.deadline(timeout);
        let failure = self.memory.failure();
        if let Some(failure) = failure.filter(|failure| failure.permanent) {
            return settle(StepOutcome::Failed, failure.message.clone());
        }
        if self.now >= deadline {
            let why = failure.map_or("nothing was tried in time", |failure| failure.message.as_str());
            return settle(StepOutcome::Failed, format!("not done within {}s: {why}", timeout.as_secs()));
        }
        match failure {
            Some(failure) if failure.retry_at > self.now => {
                Action::Wait { until: failure.retry_at.min(deadline), holds: false, why: failure.message.clone() }
            }
            _ => Action::Perform(act),
        }
    }

    /// Waits a moment, at most until a deadline, for something that is only seen by looking again.
    pub(super) fn look_again(&self, after: Duration, deadline: Timestamp, why: String) -> Action {
        Action::Wait { until: planner::later(self.now, after).min(deadline), holds: false, why }
    }
}

pub(super) fn image_text(image: &Image, field: &str) -> Option<String> {
    image.get(field).and_then(|value| value.as_str()).map(ToOwned::to_owned)
}

pub(super) fn settle(outcome: StepOutcome, message: String) -> Action {
    Action::Record(Change::Settle { outcome, message })
}
