//! Steps for a node that is lost with what it holds: fence, outOfService.
//!
//! Pods and volumes of a node may be used elsewhere only when it is certain that the node does not use them any more. An
//! order that was taken is no certainty, nor is silence: the BMC itself must say that the machine is off.

use std::time::Duration;

use evergreen_api::resources::StepOutcome;
use serde_json::{Value, json};

use super::{
    super::{
        Act, Action, Image, Look, World,
        act::evictable,
        decision::{ACT_TIMEOUT, Decision, image_text, settle},
    },
    fields::{get, merge_patch, taint_path},
};
use crate::view::ObjectView;

/// Taint by which Kubernetes gives up a node's pods and volumes at once (Non-Graceful Node Shutdown, GA in 1.28).
const TAINT: &str = "node.kubernetes.io/out-of-service";
const EFFECT: &str = "NoExecute";
/// How often pods and volumes are looked at that are being given up.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The BMC is asked within the step's timeout; recording and the call itself come on top.
const FENCE_SLACK: Duration = Duration::from_secs(30);

pub(super) fn fence_image(world: &World) -> Image {
    let boot = world.node.as_ref().map(|node| node.boot_id.clone());
    Image::from_iter([("bootID".to_owned(), boot.into())])
}

pub(super) fn out_of_service_image(node: Option<&ObjectView>) -> Image {
    Image::from_iter([("tainted".to_owned(), node.is_some_and(is_tainted).into())])
}

fn is_tainted(node: &ObjectView) -> bool {
    !get(&node.body, &taint_path(TAINT, EFFECT)).is_null()
}

fn taint(node: &ObjectView, on: bool) -> Value {
    let value = if on { json!({"key": TAINT, "value": "nodeshutdown", "effect": EFFECT}) } else { Value::Null };
    merge_patch(node, &[(&taint_path(TAINT, EFFECT), &value)])
}

impl Decision<'_> {
    pub(in super::super) fn fence(&self, timeout: Duration) -> Action {
        if let Some((outcome, message)) = self.memory.answer() {
            return settle(*outcome, message.clone());
        }
        let Some(node) = &self.world.node else { return self.gone() };
        // Someone else started the machine since the intent: switching it off again would be another act.
        if image_text(&self.record.pre_image, "bootID").is_some_and(|boot| boot != node.boot_id) {
            let message = "the machine was started anew since; it is not switched off a second time";
            return settle(StepOutcome::Ambiguous, message.into());
        }
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.act_within(Act::Fence { node: node.name.clone(), timeout_ms }, timeout + FENCE_SLACK)
    }

    pub(in super::super) fn out_of_service(&self, timeout: Duration) -> Action {
        let verified = self.status.log.iter().any(|record| {
            !record.undo
                && record.action == "fence"
                && record.index < self.record.index
                && record.outcome == Some(StepOutcome::Done)
        });
        if !verified {
            return settle(StepOutcome::Failed, "no step of this run has verified that the node is off".into());
        }
        let Some(node) = &self.world.node else { return self.gone() };
        let object = match self.looked(&self.run.subject()) {
            Ok(Some(object)) => object,
            Ok(None) => return self.gone(),
            Err(look) => return *look,
        };
        let ours = self.record.pre_image.get("tainted") != Some(&Value::Bool(true));
        let tainted = is_tainted(object);
        let subject = || self.run.subject();
        let take_off =
            || self.act_within(Act::Merge { object: subject(), patch: taint(object, false) }, timeout + ACT_TIMEOUT);
        if node.ready() {
            return match tainted && ours {
                true => take_off(),
                false => settle(StepOutcome::Failed, "the node is ready: it runs, so nothing of it is given up".into()),
            };
        }
        let pods = evictable(&self.world.pods).count();
        if pods == 0 && !self.world.pods_confirmed {
            return Action::Look(Look::Pods);
        }
        let Some(volumes) = self.world.volumes else { return Action::Look(Look::Volumes) };
        let deadline = self.deadline(timeout);
        let left = format!("{pods} pods and {volumes} volumes are left on it");
        match (pods + volumes == 0, tainted) {
            (true, true) if ours => take_off(),
            (true, _) => settle(StepOutcome::Done, "its pods and volumes were given up; the taint is off again".into()),
            (false, true) if self.now >= deadline && ours => take_off(),
            (false, _) if self.now >= deadline => settle(StepOutcome::Failed, format!("{left} after the timeout")),
            (false, false) => self.act(Act::Merge { object: subject(), patch: taint(object, true) }),
            (false, true) => self.look_again(LOOK_INTERVAL, deadline, left),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evergreen_api::resources::{PlaybookRunStatus, RunPhase};
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::{
        runner::{Change, Memory, RunProgram, next},
        view::{ConditionView, NodeView, PodView},
    };

    fn program() -> RunProgram {
        let plan = json!({
            "summary": "s", "mode": "enforce", "match": [{"nodeCondition": {"type": "NodeLost"}}],
            "steps": [{"fence": {"timeout": "1m"}}, {"outOfService": {"timeout": "10m"}}]
        });
        let spec = json!({
            "playbook": "p", "plan": plan, "trigger": "t", "attempt": 1, "before": {},
            "subject": {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1"}
        });
        RunProgram::new("r", serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap() + SignedDuration::from_secs(seconds)
    }

    fn node(ready: &str, boot: &str) -> NodeView {
        let ready = ConditionView { status: ready.into(), seen_since: at(0) };
        let conditions = [("Ready".to_owned(), ready)].into();
        NodeView { name: "n1".into(), uid: "u1".into(), boot_id: boot.into(), conditions, ..NodeView::default() }
    }

    fn record(index: u32, action: &str, image: Value, outcome: Option<&str>) -> Value {
        json!({
            "index": index, "action": action, "undo": false, "key": "k", "intendedAt": at(0).to_string(),
            "preImage": image, "outcome": outcome, "message": "m"
        })
    }

    fn status(log: Vec<Value>) -> PlaybookRunStatus {
        serde_json::from_value(json!({"phase": "Running", "log": log})).unwrap()
    }

    /// The node with or without the taint, with so many pods and volumes on it.
    fn world(tainted: bool, pods: usize, volumes: usize, node: NodeView) -> World {
        let taints =
            if tainted { json!([{"key": TAINT, "value": "nodeshutdown", "effect": EFFECT}]) } else { json!([]) };
        let body = json!({"metadata": {"name": "n1", "uid": "u1", "resourceVersion": "7"}, "spec": {"taints": taints}});
        let pod = |i: usize| PodView {
            namespace: "shop".into(),
            name: format!("p{i}"),
            uid: format!("p{i}"),
            node: "n1".into(),
            daemon_set: false,
            mirror: false,
            finished: false,
            terminating: true,
        };
        World {
            objects: BTreeMap::from([(program().subject(), Some(ObjectView::new("v1", "Node", body)))]),
            node: Some(node),
            pods: (0..pods).map(pod).collect(),
            pods_confirmed: true,
            volumes: Some(volumes),
            ..World::default()
        }
    }

    fn ask(log: Vec<Value>, world: &World, memory: &Memory, seconds: i64) -> Action {
        next(&program(), &status(log), world, memory, at(seconds))
    }

    fn outcome(action: Action) -> (StepOutcome, String) {
        match action {
            Action::Record(Change::Settle { outcome, message }) => (outcome, message),
            other => panic!("{other:?}"),
        }
    }

    fn given_up(fence: Option<&str>) -> Vec<Value> {
        vec![record(0, "fence", json!({}), fence), record(1, "outOfService", json!({"tainted": false}), None)]
    }

    #[test]
    fn a_fence_is_asked_again_after_a_crash_but_never_against_a_machine_that_was_started_anew() {
        let log = || vec![record(0, "fence", json!({"bootID": "b1"}), None)];
        let lost = world(false, 1, 1, node("Unknown", "b1"));
        assert!(matches!(ask(log(), &lost, &Memory::default(), 5), Action::Perform(Act::Fence { .. })));
        let again = world(false, 1, 1, node("True", "b2"));
        assert_eq!(outcome(ask(log(), &again, &Memory::default(), 5)).0, StepOutcome::Ambiguous);
        let mut memory = Memory::default();
        memory.note_answer(StepOutcome::Failed, "it must be taken for running".into());
        assert_eq!(outcome(ask(log(), &lost, &memory, 5)).0, StepOutcome::Failed);
    }

    #[test]
    fn nothing_is_given_up_unless_this_run_verified_that_the_node_is_off() {
        let lost = world(false, 1, 1, node("Unknown", "b1"));
        let action = Memory::default();
        let skipped = given_up(Some("Skipped"));
        assert_eq!(outcome(ask(skipped, &lost, &action, 5)).0, StepOutcome::Failed);
        let runs = world(false, 1, 1, node("True", "b1"));
        let (failed, why) = outcome(ask(given_up(Some("Done")), &runs, &action, 5));
        assert_eq!(failed, StepOutcome::Failed);
        assert!(why.contains("it runs"), "{why}");
    }

    #[test]
    fn the_taint_goes_on_stays_while_pods_or_volumes_are_left_and_comes_off_in_every_case() {
        let memory = Memory::default();
        let asked = |tainted, pods, volumes, ready, seconds| {
            ask(given_up(Some("Done")), &world(tainted, pods, volumes, node(ready, "b1")), &memory, seconds)
        };
        let patched = |action: Action| match action {
            Action::Perform(Act::Merge { patch, .. }) => patch["spec"]["taints"].as_array().unwrap().len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(patched(asked(false, 2, 1, "Unknown", 1)), 1);
        assert!(matches!(asked(true, 2, 1, "Unknown", 2), Action::Wait { .. }));
        assert!(matches!(asked(true, 0, 1, "Unknown", 3), Action::Wait { .. }));
        assert_eq!(patched(asked(true, 0, 0, "Unknown", 4)), 0);
        assert_eq!(outcome(asked(false, 0, 0, "Unknown", 5)).0, StepOutcome::Done);
        assert_eq!(patched(asked(true, 1, 0, "Unknown", 601)), 0, "also when time is up");
        assert_eq!(outcome(asked(false, 1, 0, "Unknown", 602)).0, StepOutcome::Failed);
        assert_eq!(patched(asked(true, 1, 0, "True", 6)), 0, "also when the node is back");
    }

    #[test]
    fn the_run_ends_well_when_both_steps_are_done() {
        let log = vec![record(0, "fence", json!({}), Some("Done")), record(1, "outOfService", json!({}), Some("Done"))];
        let action = ask(log, &World::default(), &Memory::default(), 9);
        assert!(matches!(action, Action::Record(Change::Finish { phase: RunPhase::Succeeded, .. })), "{action:?}");
    }
}
