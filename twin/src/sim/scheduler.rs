//! The scheduler: feasibility by requests, taints, cordon, node selector, node affinity and pod anti-affinity;
//! among feasible nodes the one with the fewest pods of the same owner, then the least requested CPU.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use super::cache::PodFacts;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta;
use crate::objects::selectors::LabelSelector;

struct Candidate {
    name: String,
    node: Value,
    cpu_millis: u64,
    memory_bytes: u64,
    pods: u64,
}

impl Simulation {
    pub(crate) fn schedule(&mut self) {
        let mut waiting: Vec<Arc<PodFacts>> =
            self.cache.unscheduled.iter().filter_map(|k| self.cache.pods.get(k)).cloned().collect();
        if waiting.is_empty() {
            return;
        }
        waiting.sort_by(|a, b| {
            b.priority.cmp(&a.priority).then_with(|| a.created.cmp(&b.created)).then_with(|| a.key.cmp(&b.key))
        });
        let mut nodes: Vec<Candidate> = self
            .api()
            .read_all("", "nodes", None)
            .into_iter()
            .filter(|n| !meta::is_deleting(n))
            .map(|node| {
                let name = meta::name(&node).to_owned();
                let (mut cpu, mut memory, mut pods) = (0, 0, 0);
                for pod in self.cache.on_node(&name).filter(|p| !matches!(p.phase, "Succeeded" | "Failed")) {
                    (cpu, memory, pods) = (cpu + pod.cpu_millis, memory + pod.memory_bytes, pods + 1);
                }
                Candidate { name, node, cpu_millis: cpu, memory_bytes: memory, pods }
            })
            .collect();
        for facts in waiting {
            let Some(pod) = self.api().read("", "pods", facts.namespace(), facts.name()) else { continue };
            if meta::text(&pod, &["spec", "schedulerName"]).is_some_and(|s| s != "default-scheduler") {
                continue;
            }
            match self.choose(&facts, &pod, &nodes) {
                Ok(index) => {
                    let name = nodes[index].name.clone();
                    let binding = json!({"target": {"kind": "Node", "name": name}});
                    // Refused means deleted or bound meanwhile.
                    if self.api().bind(facts.namespace(), facts.name(), &binding).is_ok() {
                        let chosen = &mut nodes[index];
                        chosen.cpu_millis += facts.cpu_millis;
                        chosen.memory_bytes += facts.memory_bytes;
                        chosen.pods += 1;
                        // The next pod of this round already counts this one.
                        self.cache.place(&facts.key, &name.as_str().into());
                    }
                }
                Err(why) => {
                    let now = self.api().clock().seconds();
                    let condition =
                        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
                    self.api().amend("", "pods", facts.namespace(), facts.name(), Some("status"), |p| {
                        set_condition(&mut p["status"], &condition, &now);
                    });
                }
            }
        }
    }

    fn choose(&self, facts: &PodFacts, pod: &Value, nodes: &[Candidate]) -> Result<usize, String> {
        let spec = &pod["spec"];
        let mut reasons: std::collections::BTreeMap<&'static str, usize> = std::collections::BTreeMap::new();
        let mut best: Option<(usize, (usize, u64, &str))> = None;
        for (index, candidate) in nodes.iter().enumerate() {
            if let Some(reason) = self.obstacle(facts, spec, candidate, nodes) {
                *reasons.entry(reason).or_default() += 1;
                continue;
            }
            let kin = self
                .cache
                .on_node(&candidate.name)
                .filter(|p| p.controller.is_some() && p.controller == facts.controller)
                .count();
            let rank = (kin, candidate.cpu_millis, candidate.name.as_str());
            if best.as_ref().is_none_or(|(_, b)| rank < *b) {
                best = Some((index, rank));
            }
        }
        best.map(|(index, _)| index).ok_or_else(|| {
            let parts: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
            format!("0/{} nodes are available: {}.", nodes.len(), parts.join(", "))
        })
    }

    fn obstacle(
        &self,
        facts: &PodFacts,
        spec: &Value,
        candidate: &Candidate,
        nodes: &[Candidate],
    ) -> Option<&'static str> {
        let node = &candidate.node;
        let labels = meta::at(node, &["metadata", "labels"]);
        if node["spec"]["unschedulable"] == true
            && !tolerates_taint(spec, &json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}))
        {
            return Some("node(s) were unschedulable");
        }
        if !tolerates(node, spec) {
            return Some("node(s) had untolerated taint(s)");
        }
        if !spec["nodeSelector"].as_object().is_none_or(|s| meta::labels_fit(labels, s)) || !affinity_fits(spec, labels)
        {
            return Some("node(s) didn't match Pod's node affinity/selector");
        }
        let allocatable = &node["status"]["allocatable"];
        let room = |name: &str, read: fn(&Value) -> Option<u64>, used: u64, wanted: u64| {
            allocatable.get(name).and_then(read).is_none_or(|all| used + wanted <= all)
        };
        if !room("pods", meta::whole, candidate.pods, 1) {
            return Some("Too many pods");
        }
        if !room("cpu", meta::cpu_millis, candidate.cpu_millis, facts.cpu_millis) {
            return Some("Insufficient cpu");
        }
        if !room("memory", meta::whole, candidate.memory_bytes, facts.memory_bytes) {
            return Some("Insufficient memory");
        }
        if self.repelled(facts, spec, node, nodes) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        None
    }

    /// Required pod anti-affinity of the pod itself (the symmetric case is not looked at).
    fn repelled(&self, facts: &PodFacts, spec: &Value, node: &Value, nodes: &[Candidate]) -> bool {
        let terms =
            meta::list(spec, &["affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
        terms.iter().any(|term| {
            let Some(selector) = LabelSelector::from_object(term.get("labelSelector")) else { return false };
            let key = term["topologyKey"].as_str().unwrap_or("kubernetes.io/hostname");
            let domain = |n: &Value| {
                if key == "kubernetes.io/hostname" {
                    Value::from(meta::name(n))
                } else {
                    n["metadata"]["labels"][key].clone()
                }
            };
            let here = domain(node);
            nodes.iter().filter(|other| domain(&other.node) == here).any(|other| {
                self.cache
                    .on_node(&other.name)
                    .any(|p| p.namespace() == facts.namespace() && p.is_active() && p.fits(&selector))
            })
        })
    }
}

/// Whether a pod spec tolerates all taints of a node that keep pods out. A cordon is not looked at.
pub(crate) fn tolerates(node: &Value, spec: &Value) -> bool {
    meta::list(node, &["spec", "taints"])
        .iter()
        .filter(|t| matches!(t["effect"].as_str(), Some("NoSchedule" | "NoExecute")))
        .all(|taint| tolerates_taint(spec, taint))
}

pub(crate) fn tolerates_taint(spec: &Value, taint: &Value) -> bool {
    meta::list(spec, &["tolerations"]).iter().any(|t| {
        let effect = t["effect"].as_str().unwrap_or_default();
        let key = t["key"].as_str().unwrap_or_default();
        let exists = t["operator"] == "Exists";
        (effect.is_empty() || taint["effect"] == effect)
            && (if key.is_empty() { exists } else { taint["key"] == key })
            && (exists || t["value"].as_str().unwrap_or_default() == taint["value"].as_str().unwrap_or_default())
    })
}

fn affinity_fits(spec: &Value, labels: Option<&Value>) -> bool {
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = meta::list(required, &["nodeSelectorTerms"]);
    terms.is_empty()
        || terms.iter().any(|term| {
            // matchExpressions have the same form as in label selectors; Gt and Lt are not known and fit nothing.
            LabelSelector::from_object(Some(term))
                .is_some_and(|s| s.fits(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_is_tolerated_by_key_effect_and_value() {
        let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
        let with = |toleration: Value| tolerates_taint(&json!({"tolerations": [toleration]}), &taint);
        assert!(with(json!({"operator": "Exists"})));
        assert!(with(json!({"key": "k", "operator": "Equal", "value": "v"})));
        assert!(!with(json!({"key": "k", "operator": "Equal", "value": "w"})));
        assert!(!with(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})));
    }
}
