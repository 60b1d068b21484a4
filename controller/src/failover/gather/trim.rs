//! Objects cut down to what the planner may know.

use std::{collections::BTreeMap, sync::Arc};

use evergreen_api::{
    names::LABEL_STABILITY,
    resources::{MultiActiveService, spec_hash},
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v1::HorizontalPodAutoscaler,
        core::v1::{Namespace, Node, Pod, PodSpec, ResourceQuota},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;

use super::quantity::{thousandths, units};

/// A namespaced name.
pub(crate) type Name = (String, String);

pub(crate) fn name<T: ResourceExt>(object: &T) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// A service; of other sites only the digest of its spec and the traffic that they lead are kept.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub hash: String,
    /// Weights that the site wrote last, by site.
    pub weights: BTreeMap<String, u32>,
    pub object: Option<Arc<MultiActiveService>>,
}

pub(super) fn service(mut service: MultiActiveService, own: bool) -> Service {
    service.metadata.managed_fields = None;
    let weights = service.status.as_ref().map(|status| status.weights.clone()).unwrap_or_default();
    Service { hash: spec_hash(&service.spec), weights, object: own.then(|| Arc::new(service)) }
}

/// CPU in thousandths of a core and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

impl Resources {
    fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let get = |key: &str| quantities.and_then(|all| all.get(key)).map(|quantity| quantity.0.as_str());
        Self {
            cpu_millis: get("cpu").and_then(thousandths).unwrap_or(0),
            memory_bytes: get("memory").and_then(units).unwrap_or(0),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

/// What the scheduler reserves for a pod: the sum of its containers, or its largest init container, plus overhead.
fn pod_requests(spec: &PodSpec) -> Resources {
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    };
    let running = spec.containers.iter().map(of).fold(Resources::default(), Resources::plus);
    let starting = spec.init_containers.iter().flatten().map(of).fold(Resources::default(), Resources::most);
    running.most(starting).plus(Resources::of(spec.overhead.as_ref()))
}

/// A Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Workload {
    pub ready: u32,
    pub wanted: u32,
    pub requests: Resources,
    pub labels: BTreeMap<String, String>,
    pub stability: Option<String>,
}

pub(super) fn deployment(deployment: Deployment) -> (Name, Option<Workload>) {
    let count = |number: Option<i32>| u32::try_from(number.unwrap_or(0)).unwrap_or(0);
    let key = name(&deployment);
    let stability = deployment.labels().get(LABEL_STABILITY).cloned();
    let spec = deployment.spec;
    let template = spec.as_ref().map(|spec| &spec.template);
    let kept = Workload {
        ready: count(deployment.status.as_ref().and_then(|status| status.ready_replicas)),
        wanted: count(spec.as_ref().and_then(|spec| spec.replicas).or(Some(1))),
        requests: template.and_then(|template| template.spec.as_ref()).map(pod_requests).unwrap_or_default(),
        labels: template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default(),
        stability,
    };
    (key, Some(kept))
}

/// Autoscaler: the Deployment that it scales, and how far.
pub(super) fn autoscaler(scaler: HorizontalPodAutoscaler) -> (Name, Option<(String, u32)>) {
    let key = name(&scaler);
    let max = u32::try_from(scaler.spec.max_replicas).unwrap_or(0);
    let target = scaler.spec.scale_target_ref;
    (key, (target.kind == "Deployment").then_some((target.name, max)))
}

/// What a quota leaves: none where it does not bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuotaRoom {
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub pods: Option<u64>,
}

pub(super) fn quota(quota: ResourceQuota) -> (Name, Option<QuotaRoom>) {
    let key = name(&quota);
    let status = quota.status.unwrap_or_default();
    let left = |names: &[&str], read: fn(&str) -> Option<u64>| {
        names.iter().find_map(|name| {
            let get = |map: &Option<BTreeMap<String, Quantity>>| map.as_ref()?.get(*name).and_then(|q| read(&q.0));
            Some(get(&status.hard)?.saturating_sub(get(&status.used).unwrap_or(0)))
        })
    };
    let room = QuotaRoom {
        cpu_millis: left(&["requests.cpu", "cpu"], thousandths),
        memory_bytes: left(&["requests.memory", "memory"], units),
        pods: left(&["pods", "count/pods"], units),
    };
    (key, Some(room))
}

/// A disruption budget that is short, with the labels that it selects.
pub(super) fn budget(budget: PodDisruptionBudget) -> (Name, Option<BTreeMap<String, String>>) {
    let key = name(&budget);
    let short = budget.status.is_some_and(|status| status.current_healthy < status.desired_healthy);
    let labels = budget.spec.and_then(|spec| spec.selector).and_then(|selector| selector.match_labels);
    (key, labels.filter(|_| short))
}

/// Allocatable of a node that takes pods.
pub(super) fn node(node: Node) -> (String, Option<Resources>) {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let takes = !node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let room = Resources::of(status.and_then(|status| status.allocatable.as_ref()));
    (node.name_any(), (ready && takes).then_some(room))
}

/// Node and requests of a pod that runs or will.
pub(super) fn pod(pod: Pod) -> (Name, Option<(String, Resources)>) {
    let key = name(&pod);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let finished = matches!(phase, Some("Succeeded" | "Failed"));
    let spec = pod.spec.filter(|_| !finished);
    let placed = spec.and_then(|spec| {
        let requests = pod_requests(&spec);
        Some((spec.node_name.filter(|node| !node.is_empty())?, requests))
    });
    (key, placed)
}

/// Stability class that a namespace names.
pub(super) fn namespace(namespace: Namespace) -> (String, Option<String>) {
    let class = namespace.labels().get(LABEL_STABILITY).cloned();
    (namespace.name_any(), class)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_deployment_asks_for_what_the_scheduler_reserves() {
        let requests =
            |cpu: &str, memory: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}, "name": "c"});
        let (_, kept) = deployment(of(json!({"metadata": {"name": "d", "namespace": "n"},
            "spec": {"replicas": 3, "selector": {}, "template": {"metadata": {"labels": {"app": "d"}}, "spec": {
                "containers": [requests("500m", "1Gi"), requests("250m", "1Gi")],
                "initContainers": [requests("2", "512Mi")], "overhead": {"cpu": "10m"}}}},
            "status": {"readyReplicas": 2}})));
        let kept = kept.unwrap();
        assert_eq!((kept.ready, kept.wanted), (2, 3));
        assert_eq!(kept.requests, Resources { cpu_millis: 2_010, memory_bytes: 2 << 30 });
    }

    #[test]
    fn a_quota_leaves_what_is_not_used_and_bounds_only_what_it_names() {
        let (_, room) = quota(of(json!({"metadata": {"name": "q", "namespace": "n"},
            "status": {"hard": {"requests.cpu": "4", "pods": "10"}, "used": {"requests.cpu": "3500m", "pods": "12"}}})));
        assert_eq!(room, Some(QuotaRoom { cpu_millis: Some(500), memory_bytes: None, pods: Some(0) }));
    }

    #[test]
    fn only_budgets_that_are_short_and_nodes_that_take_pods_are_kept() {
        let pdb = |healthy: i32| {
            of(json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"selector": {"matchLabels": {"app": "d"}}},
            "status": {"currentHealthy": healthy, "desiredHealthy": 2, "disruptionsAllowed": 0, "expectedPods": 2}}))
        };
        assert!(budget(pdb(1)).1.is_some() && budget(pdb(2)).1.is_none());
        let ready = |status: &str, cordoned: bool| {
            of(json!({"metadata": {"name": "n1"}, "spec": {"unschedulable": cordoned},
            "status": {"allocatable": {"cpu": "8", "memory": "32Gi"}, "conditions": [{"type": "Ready", "status": status}]}}))
        };
        assert_eq!(node(ready("True", false)).1.unwrap().cpu_millis, 8_000);
        assert!(node(ready("False", false)).1.is_none() && node(ready("True", true)).1.is_none());
    }
}
