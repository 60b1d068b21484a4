//! The kubelets' part for pods: containers start, get ready, and stop within their grace.

use std::sync::Arc;

use crate::apiserver::clock::Moment;
use serde_json::{Value, json};

use super::Simulation;
use super::behaviour::{Behaviour, back_off, ran_well};
use super::cache::{PodFacts, Stage};
use super::timers::Timer;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta;

/// How often a pod's first container has crashed in a row, and since when it runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Life {
    crashes: u32,
    since: Moment,
}

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
                self.enter(&facts, Stage::Stopping, Some(now + stop));
            }
            return;
        }
        match (facts.phase, stage) {
            ("Pending", None) => {
                self.write_pod_status(&facts, &node, Stage::Creating);
                let start = self.behaviour(&facts).start;
                self.enter(&facts, Stage::Creating, Some(now + start));
            }
            // Known as running, but not to this kubelet: it has just come (back) up.
            ("Running", None) => self.running(&facts, if facts.ready { Stage::Ready } else { Stage::Running }, true),
            _ => {}
        }
    }

    fn behaviour(&self, facts: &PodFacts) -> Behaviour {
        // The simulation's own view of a pod may be a write behind; neither annotations nor spec change by its writes.
        Behaviour::of(&facts.entry.part("metadata"), &facts.entry.part("spec"), &self.world.timing)
    }

    fn enter(&mut self, facts: &PodFacts, stage: Stage, next: Option<Moment>) {
        self.cache.set_stage(&facts.uid, stage, next.unwrap_or_default());
        if let Some(at) = next {
            self.timers.set(at, Timer::Pod(facts.key.clone()));
        }
    }

    /// Containers run (from now on if they have just been started): sets the time of what comes next.
    fn running(&mut self, facts: &PodFacts, stage: Stage, started: bool) {
        if stage == Stage::Ready && facts.restarts && !facts.peculiar {
            return self.enter(facts, stage, None);
        }
        let (now, behaviour) = (self.now(), self.behaviour(facts));
        if started && behaviour.crash.is_some() {
            self.lives.entry(facts.uid.clone()).or_default().since = now;
        }
        let crash = behaviour.crash.map(|after| self.lives.get(&facts.uid).map_or(now, |l| l.since) + after);
        let next = match stage {
            Stage::Running => behaviour.ready.map(|after| now + after),
            _ => (!facts.restarts).then(|| now + behaviour.run),
        };
        self.enter(facts, stage, crash.into_iter().chain(next).min());
    }

    pub(crate) fn pod_timer(&mut self, key: &Arc<str>) {
        let Some(facts) = self.cache.pods.get(key).cloned() else { return };
        let Some(node) = facts.node.clone().filter(|n| self.world.is_up(n)) else { return };
        let Some((stage, next)) = self.cache.stage(&facts.uid) else { return };
        let now = self.now();
        if next > now {
            return;
        }
        let runs = matches!(stage, Stage::Running | Stage::Ready);
        let behaviour = self.behaviour(&facts);
        let since = self.lives.get(&facts.uid).map(|l| l.since);
        if runs && behaviour.crash.zip(since).is_some_and(|(after, since)| since + after <= now) {
            return self.crash(&facts, &node, &behaviour);
        }
        match stage {
            Stage::Creating | Stage::BackOff => {
                self.write_pod_status(&facts, &node, Stage::Running);
                self.running(&facts, Stage::Running, true);
            }
            Stage::Running if behaviour.ready.is_some() => {
                self.write_pod_status(&facts, &node, Stage::Ready);
                self.running(&facts, Stage::Ready, false);
            }
            Stage::Ready if !facts.restarts && behaviour.exit_code != 0 => self.crash(&facts, &node, &behaviour),
            Stage::Ready if !facts.restarts => {
                self.write_pod_status(&facts, &node, Stage::Ended);
                self.enter(&facts, Stage::Ended, None);
            }
            Stage::Running | Stage::Ready | Stage::Ended | Stage::Failed => {}
            Stage::Stopping => {
                self.cache.forget_stage(&facts.uid);
                self.lives.remove(&facts.uid);
                self.delete_pod(&facts, Some(0));
            }
        }
    }

    /// The first container ends with an error: it is started again, at once or after the back-off, or the pod fails.
    fn crash(&mut self, facts: &PodFacts, node: &str, behaviour: &Behaviour) {
        if behaviour.never_restarts {
            self.write_pod_status(facts, node, Stage::Failed);
            return self.enter(facts, Stage::Failed, None);
        }
        let now = self.now();
        let life = self.lives.entry(facts.uid.clone()).or_default();
        life.crashes = if ran_well(now.duration_since(life.since)) { 1 } else { life.crashes.saturating_add(1) };
        let wait = back_off(life.crashes);
        self.write_pod_status(facts, node, Stage::BackOff);
        self.enter(facts, Stage::BackOff, Some(now + wait));
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
        let spec = facts.entry.part("spec");
        let exit_code = self.behaviour(facts).exit_code;
        self.api().amend_status("", "pods", facts.namespace(), facts.name(), |pod| {
            let ready = stage == Stage::Ready;
            let before = meta::list(pod, &["status", "containerStatuses"]);
            let statuses: Vec<Value> = meta::list(&spec, &["containers"])
                .iter()
                .enumerate()
                .map(|(index, c)| {
                    let before = before.iter().find(|s| s["name"] == c["name"]).unwrap_or(&Value::Null);
                    // Of several containers the first is the one that fails.
                    let own = if index > 0 && stage == Stage::BackOff { Stage::Ready } else { stage };
                    container_status(c, before, &uid, own, exit_code, &now)
                })
                .collect();
            let status = &mut pod["status"];
            status["phase"] = json!(match stage {
                Stage::Creating => "Pending",
                Stage::Ended => "Succeeded",
                Stage::Failed => "Failed",
                _ => "Running",
            });
            status["hostIP"] = host_address.clone();
            if status["startTime"].is_null() {
                status["startTime"] = json!(now);
            }
            if let Some(address) = &address {
                status["podIP"] = json!(address);
                status["podIPs"] = json!([{"ip": address}]);
            }
            status["containerStatuses"] = json!(statuses);
            let flag = |on: bool| if on { "True" } else { "False" };
            let waiting = (!ready).then_some(match stage {
                Stage::Ended => "PodCompleted",
                Stage::Failed => "PodFailed",
                _ => "ContainersNotReady",
            });
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

fn container_status(container: &Value, before: &Value, uid: &str, stage: Stage, exit_code: i64, now: &str) -> Value {
    let id = format!("containerd://{}", container_id(uid, container["name"].as_str().unwrap_or_default()));
    let running = matches!(stage, Stage::Running | Stage::Ready);
    let began = &before["state"]["running"]["startedAt"];
    let began = if began.is_string() { began.clone() } else { json!(now) };
    let ended = |reason: &str, code: i64| json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": now, "startedAt": began, "containerID": id}});
    let crashed = !before["state"]["waiting"].is_null() && before["lastState"]["terminated"].is_object();
    let state = match stage {
        Stage::Running | Stage::Ready => json!({"running": {"startedAt": began}}),
        Stage::Ended => ended("Completed", 0),
        Stage::Failed => ended("Error", exit_code),
        Stage::BackOff => json!({"waiting": {"reason": "CrashLoopBackOff",
            "message": "back-off restarting failed container"}}),
        _ => json!({"waiting": {"reason": "ContainerCreating"}}),
    };
    let last = match stage {
        Stage::BackOff => ended("Error", exit_code),
        _ if before["lastState"].is_object() => before["lastState"].clone(),
        _ => json!({}),
    };
    let restarts = before["restartCount"].as_i64().unwrap_or(0) + i64::from(running && crashed);
    let mut status = json!({
        "name": container["name"], "image": container["image"], "imageID": "", "ready": stage == Stage::Ready,
        "started": running, "restartCount": restarts, "state": state, "lastState": last,
    });
    if stage != Stage::Creating {
        status["containerID"] = json!(id);
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
