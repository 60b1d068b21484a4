//! Taints with the effect NoExecute: pods that do not tolerate them go, at once or after their tolerationSeconds.

use std::sync::Arc;

use std::collections::HashMap;

use crate::apiserver::clock::Moment;
use serde_json::Value;

use super::Simulation;
use super::cache::PodFacts;
use super::fitting::tolerates_taint;
use super::timers::Timer;
use crate::apiserver::store::Change;
use crate::objects::meta;

/// The taints that drive pods out, by node, each with the instant at which it was first seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evictions {
    taints: HashMap<String, Vec<(Value, Moment)>>,
}

impl Evictions {
    pub(crate) fn is_tainted(&self, node: &str) -> bool {
        self.taints.contains_key(node)
    }

    /// The nodes with such taints, in order.
    pub(crate) fn nodes(&self) -> Vec<Arc<str>> {
        let mut nodes: Vec<Arc<str>> = self.taints.keys().map(|n| n.as_str().into()).collect();
        nodes.sort();
        nodes
    }

    /// Takes a node's change in; says whether its taints are worth a look.
    pub(crate) fn take_in(&mut self, change: &Change, now: Moment) -> bool {
        let name = change.after.name();
        // Most nodes have none, and most changes are heartbeats: the bytes tell without being parsed.
        let may_have = !change.deleted && change.after.bytes.windows(9).any(|w| w == b"NoExecute");
        if !may_have {
            return self.taints.remove(name).is_some();
        }
        let before = self.taints.remove(name).unwrap_or_default();
        let node = change.after.value();
        let taints: Vec<(Value, Moment)> = meta::list(&node, &["spec", "taints"])
            .iter()
            .filter(|t| t["effect"] == "NoExecute")
            .map(|taint| {
                let same = |t: &Value| t["key"] == taint["key"] && t["value"] == taint["value"];
                (taint.clone(), before.iter().find(|(t, _)| same(t)).map_or(now, |(_, since)| *since))
            })
            .collect();
        let some = !taints.is_empty();
        if some {
            self.taints.insert(name.to_owned(), taints);
        }
        some
    }

    /// When a pod with that spec has to go from the node; `None` for never.
    fn deadline(&self, node: &str, spec: &Value) -> Option<Moment> {
        self.taints.get(node)?.iter().filter_map(|(taint, since)| Some(*since + patience(spec, taint)?)).min()
    }
}

/// How long a pod bears a taint; `None` for ever.
fn patience(spec: &Value, taint: &Value) -> Option<std::time::Duration> {
    let bearing: Vec<&Value> = meta::list(spec, &["tolerations"])
        .iter()
        .filter(|t| tolerates_taint(&serde_json::json!({"tolerations": [t]}), taint))
        .collect();
    if bearing.is_empty() {
        return Some(std::time::Duration::ZERO);
    }
    let seconds = bearing.iter().filter_map(|t| t["tolerationSeconds"].as_i64()).min()?;
    Some(std::time::Duration::from_secs(seconds.max(0).unsigned_abs()))
}

impl Simulation {
    /// Evicts whatever has no time left on a node and sets the clock for the next.
    pub(crate) fn evict_intolerant(&mut self, node: &str) {
        let now = self.now();
        let (mut next, mut due) = (None, Vec::<Arc<PodFacts>>::new());
        if self.evictions.is_tainted(node) {
            for pod in self.cache.on_node(node).filter(|p| p.is_active()) {
                match self.evictions.deadline(node, &pod.entry.part("spec")) {
                    Some(at) if at <= now => due.push(pod.clone()),
                    Some(at) => next = Some(next.map_or(at, |n: Moment| n.min(at))),
                    None => {}
                }
            }
        }
        for pod in due {
            self.delete_pod(&pod, None);
        }
        if let Some(at) = next
            && self.next_eviction.is_none_or(|set| at < set || set <= now)
        {
            self.next_eviction = Some(at);
            self.timers.set(at, Timer::Evictions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn patience_is_none_zero_or_the_shortest_of_the_tolerations() {
        let taint = json!({"key": "k", "effect": "NoExecute"});
        let with = |tolerations: Value| patience(&json!({"tolerations": tolerations}), &taint);
        assert_eq!(with(json!([])), Some(Duration::ZERO));
        assert_eq!(with(json!([{"operator": "Exists"}])), None);
        let both = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300},
            {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]);
        assert_eq!(with(both), Some(Duration::from_secs(30)));
    }
}
