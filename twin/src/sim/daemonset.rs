//! DaemonSets: one pod on every node that takes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::Simulation;
use super::cache::{NodeInfo, PodFacts};
use super::fitting::{tolerates, wants};
use crate::objects::meta;

/// Taints that daemon pods always tolerate.
const TOLERATED: [&str; 6] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
];

impl Simulation {
    pub(crate) fn reconcile_daemon_set(&mut self, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let Some(set) = self.api().read("apps", "daemonsets", namespace, name) else { return };
        if meta::is_deleting(&set) {
            return;
        }
        let mut template = set["spec"]["template"].clone();
        let tolerations = meta::object_mut(&mut template, "spec").entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = tolerations.as_array_mut() {
            list.extend(TOLERATED.iter().map(|key| json!({"key": key, "operator": "Exists"})));
        }
        let nodes = self.cache.nodes.clone();
        let spec = &template["spec"];
        let takes = |n: &&Arc<NodeInfo>| wants(n, spec) && tolerates(n, spec);
        let eligible: BTreeSet<&str> = nodes.values().filter(takes).map(|n| n.name()).collect();
        let pods: Vec<Arc<PodFacts>> =
            self.cache.of_controller(meta::uid(&set)).filter(|p| p.is_active()).cloned().collect();
        let settled: BTreeSet<&str> = pods.iter().filter_map(|p| p.node.as_deref()).collect();
        for node in &eligible {
            if !settled.contains(node) {
                self.create_pod(&set, namespace, &template, Some(node));
            }
        }
        for pod in pods.iter().filter(|p| !p.node.as_deref().is_some_and(|n| eligible.contains(n))) {
            self.delete_pod(pod, None);
        }
        let ready = pods.iter().filter(|p| p.ready).count();
        let status = json!({
            "desiredNumberScheduled": eligible.len(), "currentNumberScheduled": pods.len(), "numberMisscheduled": 0,
            "numberReady": ready, "numberAvailable": ready, "updatedNumberScheduled": pods.len(),
            "numberUnavailable": eligible.len().saturating_sub(ready), "observedGeneration": set["metadata"]["generation"],
        });
        if set["status"] != status {
            self.api().amend("apps", "daemonsets", namespace, name, Some("status"), |s| s["status"] = status);
        }
    }
}
