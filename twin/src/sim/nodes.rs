//! Nodes: registration, leases, and what happens to a node whose lease stands still.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::timers::Timer;
use super::{Simulation, Work};
use crate::apiserver::discovery::KUBERNETES_VERSION;
use crate::apiserver::server::ApiServer;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta;
use crate::sim::cache::PodFacts;
use crate::sim::zones::NodeFacts;
use crate::twin::NodeSpec;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const LEASES: &str = "kube-node-lease";
/// Between looks for Events that are too old.
const EVENT_SWEEP: std::time::Duration = std::time::Duration::from_secs(60);

/// When each node's lease was last seen to change.
#[derive(Debug, Default)]
pub(crate) struct LeaseWatch {
    seen: HashMap<String, (u64, Instant)>,
    unreachable: HashMap<String, Instant>,
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
    /// Kubelets of restarted nodes know nothing of their pods any more.
    pub(crate) fn welcome_restarted(&mut self) {
        let names = std::mem::take(&mut *self.world.restarted.lock());
        for name in names {
            self.look_again_at_pods_of(&name);
        }
    }

    fn look_again_at_pods_of(&mut self, node: &str) {
        let pods: Vec<PodFacts> = self.cache.on_node(node).cloned().collect();
        for pod in pods {
            self.cache.stages.remove(&pod.uid);
            self.mark(Work::Pod(pod.key));
        }
    }

    pub(crate) fn start_timers(&mut self) {
        let now = Instant::now();
        for timer in [Timer::Leases, Timer::Nodes, Timer::Hosts, Timer::Events] {
            self.timers.set(now, timer);
        }
    }

    pub(crate) fn fire(&mut self, timer: Timer) {
        let now = Instant::now();
        match timer {
            Timer::Leases => {
                self.renew_leases();
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
                self.timers.set(now + EVENT_SWEEP, Timer::Events);
            }
            Timer::Evictions => self.mark(Work::Evict),
            Timer::Pod(key) => self.pod_timer(&key),
        }
    }

    fn renew_leases(&mut self) {
        let up: Vec<String> =
            self.world.nodes.lock().iter().filter(|(_, n)| n.up).map(|(name, _)| name.clone()).collect();
        for name in up {
            let Some(node) = self.api().read("", "nodes", "", &name) else { continue };
            let now = self.api().clock().micros();
            let renewed = self.api().amend("coordination.k8s.io", "leases", LEASES, &name, None, |lease| {
                lease["spec"]["renewTime"] = json!(now);
            });
            if !renewed {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": name, "namespace": LEASES, "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Node", "name": name, "uid": meta::uid(&node)}]},
                    "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
                });
                if let Err(error) = self.api().create_object(&lease) {
                    tracing::debug!(%error, node = name, "a node's lease could not be created");
                }
            }
            if !is_ready(&node) {
                self.post_ready(&name);
            }
        }
    }

    fn post_ready(&mut self, name: &str) {
        let now = self.api().clock().seconds();
        let boot = self.world.nodes.lock().get(name).and_then(|n| n.host.as_ref().map(|h| h.boot_id()));
        self.api().amend("", "nodes", "", name, Some("status"), |node| {
            if let Some(boot) = boot {
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

    fn look_at_nodes(&mut self, now: Instant) {
        let nodes = self.api().read_all("", "nodes", None);
        let storage = "leases.coordination.k8s.io";
        let mut facts = Vec::with_capacity(nodes.len());
        for node in &nodes {
            let name = meta::name(node).to_owned();
            let version = self.api().store().get(storage, &format!("{LEASES}/{name}")).map_or(0, |e| e.version);
            let seen = self.leases.seen.entry(name.clone()).or_insert((version, now));
            if seen.0 != version {
                *seen = (version, now);
            }
            let silent = now.duration_since(seen.1) >= self.world.timing.node_grace;
            let (ready, says_no) = (is_ready(node), ready_status(node) == Some("False"));
            if silent && !self.leases.unreachable.contains_key(&name) {
                self.leases.unreachable.insert(name.clone(), now);
                self.lose_node(&name, node);
            } else if says_no && !silent {
                self.taint(node, NOT_READY, "NoSchedule");
            } else if !silent && ready {
                self.leases.unreachable.remove(&name);
                if meta::list(node, &["spec", "taints"]).iter().any(is_of_life_cycle) {
                    self.api().amend("", "nodes", "", &name, None, |n| retain_taints(n, |t| !is_of_life_cycle(t)));
                }
            }
            let zone = node["metadata"]["labels"][evergreen_api::names::LABEL_ZONE].as_str().unwrap_or_default();
            facts.push(NodeFacts { name, zone: zone.to_owned(), ready: ready && !silent });
        }
        self.drive_out(now, &nodes, &facts);
        self.collect_orphaned_pods(&nodes);
    }

    /// Nodes that are lost or not ready get the taint that drives their pods out, when it is their zone's turn.
    fn drive_out(&mut self, now: Instant, nodes: &[Value], facts: &[NodeFacts]) {
        let lost: HashMap<&str, &Value> = nodes
            .iter()
            .zip(facts)
            .filter(|(node, facts)| {
                let silent = self.leases.unreachable.contains_key(&facts.name);
                let known = silent || ready_status(node) == Some("False");
                known && !meta::list(node, &["spec", "taints"]).iter().any(drives_out)
            })
            .map(|(node, facts)| (facts.name.as_str(), node))
            .collect();
        let interval = self.world.timing.eviction_interval;
        let verdict = self.turns.look(now, facts, |name| lost.contains_key(name), interval);
        if verdict.stand_still {
            for node in nodes.iter().filter(|n| meta::list(n, &["spec", "taints"]).iter().any(drives_out)) {
                self.api().amend("", "nodes", "", meta::name(node), None, |n| retain_taints(n, |t| !drives_out(t)));
            }
        }
        for name in verdict.evict {
            let key = if self.leases.unreachable.contains_key(&name) { UNREACHABLE } else { NOT_READY };
            if let Some(node) = lost.get(name.as_str()) {
                self.taint(node, key, "NoExecute");
            }
        }
    }

    fn taint(&self, node: &Value, key: &str, effect: &str) {
        if meta::list(node, &["spec", "taints"]).iter().any(|t| t["key"] == key && t["effect"] == effect) {
            return;
        }
        let now = self.api().clock().seconds();
        let taint = json!({"key": key, "effect": effect, "timeAdded": now});
        self.api().amend("", "nodes", "", meta::name(node), None, |node| {
            // Unreachable and not ready exclude each other.
            retain_taints(node, |t| !(is_of_life_cycle(t) && t["effect"] == effect));
            if let Some(taints) = node["spec"]["taints"].as_array_mut() {
                taints.push(taint);
            }
        });
    }

    fn lose_node(&mut self, name: &str, node: &Value) {
        tracing::info!(site = self.api().site(), node = name, "node is unreachable: its lease stands still");
        let now = self.api().clock().seconds();
        self.api().amend("", "nodes", "", name, Some("status"), |node| {
            for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
                let condition = json!({"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."});
                set_condition(&mut node["status"], &condition, &now);
            }
        });
        self.taint(node, UNREACHABLE, "NoSchedule");
        let pods: Vec<PodFacts> = self.cache.on_node(name).filter(|p| p.ready).cloned().collect();
        for pod in pods {
            self.api().amend("", "pods", pod.namespace(), pod.name(), Some("status"), |p| {
                set_condition(
                    &mut p["status"],
                    &json!({"type": "Ready", "status": "False", "reason": "NodeNotReady"}),
                    &now,
                );
            });
        }
    }

    /// Pods of nodes that are not there any more are removed at once.
    fn collect_orphaned_pods(&mut self, nodes: &[Value]) {
        let known: std::collections::HashSet<&str> = nodes.iter().map(meta::name).collect();
        let orphans: Vec<PodFacts> = self
            .cache
            .pods
            .values()
            .filter(|p| p.node.as_deref().is_some_and(|n| !known.contains(n)))
            .cloned()
            .collect();
        for pod in orphans {
            self.delete_pod(&pod, Some(0));
        }
        self.leases.seen.retain(|name, _| known.contains(name.as_str()));
        self.leases.unreachable.retain(|name, _| known.contains(name.as_str()));
    }
}

fn ready_status(node: &Value) -> Option<&str> {
    meta::list(node, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready")?["status"].as_str()
}

fn is_ready(node: &Value) -> bool {
    ready_status(node) == Some("True")
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
