//! What every API server of the fleet is given before the controllers start.

use std::time::Duration;

use evergreen_api::{names, resources::all_crds};
use k8s_openapi::{
    api::apps::v1::Deployment, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::wait::eventually;

/// Namespace of the services.
pub const NAMESPACE: &str = "shop";

/// A dynamic API for a kind, in the namespace or for the whole cluster.
pub fn api(client: &Client, group: &str, version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    if kind == "MultiActiveService" {
        resource.plural = "multiactiveservices".into();
    }
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Creates an object.
///
/// # Panics
/// When the API server refuses.
pub async fn create(client: &Client, group: &str, version: &str, kind: &str, mut object: Value) {
    object["apiVersion"] = json!(if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") });
    object["kind"] = json!(kind);
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let made = api(client, group, version, kind, namespace.as_deref()).create(&PostParams::default(), &object).await;
    made.unwrap_or_else(|error| panic!("{kind} cannot be created: {error}"));
}

/// Custom resource definitions, ours and a small HTTPRoute, served; the namespaces and the empty register.
///
/// # Panics
/// When the API server refuses.
pub async fn foundation(client: &Client) {
    for crd in all_crds() {
        let crd = serde_json::to_value(crd).expect("a CRD is plain data");
        create(client, "apiextensions.k8s.io", "v1", "CustomResourceDefinition", crd).await;
    }
    create(client, "apiextensions.k8s.io", "v1", "CustomResourceDefinition", http_routes()).await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    eventually("all definitions are served", Duration::from_secs(60), || async {
        let list = crds.list(&Default::default()).await.map_err(|error| error.to_string())?;
        let waits = |crd: &CustomResourceDefinition| {
            let conditions = crd.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            !conditions.iter().any(|c| c.type_ == "Established" && c.status == "True")
        };
        match list.items.iter().filter(|crd| waits(crd)).count() {
            0 => Ok(()),
            some => Err(format!("{some} are not")),
        }
    })
    .await;
    for namespace in [names::SYSTEM_NAMESPACE, NAMESPACE] {
        create(client, "", "v1", "Namespace", json!({"metadata": {"name": namespace}})).await;
    }
    let register = json!({"metadata": {"name": names::ASSIGNMENTS, "namespace": names::SYSTEM_NAMESPACE},
        "data": {"register": "{}"}});
    create(client, "", "v1", "ConfigMap", register).await;
}

/// A data center, and the way to it as seen from this API server's site.
///
/// # Panics
/// When the API server refuses.
pub async fn data_center(client: &Client, site: &str, role: &str, kubeconfig: &str) {
    let secret = format!("evergreen-site-{site}");
    let object = json!({"metadata": {"name": secret, "namespace": names::SYSTEM_NAMESPACE},
        "stringData": {"kubeconfig": kubeconfig}});
    create(client, "", "v1", "Secret", object).await;
    let object = json!({"metadata": {"name": site},
        "spec": {"role": role, "profile": "fast", "apiServer": {"kubeconfigSecret": secret}}});
    create(client, "evergreen.dev", "v1alpha1", "DataCenter", object).await;
}

/// A workload, its route and its service.
///
/// # Panics
/// When the API server refuses.
pub async fn service(client: &Client, own: &str, sites: &[&str], name: &str, spec: Value) {
    let labels = json!({"app": name});
    let deployment = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"replicas": 2,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "localhost/none:1"}]}}}});
    create(client, "apps", "v1", "Deployment", deployment).await;
    ready(client, name, 2).await;
    let backends: Vec<Value> = sites
        .iter()
        .map(|site| {
            let service = if *site == own { name.to_owned() } else { format!("{name}-{site}") };
            json!({"name": service, "port": 8080, "weight": if *site == own { 100 } else { 0 }})
        })
        .collect();
    let route =
        json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"rules": [{"backendRefs": backends}]}});
    create(client, "gateway.networking.k8s.io", "v1", "HTTPRoute", route).await;
    let object = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
    create(client, "evergreen.dev", "v1alpha1", "MultiActiveService", object).await;
}

/// Says how many replicas of a workload are ready: no controller manager runs that would.
///
/// # Panics
/// When the API server refuses.
pub async fn ready(client: &Client, name: &str, replicas: u32) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({"status": {"readyReplicas": replicas, "replicas": 2}}));
    deployments.patch_status(name, &PatchParams::default(), &patch).await.expect("a deployment's status");
}

/// A service that `active` of the sites serve, with everything automatic; a failed-over single writer stays where it is.
pub fn service_spec(name: &str, sites: &[&str], active: usize) -> Value {
    let backends: Vec<Value> = sites
        .iter()
        .map(|site| json!({"site": site, "local": name, "remote": format!("{name}-{site}"), "port": 8080}))
        .collect();
    let failback = if active > 1 { "automatic" } else { "manual" };
    json!({"mode": "ActiveActive", "kind": "query", "sites": sites, "minActive": active,
        "workload": {"deployment": name}, "enforcement": "enforce",
        "decision": {"planned": "auto", "unplanned": "auto"}, "holdDown": "2s",
        "traffic": [{"httpRoute": {"name": name, "backends": backends}}],
        "failback": {"mode": failback, "soak": "2s"}})
}

/// As much of Gateway API's HTTPRoute as an API server without it needs in order to hold one.
fn http_routes() -> Value {
    json!({"metadata": {"name": "httproutes.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/1"}},
        "spec": {"group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": {"plural": "httproutes", "singular": "httproute", "kind": "HTTPRoute", "listKind": "HTTPRouteList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}
