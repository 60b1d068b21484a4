//! The objects that the demo puts into each data center, as a person would with `kubectl apply`, and the cautious
//! defaults that it overrides in the open.

use evergreen_api::{HumanDuration, resources::PlaybookMode};
use serde_json::{Value, json};

use super::messages::{self, Text};

/// Namespace of the demo service.
pub const NAMESPACE: &str = "shop";
/// Name of the demo service, its Deployment, its HTTPRoute and its MultiActiveService.
pub const SERVICE: &str = "checkout";
/// Host that clients ask for.
pub const HOST: &str = "checkout.example";
/// Port of the service.
const PORT: u16 = 8080;
/// Pods at each site.
pub const REPLICAS: u32 = 4;
/// Pods that the PodDisruptionBudget keeps at each site.
pub const MIN_AVAILABLE: u32 = 3;
/// Waiting times that the demo shortens.
pub const SHORT: &str = "5s";

/// A data center of the demo.
#[derive(Clone, Copy, Debug)]
pub struct SitePlan {
    /// Name.
    pub name: &'static str,
    /// City, for people.
    pub city: &'static str,
    /// Grid region, for reports.
    pub grid_region: &'static str,
    /// Declared PUE.
    pub pue: f64,
    /// Whether its hosts have energy counters.
    pub measured: bool,
}

/// The three data centers.
pub const SITES: [SitePlan; 3] = [
    SitePlan { name: "dc-a", city: "Shanghai", grid_region: "CN-East", pue: 1.25, measured: true },
    SitePlan { name: "dc-b", city: "Hangzhou", grid_region: "CN-East", pue: 1.31, measured: true },
    SitePlan { name: "dc-c", city: "Chengdu", grid_region: "CN-Southwest", pue: 1.22, measured: false },
];

/// Date and author of the PUE figures: the demo stands for them, nobody measured them.
pub const PUE_DATE: &str = "2026-06-30";
/// See [`PUE_DATE`].
pub const PUE_BY: &str = "evergreen demo";

/// Name of the Secret that holds the kubeconfig of a site.
pub fn kubeconfig_secret(site: &str) -> String {
    format!("evergreen-site-{site}")
}

/// Namespaces.
pub fn namespaces() -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": evergreen_api::names::SYSTEM_NAMESPACE}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {"evergreen.dev/stability": "agile"}}}),
    ]
}

/// The empty register that a site's controllers agree over; they never create it themselves.
pub fn register() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": evergreen_api::names::ASSIGNMENTS, "namespace": evergreen_api::names::SYSTEM_NAMESPACE},
        "data": {"register": "{}"},
    })
}

/// Secret with the kubeconfig of a site.
pub fn secret(site: &str, kubeconfig: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": kubeconfig_secret(site), "namespace": evergreen_api::names::SYSTEM_NAMESPACE},
        "stringData": {(evergreen_api::names::KUBECONFIG_KEY): kubeconfig},
    })
}

/// A data center as every site knows it.
pub fn data_center(plan: &SitePlan) -> Value {
    json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "DataCenter",
        "metadata": {"name": plan.name},
        "spec": {
            "role": "member",
            "apiServer": {"kubeconfigSecret": kubeconfig_secret(plan.name)},
            "location": {"city": plan.city, "country": "CN"},
            "gridRegion": plan.grid_region,
            "pue": {"value": plan.pue, "date": PUE_DATE, "by": PUE_BY},
            "profile": "fast",
        },
    })
}

/// The demo service at one site; `entries` are the names and entry addresses of all sites.
pub fn service(site: &str, entries: &[(String, String)]) -> Vec<Value> {
    let labels = json!({"app": SERVICE});
    let mut objects = vec![deployment(&labels), local_service(&labels), budget(&labels)];
    let remote = entries.iter().filter(|(name, _)| name != site);
    objects.extend(remote.map(|(name, entry)| remote_service(name, entry)));
    objects.push(route(site, entries));
    objects
}

fn deployment(labels: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 2,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": labels},
                    }],
                    "containers": [{
                        "name": SERVICE, "image": "registry.example/shop/checkout:1.4.2",
                        "ports": [{"containerPort": PORT}],
                        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
                    }],
                },
            },
        },
    })
}

fn local_service(labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": PORT}]},
    })
}

fn budget(labels: &Value) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"minAvailable": MIN_AVAILABLE, "selector": {"matchLabels": labels}},
    })
}

fn remote_service(site: &str, entry: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": remote_name(site), "namespace": NAMESPACE,
            "annotations": {(evergreen_api::names::ANNOTATION_ENTRY): entry},
        },
        "spec": {"type": "ExternalName", "externalName": format!("entry.{site}.example"), "ports": [{"name": "http", "port": PORT}]},
    })
}

fn remote_name(site: &str) -> String {
    format!("{SERVICE}-{site}")
}

fn route(site: &str, entries: &[(String, String)]) -> Value {
    let backends: Vec<Value> = entries
        .iter()
        .map(|(name, _)| {
            let local = name == site;
            let service = if local { SERVICE.to_owned() } else { remote_name(name) };
            json!({"name": service, "port": PORT, "weight": if local { 100 } else { 0 }})
        })
        .collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"parentRefs": [{"name": "entry"}], "hostnames": [HOST], "rules": [{"backendRefs": backends}]},
    })
}

/// The MultiActiveService, the same at every site.
pub fn multi_active_service() -> Value {
    let sites: Vec<&str> = SITES.iter().map(|plan| plan.name).collect();
    let backends: Vec<Value> = sites
        .iter()
        .map(|site| json!({"site": site, "local": SERVICE, "remote": remote_name(site), "port": PORT}))
        .collect();
    json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "MultiActiveService",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {
            "mode": "ActiveActive", "kind": "compute", "sites": sites, "minActive": 2,
            "workload": {"deployment": SERVICE, "minReady": 2},
            "objectives": {"rto": "30s"},
            "enforcement": "enforce",
            "decision": {"planned": "auto", "unplanned": "auto"},
            "holdDown": SHORT,
            "traffic": [{"httpRoute": {"name": SERVICE, "backends": backends}}],
            "failback": {"mode": "automatic", "soak": SHORT},
        },
    })
}

/// Name of the EnergyReport of the run.
pub const ENERGY_REPORT: &str = "demo-run";

/// An EnergyReport for a period, over all data centers.
pub fn energy_report(from: jiff::Timestamp, to: jiff::Timestamp) -> Value {
    json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "EnergyReport",
        "metadata": {"name": ENERGY_REPORT, "namespace": NAMESPACE},
        "spec": {"from": from.to_string(), "to": to.to_string()},
    })
}

/// The shipped playbooks, with the demo's overrides.
///
/// # Errors
/// When a shipped playbook does not read, which its own tests exclude.
pub fn playbooks() -> anyhow::Result<Vec<Value>> {
    let short: HumanDuration = SHORT.parse()?;
    evergreen_playbooks::library::starters()
        .map(|shipped| {
            let mut playbook = shipped.playbook().map_err(|_| anyhow::anyhow!("{} does not read", shipped.file))?;
            let spec = &mut playbook.spec;
            spec.mode = PlaybookMode::Enforce;
            spec.guards.cooldown = short;
            let checks = spec.steps.iter_mut().filter_map(|step| step.verify.as_mut()).chain(spec.verify.as_mut());
            checks.for_each(|verify| verify.for_ = verify.for_.min(short));
            Ok(serde_json::to_value(playbook)?)
        })
        .collect()
}

/// What the demo overrides, for the terminal and the report.
pub fn overrides() -> Vec<Text> {
    [
        ("MultiActiveService spec.enforcement", "observe", "enforce"),
        ("MultiActiveService spec.decision.planned, .unplanned", "manual, approve", "auto"),
        ("MultiActiveService spec.failback.mode", "manual", "automatic"),
        ("MultiActiveService spec.holdDown, spec.failback.soak", "10m", SHORT),
        ("DataCenter spec.profile", "bank, D = 30s", "fast, D = 6s"),
        ("Playbook spec.mode", "observe", "enforce"),
        ("Playbook spec.guards.cooldown", "30m", SHORT),
        ("Playbook verify.for (each)", "1m, 2m", SHORT),
    ]
    .iter()
    .map(|(what, default, demo)| messages::override_line(what, default, demo))
    .collect()
}

#[cfg(test)]
mod tests {
    use evergreen_api::{
        Validate,
        resources::{DataCenterSpec, MultiActiveServiceSpec},
    };

    use super::*;

    #[test]
    fn our_own_resources_are_valid_by_their_own_rules() {
        let spec: MultiActiveServiceSpec = serde_json::from_value(multi_active_service()["spec"].clone()).unwrap();
        assert_eq!(spec.validate(), []);
        for plan in &SITES {
            let spec: DataCenterSpec = serde_json::from_value(data_center(plan)["spec"].clone()).unwrap();
            assert_eq!(spec.validate(), []);
        }
    }

    #[test]
    fn each_site_reaches_itself_by_the_local_service_and_the_others_by_their_entries() {
        let entries: Vec<(String, String)> =
            SITES.iter().map(|plan| (plan.name.to_owned(), format!("http://127.0.0.1/{}", plan.name))).collect();
        let objects = service("dc-b", &entries);
        let names: Vec<&str> = objects
            .iter()
            .filter(|object| object["kind"] == "Service")
            .filter_map(|object| object["metadata"]["name"].as_str())
            .collect();
        assert_eq!(names, ["checkout", "checkout-dc-a", "checkout-dc-c"]);
        let route = objects.last().unwrap();
        assert_eq!(
            route["spec"]["rules"][0]["backendRefs"][1],
            json!({"name": "checkout", "port": 8080, "weight": 100})
        );
    }
}
