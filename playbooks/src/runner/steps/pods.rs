//! Steps on the pod that a run is for: evict, delete.

use std::time::Duration;

use evergreen_api::resources::StepOutcome;
use serde_json::Value;

use super::super::{
    Act, Action, Image, RunProgram,
    decision::{Decision, settle},
};
use crate::view::{ObjectView, PodView};

/// How often a pod that ends is looked at.
const END_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn image(run: &RunProgram, pod: Option<&ObjectView>) -> Image {
    let there = pod.is_some_and(|pod| pod.uid == run.spec().subject.uid);
    Image::from_iter([("there".to_owned(), there.into())])
}

impl Decision<'_> {
    /// The pod; or that it is gone, which is what these steps are for.
    fn pod(&self) -> Result<&ObjectView, Box<Action>> {
        let pod = self.looked(&self.run.subject())?;
        pod.filter(|pod| pod.uid == self.run.spec().subject.uid).ok_or_else(|| {
            Box::new(match self.record.pre_image.get("there") == Some(&Value::Bool(true)) {
                true => settle(StepOutcome::Done, "the pod is gone; its workload replaces it".into()),
                false => settle(StepOutcome::Skipped, "the pod was gone already".into()),
            })
        })
    }

    fn is_ending(pod: &ObjectView) -> bool {
        pod.body.pointer("/metadata/deletionTimestamp").is_some()
    }

    pub(in super::super) fn evict(&self, timeout: Duration) -> Action {
        let pod = match self.pod() {
            Ok(pod) => pod,
            Err(answer) => return *answer,
        };
        let deadline = self.deadline(timeout);
        if let Some(failure) = self.memory.failure().filter(|failure| failure.permanent) {
            return settle(StepOutcome::Failed, failure.message.clone());
        }
        if self.now >= deadline {
            let why = self.memory.refusal(&pod.uid).unwrap_or("it does not end");
            return settle(StepOutcome::Failed, format!("the pod is still there after the timeout: {why}"));
        }
        if Self::is_ending(pod) {
            return self.look_again(END_INTERVAL, deadline, "the pod ends".into());
        }
        if self.memory.eviction_due(&pod.uid, self.now) {
            let pods = vec![PodView {
                namespace: pod.object.namespace.clone().unwrap_or_default(),
                name: pod.object.name.clone(),
                uid: pod.uid.clone(),
                node: pod.node().unwrap_or_default(),
                daemon_set: false,
                mirror: false,
                finished: false,
                terminating: false,
            }];
            return Action::Perform(Act::Evict { pods });
        }
        let until = self.memory.eviction_retry(&pod.uid).map_or(deadline, |at| at.min(deadline));
        match until > self.now {
            true => self.look_again(
                until.duration_since(self.now).try_into().unwrap_or(END_INTERVAL),
                deadline,
                "the disruption budget is used up".into(),
            ),
            false => self.look_again(END_INTERVAL, deadline, "the pod ends".into()),
        }
    }

    pub(in super::super) fn delete_pod(&self, timeout: Duration) -> Action {
        let pod = match self.pod() {
            Ok(pod) => pod,
            Err(answer) => return *answer,
        };
        let deadline = self.deadline(timeout);
        if Self::is_ending(pod) {
            if self.now >= deadline {
                return settle(StepOutcome::Failed, "the pod is being deleted and does not end".into());
            }
            return self.look_again(END_INTERVAL, deadline, "the pod ends".into());
        }
        self.act_within(Act::Delete { object: self.run.subject(), uid: pod.uid.clone() }, timeout)
    }
}
