//! Steps on a node's place in the scheduler's eyes, and on all of its pods: cordon, uncordon, drain.

use evergreen_api::resources::StepOutcome;

use super::super::{
    Act, Action, Image, Look, MAX_EVICTIONS_AT_ONCE, World,
    act::evictable,
    decision::{Decision, image_text, settle},
};
use crate::view::PodView;

/// Pods that a drain's record names; the count is always exact.
const MAX_NAMED_PODS: usize = 20;

pub(super) fn image(world: &World) -> Image {
    let mut image = Image::new();
    if let Some(node) = &world.node {
        image.insert("unschedulable".into(), node.unschedulable.into());
        image.insert("cordonedBy".into(), node.cordoned_by.clone().into());
    }
    image
}

pub(super) fn drain_image(world: &World) -> Image {
    let pods: Vec<&PodView> = evictable(&world.pods).collect();
    let names = pods.iter().take(MAX_NAMED_PODS).map(|pod| format!("{}/{}", pod.namespace, pod.name));
    Image::from_iter([
        ("podCount".to_owned(), pods.len().into()),
        ("pods".to_owned(), names.collect::<Vec<_>>().into()),
    ])
}

impl Decision<'_> {
    pub(in super::super) fn cordon(&self) -> Action {
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

    pub(in super::super) fn uncordon(&self) -> Action {
        let Some(node) = &self.world.node else { return self.gone() };
        if node.cordoned_by.as_deref() == Some(self.run.name()) {
            return self.act(Act::SetSchedulable { unschedulable: false, cordoned_by: None });
        }
        if image_text(&self.record.pre_image, "cordonedBy").as_deref() == Some(self.run.name()) {
            return settle(StepOutcome::Done, "the scheduler may use it again".into());
        }
        settle(StepOutcome::Skipped, "this run did not cordon it, so it does not give it back".into())
    }

    pub(in super::super) fn undo_cordon(&self) -> Action {
        let Some(node) = &self.world.node else {
            return settle(StepOutcome::Skipped, "the node is gone: there is nothing to undo".into());
        };
        if node.cordoned_by.as_deref() == Some(self.run.name()) {
            let cordon = self.status.log.iter().find(|record| !record.undo && record.index == self.record.index);
            let before = cordon.map(|record| &record.pre_image);
            let unschedulable = before.and_then(|image| image.get("unschedulable")).and_then(|value| value.as_bool());
            let cordoned_by = before.and_then(|image| image_text(image, "cordonedBy"));
            return self.act(Act::SetSchedulable { unschedulable: unschedulable.unwrap_or(false), cordoned_by });
        }
        if image_text(&self.record.pre_image, "cordonedBy").as_deref() == Some(self.run.name()) {
            return settle(StepOutcome::Done, "it is as it was before".into());
        }
        settle(StepOutcome::Skipped, "it is not cordoned by this run: there is nothing to undo".into())
    }

    pub(in super::super) fn drain(&self, timeout: std::time::Duration) -> Action {
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
}
