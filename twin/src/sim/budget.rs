//! PodDisruptionBudgets: how many disruptions are allowed now.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Simulation;
use super::cache::PodFacts;
use super::deployment::portion;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta::{self, integer};
use crate::objects::selectors::LabelSelector;

/// An eviction that was granted and not carried out counts for this long, in seconds.
const DISRUPTED_FOR: i64 = 120;

impl Simulation {
    pub(crate) fn reconcile_budget(&mut self, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let Some(budget) = self.api().read("policy", "poddisruptionbudgets", namespace, name) else { return };
        let Some(selector) = LabelSelector::from_object(budget["spec"].get("selector")) else { return };
        let pods: Vec<Arc<PodFacts>> =
            self.cache.in_namespace(namespace).filter(|p| p.fits(&selector) && p.is_active()).cloned().collect();
        let disrupted = self.still_disrupted(&budget, &pods);
        let healthy = pods.iter().filter(|p| p.ready && !disrupted.contains_key(p.name())).count() as i64;
        let (expected, desired) = self.wanted(&budget, &pods);
        let allowed = (healthy - desired).max(0);
        let mut status = budget["status"].clone();
        for (field, value) in [
            ("expectedPods", expected),
            ("currentHealthy", healthy),
            ("desiredHealthy", desired),
            ("disruptionsAllowed", allowed),
            ("observedGeneration", integer(&budget, &["metadata", "generation"]).unwrap_or(1)),
        ] {
            status[field] = json!(value);
        }
        if disrupted.is_empty() {
            status.as_object_mut().map(|s| s.shift_remove("disruptedPods"));
        } else {
            status["disruptedPods"] = Value::Object(disrupted);
        }
        let (flag, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        let condition = json!({"type": "DisruptionAllowed", "status": flag, "reason": reason, "message": "",
            "observedGeneration": budget["metadata"]["generation"]});
        set_condition(&mut status, &condition, &self.api().clock().seconds());
        if status != budget["status"] {
            self.api()
                .amend("policy", "poddisruptionbudgets", namespace, name, Some("status"), |b| b["status"] = status);
        }
    }

    /// Expected pods, and how many of them must be healthy.
    fn wanted(&self, budget: &Value, pods: &[Arc<PodFacts>]) -> (i64, i64) {
        let count = pods.len() as i64;
        let (least, most) = (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]);
        if let Some(number) = least.as_i64() {
            return (count, number);
        }
        let expected = self.expected_by_controllers(pods).unwrap_or(count);
        if !least.is_null() {
            return (expected, portion(least, expected, true));
        }
        (expected, (expected - portion(most, expected, true)).max(0))
    }

    /// The replicas that the pods' controllers ask for; Deployments count in place of their ReplicaSets.
    fn expected_by_controllers(&self, pods: &[Arc<PodFacts>]) -> Option<i64> {
        let mut owners: Vec<Arc<str>> = pods.iter().filter_map(|p| p.controller.clone()).collect();
        owners.sort();
        owners.dedup();
        let mut scales: Vec<(String, i64)> = Vec::new();
        for uid in owners {
            let (table, key) = self.api().store().find_uid(&uid)?;
            let mut owner = self.api().store().get(&table, &key)?.value();
            if let Some(above) = meta::controller_uid(&owner).and_then(|u| self.api().store().find_uid(u))
                && let Some(entry) = self.api().store().get(&above.0, &above.1)
            {
                owner = entry.value();
            }
            let replicas = integer(&owner, &["spec", "replicas"])
                .or_else(|| integer(&owner, &["status", "desiredNumberScheduled"]))?;
            let uid = meta::uid(&owner).to_owned();
            if !scales.iter().any(|(known, _)| *known == uid) {
                scales.push((uid, replicas));
            }
        }
        (!scales.is_empty()).then(|| scales.iter().map(|(_, n)| n).sum())
    }

    fn still_disrupted(&self, budget: &Value, pods: &[Arc<PodFacts>]) -> Map<String, Value> {
        let now = self.api().clock().now().as_second();
        budget["status"]["disruptedPods"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, since)| {
                let young =
                    since.as_str().and_then(meta::parse_time).is_some_and(|t| now - t.as_second() < DISRUPTED_FOR);
                young && pods.iter().any(|p| p.name() == *name)
            })
            .map(|(name, since)| (name.clone(), since.clone()))
            .collect()
    }
}
