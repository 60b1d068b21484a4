//! Whether a node takes a pod, as far as the two alone tell: taints, cordon, selector and affinity, room.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cache::{NodeInfo, PodFacts};
use crate::objects::meta;

/// What a pod asks for, or what is asked for on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    /// Other resources, by name: GPUs, huge pages, ephemeral storage.
    pub(crate) others: BTreeMap<Box<str>, u64>,
}

impl Requests {
    /// The requests of a pod: its containers' and sidecars' together, or the largest init container's if that is more.
    pub(crate) fn of(pod: &Value) -> Self {
        let mut sum = Requests::default();
        let mut largest = Requests::default();
        for container in meta::list(pod, &["spec", "containers"]) {
            sum.add(&Requests::of_container(container));
        }
        for container in meta::list(pod, &["spec", "initContainers"]) {
            let own = Requests::of_container(container);
            if container["restartPolicy"] == "Always" {
                sum.add(&own);
            } else {
                largest.raise(&own);
            }
        }
        sum.raise(&largest);
        sum.add(&Requests::read(&pod["spec"]["overhead"]));
        sum
    }

    fn of_container(container: &Value) -> Self {
        Requests::read(&container["resources"]["requests"])
    }

    pub(crate) fn read(map: &Value) -> Self {
        let mut read = Requests::default();
        for (name, quantity) in map.as_object().into_iter().flatten() {
            match name.as_str() {
                "cpu" => read.cpu_millis = meta::cpu_millis(quantity).unwrap_or(0),
                "memory" => read.memory_bytes = meta::whole(quantity).unwrap_or(0),
                "pods" => {}
                other => {
                    read.others.insert(other.into(), meta::whole(quantity).unwrap_or(0));
                }
            }
        }
        read
    }

    pub(crate) fn add(&mut self, more: &Requests) {
        self.cpu_millis += more.cpu_millis;
        self.memory_bytes += more.memory_bytes;
        for (name, amount) in &more.others {
            *self.others.entry(name.clone()).or_default() += amount;
        }
    }

    pub(crate) fn subtract(&mut self, less: &Requests) {
        self.cpu_millis = self.cpu_millis.saturating_sub(less.cpu_millis);
        self.memory_bytes = self.memory_bytes.saturating_sub(less.memory_bytes);
        for (name, amount) in &less.others {
            if let Some(own) = self.others.get_mut(name) {
                *own = own.saturating_sub(*amount);
            }
        }
    }

    fn raise(&mut self, to: &Requests) {
        self.cpu_millis = self.cpu_millis.max(to.cpu_millis);
        self.memory_bytes = self.memory_bytes.max(to.memory_bytes);
        for (name, amount) in &to.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// What is taken on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) requests: Requests,
    pub(crate) pods: u64,
}

impl Used {
    pub(crate) fn put(&mut self, pod: &PodFacts) {
        self.requests.add(&pod.requests);
        self.pods += 1;
    }

    pub(crate) fn take(&mut self, pod: &PodFacts) {
        self.requests.subtract(&pod.requests);
        self.pods = self.pods.saturating_sub(1);
    }
}

/// Why a node has no room; none if it has. What a node does not say it has, it has without end, but for resources
/// other than CPU and memory, of which it has none.
pub(crate) fn lack_of_room(node: &NodeInfo, used: &Used, wanted: &Requests) -> Option<String> {
    if node.pods.is_some_and(|all| used.pods + 1 > all) {
        return Some("Too many pods".to_owned());
    }
    let full = |all: Option<u64>, used: u64, wanted: u64| wanted > 0 && all.is_some_and(|all| used + wanted > all);
    if full(node.room.as_ref().map(|r| r.cpu_millis), used.requests.cpu_millis, wanted.cpu_millis) {
        return Some("Insufficient cpu".to_owned());
    }
    if full(node.room.as_ref().map(|r| r.memory_bytes), used.requests.memory_bytes, wanted.memory_bytes) {
        return Some("Insufficient memory".to_owned());
    }
    let room = node.room.as_ref()?;
    wanted
        .others
        .iter()
        // A node that says nothing of its disk has enough of it.
        .filter(|(name, _)| room.others.contains_key(*name) || &***name != "ephemeral-storage")
        .find(|(name, amount)| {
            let all = room.others.get(*name).copied().unwrap_or(0);
            full(Some(all), used.requests.others.get(*name).copied().unwrap_or(0), **amount)
        })
        .map(|(name, _)| format!("Insufficient {name}"))
}

/// Why a node does not take a pod whatever else runs on it; none if it does.
pub(crate) fn barred(node: &NodeInfo, spec: &Value) -> Option<&'static str> {
    let cordon = || json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    if node.cordoned && !tolerates_taint(spec, &cordon()) {
        return Some("node(s) were unschedulable");
    }
    if !tolerates(node, spec) {
        return Some("node(s) had untolerated taint(s)");
    }
    if !wants(node, spec) {
        return Some("node(s) didn't match Pod's node affinity/selector");
    }
    None
}

/// Whether a pod spec tolerates all taints of a node that keep pods out. A cordon is not looked at.
pub(crate) fn tolerates(node: &NodeInfo, spec: &Value) -> bool {
    let keeps_out = |t: &&Value| matches!(t["effect"].as_str(), Some("NoSchedule" | "NoExecute"));
    node.taints.iter().filter(keeps_out).all(|taint| tolerates_taint(spec, taint))
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

/// Whether node selector and required node affinity of a pod spec fit a node.
pub(crate) fn wants(node: &NodeInfo, spec: &Value) -> bool {
    let selected = spec["nodeSelector"].as_object().is_none_or(|s| s.iter().all(|(k, v)| node.label(k) == v.as_str()));
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    selected && (required.is_null() || terms_fit(node, required))
}

/// Whether one of the `nodeSelectorTerms` fits a node. A term without any expression fits nothing.
pub(crate) fn terms_fit(node: &NodeInfo, selector: &Value) -> bool {
    meta::list(selector, &["nodeSelectorTerms"]).iter().any(|term| {
        let labels = meta::list(term, &["matchExpressions"]);
        let fields = meta::list(term, &["matchFields"]);
        let name = |key: &str| (key == "metadata.name").then(|| node.name());
        !(labels.is_empty() && fields.is_empty())
            && labels.iter().all(|e| expression_fits(e, |key| node.label(key)))
            && fields.iter().all(|e| expression_fits(e, name))
    })
}

fn expression_fits<'a>(expression: &Value, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    let own = label(expression["key"].as_str().unwrap_or_default());
    let values = meta::list(expression, &["values"]);
    let listed = own.is_some_and(|own| values.iter().any(|v| v == own));
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let bound = number(values.first().and_then(Value::as_str));
    match expression["operator"].as_str() {
        Some("In") => listed,
        Some("NotIn") => !listed,
        Some("Exists") => own.is_some(),
        Some("DoesNotExist") => own.is_none(),
        Some("Gt") => number(own).zip(bound).is_some_and(|(own, bound)| own > bound),
        Some("Lt") => number(own).zip(bound).is_some_and(|(own, bound)| own < bound),
        _ => false,
    }
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

    #[test]
    fn a_pod_asks_for_its_containers_and_sidecars_or_its_largest_init_container() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu, "nvidia.com/gpu": "1"}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {"containers": [container("200m"), container("300m")],
            "initContainers": [container("550m"), sidecar], "overhead": {"cpu": "10m"}}});
        let asked = Requests::of(&pod);
        assert_eq!((asked.cpu_millis, asked.others["nvidia.com/gpu"]), (610, 3));
    }

    #[test]
    fn expressions_know_all_six_operators() {
        let fits = |operator: &str, values: Value, own: Option<&str>| {
            expression_fits(&json!({"key": "k", "operator": operator, "values": values}), |_| own)
        };
        assert!(fits("In", json!(["a", "b"]), Some("b")) && !fits("In", json!(["a"]), None));
        assert!(fits("NotIn", json!(["a"]), None) && !fits("NotIn", json!(["a"]), Some("a")));
        assert!(fits("Exists", json!([]), Some("")) && fits("DoesNotExist", json!([]), None));
        assert!(fits("Gt", json!(["5"]), Some("6")) && !fits("Gt", json!(["5"]), Some("5")));
        assert!(fits("Lt", json!(["5"]), Some("4")) && !fits("Lt", json!(["5"]), Some("x")));
    }
}
