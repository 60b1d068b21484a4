//! Preemption: a pod of higher priority that fits nowhere makes room by the end of pods of lower priority.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use super::cache::{NodeInfo, PodFacts};
use super::fitting::Used;
use super::scheduler::Waiting;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta;

/// What it would cost to make room on a node, the cheapest first: budgets broken, the highest priority among the
/// victims, the sum of their priorities, their number, the node's name.
type Price = (usize, i64, i64, usize, String);

impl Simulation {
    /// Makes room for a pod that fits nowhere, if its priority allows. Returns the node on which room is being made.
    pub(crate) fn preempt(&mut self, pod: &Waiting<'_>, object: &Value, nodes: &[Arc<NodeInfo>]) -> Option<String> {
        if object["spec"]["preemptionPolicy"] == "Never" {
            return None;
        }
        let priority = pod.facts.priority;
        if let Some(node) = meta::text(object, &["status", "nominatedNodeName"]) {
            // Room is being made already: nobody else has to go before those have gone.
            if self.cache.on_node(node).any(|p| p.deleting.is_some() && p.priority < priority) {
                return None;
            }
        }
        let mut best: Option<(Price, Vec<Arc<PodFacts>>)> = None;
        for node in nodes {
            let Some((broken, victims)) = self.victims(pod, node) else { continue };
            let highest = victims.iter().map(|p| p.priority).max().unwrap_or(i64::MIN);
            let sum = victims.iter().map(|p| p.priority).sum();
            let price = (broken, highest, sum, victims.len(), node.name().to_owned());
            if best.as_ref().is_none_or(|(b, _)| price < *b) {
                best = Some((price, victims));
            }
        }
        let ((.., node), victims) = best?;
        let now = self.api().clock().seconds();
        for victim in victims {
            let why = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": "default-scheduler: preempting to accommodate a higher priority pod"});
            self.api().amend_status("", "pods", victim.namespace(), victim.name(), |p| {
                set_condition(&mut p["status"], &why, &now);
            });
            self.delete_pod(&victim, None);
        }
        Some(node)
    }

    /// The fewest pods of lower priority that have to leave a node, and how many of them a budget would keep.
    fn victims(&self, pod: &Waiting<'_>, node: &NodeInfo) -> Option<(usize, Vec<Arc<PodFacts>>)> {
        let priority = pod.facts.priority;
        let lower: Vec<&Arc<PodFacts>> =
            self.cache.on_node(node.name()).filter(|p| p.priority < priority && p.is_active()).collect();
        if lower.is_empty() {
            return None;
        }
        let mut used: Used = self.cache.used(node.name()).cloned().unwrap_or_default();
        lower.iter().for_each(|p| used.take(p));
        if !self.would_take(pod, node, &used) {
            return None;
        }
        // Those that a budget keeps are spared first, then those of high priority, then those that have run longest.
        let mut left = self.disruptions_left(&lower);
        let kept: Vec<bool> = lower.iter().map(|p| breaks_a_budget(&mut left, p)).collect();
        let mut order: Vec<usize> = (0..lower.len()).collect();
        order.sort_by(|a, b| {
            (kept[*b], lower[*b].priority)
                .cmp(&(kept[*a], lower[*a].priority))
                .then_with(|| lower[*a].created.cmp(&lower[*b].created))
                .then_with(|| lower[*a].key.cmp(&lower[*b].key))
        });
        let (mut victims, mut broken) = (Vec::new(), 0);
        for index in order {
            used.put(lower[index]);
            if !self.would_take(pod, node, &used) {
                used.take(lower[index]);
                victims.push(lower[index].clone());
                broken += usize::from(kept[index]);
            }
        }
        (!victims.is_empty()).then_some((broken, victims))
    }

    /// The budgets that hold any of these pods, with the disruptions that they allow now.
    fn disruptions_left(&self, pods: &[&Arc<PodFacts>]) -> Vec<(Arc<str>, Budget)> {
        let mut budgets: Vec<(Arc<str>, Budget)> = Vec::new();
        for pod in pods {
            for (key, selector) in self.cache.budgets_of(pod) {
                if budgets.iter().any(|(known, _)| *known == key) {
                    continue;
                }
                let name = key.split_once('/').unwrap_or_default().1;
                let object = self.api().read("policy", "poddisruptionbudgets", pod.namespace(), name);
                let object = object.unwrap_or_default();
                let left = meta::integer(&object, &["status", "disruptionsAllowed"]).unwrap_or(0);
                budgets.push((key, Budget { namespace: pod.namespace().into(), selector, left }));
            }
        }
        budgets
    }
}

struct Budget {
    namespace: Box<str>,
    selector: crate::objects::selectors::LabelSelector,
    left: i64,
}

fn breaks_a_budget(budgets: &mut [(Arc<str>, Budget)], pod: &PodFacts) -> bool {
    let mut breaks = false;
    for (_, budget) in budgets.iter_mut().filter(|(_, b)| *b.namespace == *pod.namespace() && pod.fits(&b.selector)) {
        budget.left -= 1;
        breaks |= budget.left < 0;
    }
    breaks
}
