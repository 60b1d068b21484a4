//! The kubelets' part for pods: containers start, get ready, and stop within their grace.

use std::sync::Arc;

use crate::apiserver::clock::Moment;
use serde_json::{Value, json};

use super::Simulation;
use super::cache::{PodFacts, Stage};
use super::timers::Timer;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta;

/// Annotation with the value `true` on a pod whose readiness probe shall never succeed.
pub const ANNOTATION_NEVER_READY: &str = "twin.evergreen.dev/never-ready";

impl Simulation {
    pub(crate) fn reconcile_pod(&mut self, key: &Arc<str>) {
        let Some(facts) = self.cache.pods.get(key).cloned() else { return };
        let Some(node) = facts.node.clone().filter(|n| self.world.is_up(n)) else { return };
        let stage = self.cache.stage(&facts.uid).map(|(stage, _)| stage);
        let now = self.now();
        if let Some(grace) = facts.deleting {
            if stage != Some(Stage::Stopping) {
                let grace = std::time::Duration::from_secs(grace.unsigned_abs());
                let started = matches!(stage, Some(Stage::Running | Stage::Ready));
                let stop = if started { self.world.timing.pod_stop.min(grace) } else { std::time::Duration::ZERO };
                self.enter(&facts, Stage::Stopping, now + stop);
            }
            return;
        }
        match (facts.phase, stage) {
            ("Pending", None) => {
                self.write_pod_status(&facts, &node, Stage::Creating);
                self.enter(&facts, Stage::Creating, now + self.world.timing.pod_start);
            }
            // Known as running, but not to this kubelet: it has just come (back) up.
            ("Running", None) if facts.ready => self.enter(&facts, Stage::Ready, now),
            ("Running", None) => self.enter(&facts, Stage::Running, now + self.world.timing.pod_ready),
            _ => {}
        }
    }

    fn enter(&mut self, facts: &PodFacts, stage: Stage, next: Moment) {
        self.cache.set_stage(&facts.uid, stage, next);
        let ends = stage == Stage::Ready && !facts.restarts;
        if ends || !matches!(stage, Stage::Ready | Stage::Ended) {
            self.timers.set(next, Timer::Pod(facts.key.clone()));
        }
    }

    pub(crate) fn pod_timer(&mut self, key: &Arc<str>) {
        let Some(facts) = self.cache.pods.get(key).cloned() else { return };
        let Some(node) = facts.node.clone().filter(|n| self.world.is_up(n)) else { return };
        let Some((stage, next)) = self.cache.stage(&facts.uid) else { return };
        if next > self.now() {
            return;
        }
        match stage {
            Stage::Creating => {
                self.write_pod_status(&facts, &node, Stage::Running);
                self.enter(&facts, Stage::Running, self.now() + self.world.timing.pod_ready);
            }
            Stage::Running => {
                if self.is_never_ready(&facts) {
                    return;
                }
                self.write_pod_status(&facts, &node, Stage::Ready);
                self.enter(&facts, Stage::Ready, self.now() + self.world.timing.pod_run);
            }
            Stage::Ready if !facts.restarts => {
                self.write_pod_status(&facts, &node, Stage::Ended);
                self.enter(&facts, Stage::Ended, self.now());
            }
            Stage::Ready | Stage::Ended => {}
            Stage::Stopping => {
                self.cache.forget_stage(&facts.uid);
                self.delete_pod(&facts, Some(0));
            }
        }
    }

    fn is_never_ready(&self, facts: &PodFacts) -> bool {
        self.api()
            .read("", "pods", facts.namespace(), facts.name())
            .is_some_and(|p| p["metadata"]["annotations"][ANNOTATION_NEVER_READY] == "true")
    }

    fn write_pod_status(&mut self, facts: &PodFacts, node: &str, stage: Stage) {
        let now = self.api().clock().seconds();
        let host_address = self.cache.nodes.get(node).map(|n| n.address.clone()).unwrap_or_default();
        let address = match (&facts.address, stage) {
            (Some(address), _) => Some(address.to_string()),
            (None, Stage::Creating) => None,
            (None, _) => {
                let number = self.next_address;
                self.next_address += 1;
                // 10.244.0.0/16, the pod network that most tutorials use.
                Some(format!("10.244.{}.{}", number / 254 % 256, number % 254 + 1))
            }
        };
        let uid = facts.uid.clone();
        self.api().amend("", "pods", facts.namespace(), facts.name(), Some("status"), |pod| {
            let ended = stage == Stage::Ended;
            let running = stage != Stage::Creating;
            let ready = stage == Stage::Ready;
            let statuses: Vec<Value> = meta::list(pod, &["spec", "containers"])
                .iter()
                .map(|c| {
                    let mut status = container_status(c, &uid, running, ready, &now);
                    if ended {
                        let id = status["containerID"].clone();
                        status["started"] = json!(false);
                        status["state"] = json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now, "startedAt": now, "containerID": id}});
                    }
                    status
                })
                .collect();
            let status = &mut pod["status"];
            status["phase"] = json!(match stage {
                Stage::Creating => "Pending",
                Stage::Ended => "Succeeded",
                _ => "Running",
            });
            status["hostIP"] = host_address;
            if status["startTime"].is_null() {
                status["startTime"] = json!(now);
            }
            if let Some(address) = address {
                status["podIP"] = json!(address);
                status["podIPs"] = json!([{"ip": address}]);
            }
            status["containerStatuses"] = json!(statuses);
            let flag = |on: bool| if on { "True" } else { "False" };
            let waiting = (!ready).then_some(if ended { "PodCompleted" } else { "ContainersNotReady" });
            for (kind, on, reason) in [
                ("Initialized", true, None),
                ("ContainersReady", ready, waiting),
                ("Ready", ready, waiting),
                ("PodScheduled", true, None),
            ] {
                let mut condition = json!({"type": kind, "status": flag(on)});
                if let Some(reason) = reason {
                    condition["reason"] = json!(reason);
                }
                set_condition(status, &condition, &now);
            }
        });
    }
}

fn container_status(container: &Value, uid: &str, running: bool, ready: bool, now: &str) -> Value {
    let state = if running {
        json!({"running": {"startedAt": now}})
    } else {
        json!({"waiting": {"reason": "ContainerCreating"}})
    };
    let mut status = json!({
        "name": container["name"], "image": container["image"], "imageID": "", "ready": ready, "started": running,
        "restartCount": 0, "state": state, "lastState": {},
    });
    if running {
        let id = container_id(uid, container["name"].as_str().unwrap_or_default());
        status["containerID"] = json!(format!("containerd://{id}"));
    }
    status
}

/// The ID that a container of a pod gets: 64 hexadecimal digits that depend on the pod's UID and its own name.
pub fn container_id(pod_uid: &str, name: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut id = String::with_capacity(64);
    for round in 0..4u8 {
        for byte in pod_uid.bytes().chain([b'/']).chain(name.bytes()).chain([round]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        id.push_str(&format!("{hash:016x}"));
    }
    id
}
