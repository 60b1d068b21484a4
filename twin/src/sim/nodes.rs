//! Nodes: registration, leases, and what happens to a node whose lease stands still.

use std::sync::Arc;
use std::time::Duration;

use std::collections::{BTreeSet, HashMap};

use crate::apiserver::clock::Moment;
use serde_json::{Value, json};

use super::timers::Timer;
use super::{Simulation, Switched, Work, curves};
use crate::apiserver::discovery::KUBERNETES_VERSION;
use crate::apiserver::leases;
use crate::apiserver::server::ApiServer;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta;
use crate::sim::cache::{NodeInfo, PodFacts};
use crate::sim::zones::NodeFacts;
use crate::twin::NodeSpec;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Between looks for Events that are too old.
const EVENT_SWEEP: std::time::Duration = std::time::Duration::from_secs(60);

/// When each node's lease was last seen to change, by the version it had.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaseWatch {
    seen: HashMap<String, (u64, Moment)>,
    unreachable: HashMap<String, Moment>,
    /// Nodes that are not simply up, ready and without a mark of the life cycle. While there are none, nobody looks.
    odd: BTreeSet<Arc<str>>,
}

impl LeaseWatch {
    /// Starts all observations anew.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
        self.unreachable.clear();
    }
}

/// Creates the Node object of a spec; its kubelet has not reported yet.
pub(crate) fn register(api: &ApiServer, spec: &NodeSpec, index: usize) {
    let site = api.site().to_owned();
    let mut labels = json!({
        "kubernetes.io/hostname": spec.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        (evergreen_api::names::LABEL_SITE): site,
        (evergreen_api::names::LABEL_ZONE): spec.zone.clone().unwrap_or_else(|| site.clone()),
    });
    for (key, value) in &spec.labels {
        labels[key] = json!(value);
    }
    let resources = json!({"cpu": spec.cpu_cores.to_string(), "memory": format!("{}Ki", spec.memory_bytes / 1024), "pods": spec.max_pods.to_string()});
    let conditions: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .iter()
        .map(|kind| {
            json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated", "message": "Kubelet never posted node status.",
                   "lastTransitionTime": api.clock().seconds(), "lastHeartbeatTime": api.clock().seconds()})
        })
        .collect();
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": spec.name, "labels": labels},
        "spec": {"providerID": format!("twin://{site}/{}", spec.name), "podCIDR": format!("10.244.{index}.0/24")},
        "status": {
            "capacity": resources, "allocatable": resources, "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": format!("10.0.{}.{}", index / 250, index % 250 + 2)},
                {"type": "Hostname", "address": spec.name},
            ],
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "bootID": api.new_uid(), "kernelVersion": "6.6.0-twin", "osImage": "Evergreen twin",
                "containerRuntimeVersion": "containerd://2.1.0", "kubeletVersion": KUBERNETES_VERSION.2, "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    });
    if let Err(error) = api.create_object(&node) {
        tracing::warn!(%error, node = spec.name, "a node could not be registered");
    }
}

impl Simulation {
    /// Kubelets of restarted nodes know nothing of their pods any more; of stopped ones it is known when they last
    /// renewed.
    pub(crate) fn welcome_switched(&mut self) {
        let switched = std::mem::take(&mut *self.world.switched.lock());
        for Switched { name, up, renewed } in switched {
            if up {
                self.look_again_at_pods_of(&name);
            } else {
                let version = self.lease_version(&name);
                let seen = self.first_look_from(renewed).min(self.now());
                self.leases.seen.insert(name.clone(), (version, seen));
            }
            self.look_out_for(&name.into());
        }
    }

    /// The life cycle controller sees a renewal at its first look from then on.
    fn first_look_from(&self, moment: Moment) -> Moment {
        let every = self.world.timing.node_monitor.as_nanos().max(1);
        let looks = moment.since_start().as_nanos().div_ceil(every);
        Moment::at(Duration::from_nanos(u64::try_from(looks * every).unwrap_or(u64::MAX)))
    }

    /// Notes whether the life cycle controller has anything to do with a node.
    pub(crate) fn look_out_for(&mut self, name: &Arc<str>) {
        let plain =
            self.cache.nodes.get(name).is_none_or(|n| {
                n.ready == Some(true) && !n.taints.iter().any(is_of_life_cycle) && self.world.is_up(name)
            });
        if plain && !self.leases.unreachable.contains_key(&**name) {
            self.leases.odd.remove(name);
        } else {
            self.leases.odd.insert(name.clone());
        }
    }

    fn lease_version(&self, name: &str) -> u64 {
        self.api().store().get(leases::TABLE, &format!("{}/{name}", leases::NAMESPACE)).map_or(0, |e| e.version)
    }

    fn look_again_at_pods_of(&mut self, node: &str) {
        let pods: Vec<Arc<PodFacts>> = self.cache.on_node(node).cloned().collect();
        for pod in pods {
            self.cache.forget_stage(&pod.uid);
            self.mark(Work::Pod(pod.key.clone()));
        }
    }

    pub(crate) fn start_timers(&mut self) {
        let now = self.now();
        for timer in [Timer::Leases, Timer::Nodes, Timer::Events, Timer::Curves] {
            self.timers.set(now, timer);
        }
        if self.world.has_hosts() {
            self.timers.set(now, Timer::Hosts);
        }
    }

    pub(crate) fn fire(&mut self, timer: Timer) {
        let now = self.now();
        match timer {
            Timer::Leases => {
                self.renew_leases(now);
                self.timers.set(now + self.world.timing.lease_renewal, Timer::Leases);
            }
            Timer::Nodes => {
                self.look_at_nodes(now);
                self.timers.set(now + self.world.timing.node_monitor, Timer::Nodes);
            }
            Timer::Hosts => {
                self.tick_hosts(now);
                self.timers.set(now + self.world.timing.host_tick, Timer::Hosts);
            }
            Timer::Events => {
                self.expire_events();
                self.collect_finished_pods();
                self.timers.set(now + EVENT_SWEEP, Timer::Events);
            }
            Timer::Curves => {
                self.follow_curves();
                self.timers.set(now + curves::STEP, Timer::Curves);
            }
            Timer::CronJob(key) => {
                self.cron_times.remove(&key);
                self.mark(Work::CronJob(key));
            }
            Timer::Job(key) => self.mark(Work::Job(key)),
            Timer::Evictions => self.evictions.nodes().into_iter().for_each(|node| self.mark(Work::Evict(node))),
            Timer::Pod(key) => self.pod_timer(&key),
        }
    }

    fn renew_leases(&mut self, now: Moment) {
        let up = self.world.up.lock().clone();
        if self.api().store().is_watched(leases::TABLE) {
            up.iter().for_each(|name| self.api().renew_lease(name, now));
        }
        self.api().note_renewals(now, &up);
        // What is up and not ready says that it is; new nodes get their Lease.
        let odd: Vec<Arc<str>> = self.leases.odd.iter().filter(|n| up.contains(&***n)).cloned().collect();
        for name in odd {
            self.api().renew_lease(&name, now);
            if self.cache.nodes.get(&name).is_some_and(|n| n.ready != Some(true)) {
                self.post_ready(&name);
            }
        }
    }

    fn post_ready(&mut self, name: &str) {
        let now = self.api().clock().seconds();
        let boot = self.world.nodes.lock().get(name).and_then(|n| n.host.as_ref().map(|h| h.boot_id()));
        self.api().amend_status("", "nodes", "", name, |node| {
            if let Some(boot) = &boot {
                node["status"]["nodeInfo"]["bootID"] = json!(boot);
            }
            for (kind, status, reason, message) in [
                ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ] {
                let condition = json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now});
                set_condition(&mut node["status"], &condition, &now);
            }
        });
        // Pods that the life cycle controller had called unready are as ready as their containers again.
        self.look_again_at_pods_of(name);
    }

    fn look_at_nodes(&mut self, now: Moment) {
        if !self.leases.odd.is_empty() {
            self.look_at_odd_nodes(now);
        }
        self.collect_orphaned_pods();
    }

    fn look_at_odd_nodes(&mut self, now: Moment) {
        let nodes: Vec<Arc<NodeInfo>> = self.cache.nodes.values().cloned().collect();
        let mut facts = Vec::with_capacity(nodes.len());
        for node in &nodes {
            let name = node.name();
            let mut silent = false;
            if self.leases.odd.contains(name) {
                let version = self.lease_version(name);
                let seen = self.leases.seen.entry(name.to_owned()).or_insert((version, now));
                if seen.0 != version || self.world.is_up(name) {
                    *seen = (version, now);
                }
                silent = now.duration_since(seen.1) >= self.world.timing.node_grace;
                let ready = node.ready == Some(true);
                if silent && !self.leases.unreachable.contains_key(name) {
                    self.leases.unreachable.insert(name.to_owned(), now);
                    self.lose_node(name, node);
                } else if node.ready == Some(false) && !silent {
                    self.taint(node, NOT_READY, "NoSchedule");
                } else if !silent && ready {
                    self.leases.unreachable.remove(name);
                    if node.taints.iter().any(is_of_life_cycle) {
                        self.api().amend("", "nodes", "", name, None, |n| retain_taints(n, |t| !is_of_life_cycle(t)));
                    }
                    self.look_out_for(&name.into());
                }
            }
            let ready = node.ready == Some(true) && !silent;
            facts.push(NodeFacts { name, zone: &node.zone, ready });
        }
        self.drive_out(now, &nodes, &facts);
    }

    /// Nodes that are lost or not ready get the taint that drives their pods out, when it is their zone's turn.
    fn drive_out(&mut self, now: Moment, nodes: &[Arc<NodeInfo>], facts: &[NodeFacts<'_>]) {
        let lost: HashMap<&str, &NodeInfo> = nodes
            .iter()
            .filter(|node| {
                let known = self.leases.unreachable.contains_key(node.name()) || node.ready == Some(false);
                known && !node.taints.iter().any(drives_out)
            })
            .map(|node| (node.name(), &**node))
            .collect();
        let interval = self.world.timing.eviction_interval;
        let verdict = self.turns.look(now, facts, |name| lost.contains_key(name), interval);
        if verdict.stand_still {
            for node in nodes.iter().filter(|n| n.taints.iter().any(drives_out)) {
                self.api().amend("", "nodes", "", node.name(), None, |n| retain_taints(n, |t| !drives_out(t)));
            }
        }
        for name in verdict.evict {
            let key = if self.leases.unreachable.contains_key(&name) { UNREACHABLE } else { NOT_READY };
            if let Some(node) = lost.get(name.as_str()) {
                self.taint(node, key, "NoExecute");
            }
        }
    }

    fn taint(&self, node: &NodeInfo, key: &str, effect: &str) {
        if node.taints.iter().any(|t| t["key"] == key && t["effect"] == effect) {
            return;
        }
        let now = self.api().clock().seconds();
        let taint = json!({"key": key, "effect": effect, "timeAdded": now});
        self.api().amend("", "nodes", "", node.name(), None, |node| {
            // Unreachable and not ready exclude each other.
            retain_taints(node, |t| !(is_of_life_cycle(t) && t["effect"] == effect));
            if let Some(taints) = node["spec"]["taints"].as_array_mut() {
                taints.push(taint);
            }
        });
    }

    fn lose_node(&mut self, name: &str, node: &NodeInfo) {
        tracing::info!(site = self.api().site(), node = name, "node is unreachable: its lease stands still");
        let now = self.api().clock().seconds();
        self.api().amend_status("", "nodes", "", name, |node| {
            for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
                let condition = json!({"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."});
                set_condition(&mut node["status"], &condition, &now);
            }
        });
        self.taint(node, UNREACHABLE, "NoSchedule");
        let pods: Vec<Arc<PodFacts>> = self.cache.on_node(name).filter(|p| p.ready).cloned().collect();
        for pod in pods {
            self.api().amend_status("", "pods", pod.namespace(), pod.name(), |p| {
                set_condition(
                    &mut p["status"],
                    &json!({"type": "Ready", "status": "False", "reason": "NodeNotReady"}),
                    &now,
                );
            });
        }
    }

    /// Pods of nodes that are not there any more are removed at once.
    fn collect_orphaned_pods(&mut self) {
        if !std::mem::take(&mut self.cache.strays) {
            return;
        }
        let orphans = self.cache.on_unknown_nodes();
        for pod in orphans {
            self.delete_pod(&pod, Some(0));
        }
        let nodes = self.cache.nodes.clone();
        self.leases.seen.retain(|name, _| nodes.contains_key(name.as_str()));
        self.leases.unreachable.retain(|name, _| nodes.contains_key(name.as_str()));
        self.leases.odd.retain(|name| nodes.contains_key(name));
    }
}

/// Whether the node life cycle controller sets and removes this taint.
fn is_of_life_cycle(taint: &Value) -> bool {
    matches!(taint["key"].as_str(), Some(UNREACHABLE | NOT_READY))
}

fn drives_out(taint: &Value) -> bool {
    is_of_life_cycle(taint) && taint["effect"] == "NoExecute"
}

fn retain_taints(node: &mut Value, keep: impl Fn(&Value) -> bool) {
    let spec = meta::object_mut(node, "spec");
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    if let Some(list) = taints.as_array_mut() {
        list.retain(keep);
    }
}
