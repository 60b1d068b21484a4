//! The scheduler: feasibility by requests, taints, cordon, node selector and affinity, the volumes' own places, pod
//! affinity and anti-affinity, and topology spread. Among feasible nodes: the constraints that are wishes, then the
//! fewest pods of the same owner, then the least requested CPU.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::cache::{NodeInfo, PodFacts};
use super::company::Company;
use super::fitting::{Used, barred, lack_of_room, terms_fit};
use super::{Simulation, Work};
use crate::apiserver::subresources::set_condition;
use crate::objects::meta;

/// Below this many nodes all are looked at; above, kube-scheduler's share of them, in turns.
const FEW_NODES: usize = 100;

/// Feasible nodes after which the search ends: `numFeasibleNodesToFind` of kube-scheduler.
fn enough(nodes: usize) -> usize {
    if nodes <= FEW_NODES {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEW_NODES)
}

/// A pod that waits, with all that is worked out once for it.
pub(crate) struct Waiting<'a> {
    pub(crate) facts: &'a PodFacts,
    pub(crate) spec: &'a Value,
    company: Company,
    /// `nodeSelectorTerms` of its volumes.
    places: Vec<Value>,
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
        let nodes: Vec<Arc<NodeInfo>> = self.cache.nodes.values().filter(|n| !n.deleting).cloned().collect();
        let (mut bound, mut attached) = (false, false);
        for facts in waiting {
            let Some(pod) = self.api().read("", "pods", facts.namespace(), facts.name()) else { continue };
            let spec = &pod["spec"];
            if meta::text(spec, &["schedulerName"]).is_some_and(|s| s != "default-scheduler")
                || !meta::list(spec, &["schedulingGates"]).is_empty()
            {
                continue;
            }
            let company = Company::of(&facts, spec, &self.cache, &nodes);
            let places = self.places_of_volumes(facts.namespace(), spec);
            let waiting = Waiting { facts: &facts, spec, company, places };
            match self.choose(&waiting, &nodes) {
                Ok(index) => {
                    self.bind(&facts, nodes[index].name());
                    bound = true;
                }
                Err(why) => {
                    attached |= waiting.company.is_attached();
                    let nominated = self.preempt(&waiting, &pod, &nodes);
                    self.tell_unschedulable(&facts, &why, nominated);
                }
            }
        }
        if bound && attached {
            // Some wait for company, and somebody has come.
            self.mark(Work::Schedule);
        }
    }

    fn bind(&mut self, facts: &Arc<PodFacts>, node: &str) {
        let binding = json!({"target": {"kind": "Node", "name": node}});
        // Refused means deleted or bound meanwhile.
        if self.api().bind(facts.namespace(), facts.name(), &binding).is_ok() {
            // The next pod of this round already counts this one.
            self.cache.place(&facts.key, &node.into());
        }
    }

    fn tell_unschedulable(&self, facts: &PodFacts, why: &str, nominated: Option<String>) {
        let now = self.api().clock().seconds();
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
        self.api().amend_status("", "pods", facts.namespace(), facts.name(), |p| {
            set_condition(&mut p["status"], &condition, &now);
            if let Some(node) = &nominated {
                p["status"]["nominatedNodeName"] = json!(node);
            }
        });
    }

    fn choose(&mut self, pod: &Waiting<'_>, nodes: &[Arc<NodeInfo>]) -> Result<usize, String> {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut best: Option<(usize, (i64, usize, u64, &str))> = None;
        let mut kin: HashMap<&str, usize> = HashMap::new();
        for node in pod.facts.controller.iter().flat_map(|uid| self.cache.of_controller(uid)) {
            if let Some(name) = &node.node {
                *kin.entry(name).or_default() += 1;
            }
        }
        let (wanted, mut found) = (enough(nodes.len()), 0);
        let start = if wanted < nodes.len() { self.next_node % nodes.len() } else { 0 };
        let mut looked_at = 0;
        for step in 0..nodes.len() {
            let index = (start + step) % nodes.len();
            let node = &nodes[index];
            looked_at += 1;
            if let Some(reason) = self.obstacle(pod, node) {
                *reasons.entry(reason).or_default() += 1;
                continue;
            }
            let used = self.cache.used(node.name());
            let same = kin.get(node.name()).copied().unwrap_or(0);
            let rank = (pod.company.dislike(node), same, used.map_or(0, |u| u.requests.cpu_millis), node.name());
            if best.as_ref().is_none_or(|(_, b)| rank < *b) {
                best = Some((index, rank));
            }
            found += 1;
            if found >= wanted {
                break;
            }
        }
        let best = best.map(|(index, _)| index);
        if wanted < nodes.len() {
            self.next_node = (start + looked_at) % nodes.len();
        }
        best.ok_or_else(|| {
            let mut parts: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
            parts.sort();
            format!("0/{} nodes are available: {}.", nodes.len(), parts.join(", "))
        })
    }

    fn obstacle(&self, pod: &Waiting<'_>, node: &NodeInfo) -> Option<String> {
        if let Some(why) = barred(node, pod.spec) {
            return Some(why.to_owned());
        }
        if !pod.places.iter().all(|place| terms_fit(node, place)) {
            return Some("node(s) had volume node affinity conflict".to_owned());
        }
        let nothing = Used::default();
        lack_of_room(node, self.cache.used(node.name()).unwrap_or(&nothing), &pod.facts.requests)
            .or_else(|| pod.company.wrong(node).map(str::to_owned))
    }

    /// Whether a node would take the pod if so much of it were free, whatever the other pods there.
    pub(crate) fn would_take(&self, pod: &Waiting<'_>, node: &NodeInfo, used: &Used) -> bool {
        barred(node, pod.spec).is_none()
            && pod.places.iter().all(|place| terms_fit(node, place))
            && lack_of_room(node, used, &pod.facts.requests).is_none()
            && pod.company.wrong(node).is_none()
    }

    /// Where the volumes of a pod's claims are: the volumes' node affinity, or their zone label.
    fn places_of_volumes(&self, namespace: &str, spec: &Value) -> Vec<Value> {
        let place = |volume: &Value| -> Option<Value> {
            let claim = volume["persistentVolumeClaim"]["claimName"].as_str()?;
            let claim = self.api().read("", "persistentvolumeclaims", namespace, claim)?;
            let volume = self.api().read("", "persistentvolumes", "", claim["spec"]["volumeName"].as_str()?)?;
            let required = &volume["spec"]["nodeAffinity"]["required"];
            if !required.is_null() {
                return Some(required.clone());
            }
            let zone = "topology.kubernetes.io/zone";
            // A volume in several zones names them with two underscores between.
            let zones: Vec<&str> = volume["metadata"]["labels"][zone].as_str()?.split("__").collect();
            let expression = json!({"key": zone, "operator": "In", "values": zones});
            Some(json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]}))
        };
        meta::list(spec, &["volumes"]).iter().filter_map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_fleets_are_looked_at_in_part_as_kube_scheduler_does() {
        assert_eq!((enough(50), enough(100), enough(200), enough(1000), enough(5000)), (50, 100, 100, 420, 500));
        assert_eq!(enough(10_000), 500);
    }
}
