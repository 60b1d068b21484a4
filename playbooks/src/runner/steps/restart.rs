//! Restart of a workload: a key in its pod template, once, and the roll-out that follows.

use std::time::Duration;

use evergreen_api::{
    names,
    resources::{ObjectName, RestartStep, StepOutcome},
};
use serde_json::json;

use super::super::{
    Act, Action, Image, RunProgram,
    decision::{Decision, image_text, settle},
};
use crate::view::ObjectView;

/// How often a restarted workload is looked at.
const ROLLOUT_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn workload(run: &RunProgram, step: &RestartStep) -> Option<ObjectName> {
    super::workload_named(
        run,
        step.namespace.as_ref(),
        &[
            ("Deployment", step.deployment.as_ref()),
            ("StatefulSet", step.stateful_set.as_ref()),
            ("DaemonSet", step.daemon_set.as_ref()),
        ],
    )
}

pub(super) fn image(object: Option<&ObjectView>) -> Image {
    let mut image = Image::new();
    if let Some(workload) = object.and_then(ObjectView::workload) {
        image.insert("uid".into(), workload.uid.into());
        image.insert("generation".into(), workload.generation.into());
        image.insert("restartedBy".into(), workload.restarted_by.into());
    }
    image
}

impl Decision<'_> {
    pub(in super::super) fn restart(&self, step: &RestartStep) -> Action {
        let Some(name) = workload(self.run, step) else {
            return settle(StepOutcome::Failed, "the run knows no workload to restart: name one".into());
        };
        let object = match self.looked(&name) {
            Ok(object) => object,
            Err(look) => return *look,
        };
        let shown = name.display();
        let Some((object, workload)) = object.and_then(|object| Some((object, object.workload()?))) else {
            return settle(StepOutcome::Failed, format!("{shown} is not there"));
        };
        let before = &self.record.pre_image;
        if image_text(before, "uid").as_deref() != Some(&workload.uid) {
            return settle(StepOutcome::Failed, format!("{shown} is not the one that was there before"));
        }
        let deadline = self.deadline(step.timeout.get());
        if workload.restarted_by.as_deref() == Some(&self.record.key) {
            if workload.rolled_out() {
                return settle(StepOutcome::Done, format!("{} replicas of {shown} replaced", workload.wanted));
            }
            let why = format!("{} of {} replicas replaced", workload.updated, workload.wanted);
            if self.now >= deadline {
                return settle(StepOutcome::Failed, format!("{shown}: {why}"));
            }
            return self.look_again(ROLLOUT_INTERVAL, deadline, why);
        }
        if workload.restarted_by != image_text(before, "restartedBy") {
            let message = format!("{shown} was restarted by someone else meanwhile; whether by us too cannot be told");
            return settle(StepOutcome::Ambiguous, message);
        }
        if object.label(names::LABEL_HEALING) == Some("off") {
            let message = format!("{shown} is labelled {}=off: nothing acts on it", names::LABEL_HEALING);
            return settle(StepOutcome::Failed, message);
        }
        let patch = json!({
            "metadata": {"resourceVersion": object.version},
            "spec": {"template": {"metadata": {"annotations": {names::ANNOTATION_RESTARTED_BY: self.record.key}}}},
        });
        self.act(Act::Merge { object: name, patch })
    }
}
