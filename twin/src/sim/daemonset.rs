//! DaemonSets: one pod on every node that takes it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use super::cache::PodFacts;
use super::scheduler::tolerates;
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
        let nodes: Vec<Value> = self.api().read_all("", "nodes", None);
        let eligible: Vec<&str> = nodes.iter().filter(|n| takes(n, &template["spec"])).map(meta::name).collect();
        let pods: Vec<Arc<PodFacts>> =
            self.cache.of_controller(meta::uid(&set)).filter(|p| p.is_active()).cloned().collect();
        for node in &eligible {
            if !pods.iter().any(|p| p.node.as_deref() == Some(node)) {
                self.create_pod(&set, namespace, &template, Some(node));
            }
        }
        for pod in pods.iter().filter(|p| !p.node.as_deref().is_some_and(|n| eligible.contains(&n))) {
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

fn takes(node: &Value, spec: &Value) -> bool {
    let labels = meta::at(node, &["metadata", "labels"]);
    spec["nodeSelector"].as_object().is_none_or(|s| meta::labels_fit(labels, s)) && tolerates(node, spec)
}
