//! A fleet to try rehearsals on without a cluster: three simulated data centers, read through the very import.

use std::time::Duration;

use evergreen_api::{
    names::{ASSIGNMENTS, LABEL_SITE, SYSTEM_NAMESPACE},
    resources::{PlaybookMode, all_crds},
};
use evergreen_twin::{NodeSpec, Timing, Twin, apiserver::write::WriteContext, objects::meta};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    import::{ImportError, assemble, import_site},
    snapshot::Snapshot,
};

/// The time at which the demo's fleet was read: 2026-01-01T00:00:00Z.
const TIME: i64 = 1_767_225_600;
/// Time for the simulated data centers to come up.
const RISE: Duration = Duration::from_secs(60);
/// Names of the data centers, and their zones.
const SITES: [(&str, [&str; 2]); 3] =
    [("beijing-a", ["bj-1", "bj-2"]), ("beijing-b", ["bj-3", "bj-4"]), ("guiyang", ["gy-1", "gy-2"])];

/// Makes the fleet and reads it.
///
/// # Errors
/// A simulated data center cannot be read; a test excludes it.
///
/// # Panics
/// Never: a runtime without I/O can always be made.
pub fn snapshot() -> Result<Snapshot, ImportError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O needs nothing of the system").block_on(async {
        let mut sites = Vec::new();
        let begin = Timestamp::from_second(TIME).unwrap_or(Timestamp::UNIX_EPOCH);
        for (site, zones) in SITES {
            let twin = site_twin(site, zones, begin);
            let cancel = CancellationToken::new();
            let running = twin.start(cancel.clone());
            tokio::time::sleep(RISE).await;
            watch_nodes(&twin);
            sites.push(import_site(twin.client("rehearsal"), "demo", site, "in this process", &|_| {}).await?);
            cancel.cancel();
            let _ = running.await;
        }
        let taken_at = begin.saturating_add(jiff::SignedDuration::try_from(RISE).unwrap_or_default()).unwrap_or(begin);
        assemble(sites, taken_at)
    })
}

fn site_twin(site: &str, zones: [&str; 2], begin: Timestamp) -> Twin {
    let mut builder = Twin::builder(site).epoch(begin).timing(Timing {
        pod_start: Duration::from_secs(6),
        pod_ready: Duration::from_secs(6),
        ..Timing::kubernetes()
    });
    for number in 0..6 {
        let node = NodeSpec::new(&format!("{site}-{}", number + 1));
        builder = builder.node(node.zone(zones[number % 2]).label(LABEL_SITE, site).capacity(16, 64 << 30));
    }
    let twin = builder.build();
    let mut objects: Vec<Value> = all_crds().into_iter().filter_map(|crd| serde_json::to_value(crd).ok()).collect();
    objects.extend([namespace(SYSTEM_NAMESPACE), namespace("bank"), namespace("back-office")]);
    objects.extend(SITES.iter().map(|(name, _)| data_center(name)));
    objects.push(register());
    objects.extend(playbooks());
    // Read by all, written by none: three data centers, two of them hold it, each with the replicas for one half.
    objects.extend(service("mobile-query", 4, 2000, 4, Some((2, "auto"))));
    // All three serve, but each with what it needs for a third.
    objects.extend(service("account-query", 6, 4000, 8, Some((3, "auto"))));
    // The move of this one waits for a person.
    objects.extend(service("statement-render", 2, 1000, 2, Some((1, "manual"))));
    if site == "beijing-a" {
        objects.extend(stateful("core-ledger", 3, 4000, 16));
        objects.extend(deployment("batch-gateway", "back-office", 1, 500, 1));
    }
    if site == "guiyang" {
        objects.extend(deployment("report-web", "back-office", 2, 500, 1));
    }
    for object in objects {
        if let Err(error) = twin.api().create_object(&object) {
            tracing::warn!(%error, kind = object["kind"].as_str(), "an object of the demo was refused");
        }
    }
    twin
}

/// What the controller's node detector has written on nodes that it hears.
fn watch_nodes(twin: &Twin) {
    let Some(nodes) = twin.api().registry().by_kind("v1", "Node") else { return };
    let heard = json!({"type": "NodeLost", "status": "False", "reason": "Heard", "message": "its heartbeats arrive"});
    let context = WriteContext { subresource: Some("status"), ..WriteContext::default() };
    for node in twin.api().read_all("", "nodes", None) {
        let written = twin.api().update(&nodes, "", meta::name(&node), &context, |node| {
            let mut node = node.clone();
            if let Some(conditions) = node["status"]["conditions"].as_array_mut() {
                conditions.push(heard.clone());
            }
            Ok(node)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "a node of the demo could not be marked");
        }
    }
}

/// The shipped playbook for lost nodes, promoted to act.
fn playbooks() -> Vec<Value> {
    let shipped = evergreen_playbooks::library::all().iter().filter(|shipped| shipped.file == "node-lost.yaml");
    let playbooks = shipped.filter_map(|shipped| {
        let mut playbook = shipped.playbook().ok()?;
        playbook.spec.mode = PlaybookMode::Enforce;
        serde_json::to_value(playbook).ok()
    });
    playbooks.collect()
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn data_center(name: &str) -> Value {
    json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "DataCenter", "metadata": {"name": name},
        "spec": {"role": "member", "apiServer": {"kubeconfigSecret": format!("site-{name}")}, "profile": "bank"},
    })
}

fn register() -> Value {
    let holder = |site: &str| json!({"site": site, "epoch": 1, "incarnation": format!("{site}-1")});
    let entry = |sites: &[&str]| json!({"version": 1, "holders": sites.iter().map(|s| holder(s)).collect::<Vec<_>>()});
    let map = json!({
        "bank.mobile-query": entry(&["beijing-a", "beijing-b"]),
        "bank.account-query": entry(&["beijing-a", "beijing-b", "guiyang"]),
        "bank.statement-render": entry(&["beijing-a"]),
    });
    let ballot = json!({"counter": 3, "proposer": "beijing-a"});
    let state = json!({"enrolled": ["beijing-a", "beijing-b", "guiyang"], "promised": ballot,
        "accepted": {"ballot": ballot, "map": map}});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ASSIGNMENTS, "namespace": SYSTEM_NAMESPACE},
        "data": {"register": state.to_string()}})
}

fn template(name: &str, cpu_millis: u32, gibibytes: u32) -> Value {
    json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": name, "image": format!("registry.example/bank/{name}:1.0"),
            "resources": {"requests": {"cpu": format!("{cpu_millis}m"), "memory": format!("{gibibytes}Gi")}}}]},
    })
}

fn deployment(name: &str, namespace: &str, replicas: u32, cpu_millis: u32, gibibytes: u32) -> Vec<Value> {
    let selector = json!({"app": name});
    vec![
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": replicas, "selector": {"matchLabels": selector}, "template": template(name, cpu_millis, gibibytes)}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": selector, "ports": [{"name": "http", "port": 8080}]}}),
    ]
}

fn service(name: &str, replicas: u32, cpu_millis: u32, gibibytes: u32, active: Option<(u32, &str)>) -> Vec<Value> {
    let mut objects = deployment(name, "bank", replicas, cpu_millis, gibibytes);
    if let Some((min_active, unplanned)) = active {
        let sites: Vec<&str> = SITES.iter().map(|(site, _)| *site).collect();
        let backends: Vec<Value> = sites
            .iter()
            .map(|site| json!({"site": site, "local": name, "remote": format!("{name}-{site}"), "port": 8080}))
            .collect();
        objects.push(json!({
            "apiVersion": "evergreen.dev/v1alpha1", "kind": "MultiActiveService",
            "metadata": {"name": name, "namespace": "bank"},
            "spec": {"mode": "ActiveActive", "kind": "query", "sites": sites, "minActive": min_active,
                "workload": {"deployment": name, "minReady": 2}, "objectives": {"rto": "60s"}, "enforcement": "enforce",
                "decision": {"planned": "manual", "unplanned": unplanned},
                "traffic": [{"httpRoute": {"name": name, "backends": backends}}]},
        }));
    }
    objects
}

fn stateful(name: &str, replicas: u32, cpu_millis: u32, gibibytes: u32) -> Vec<Value> {
    let mut template = template(name, cpu_millis, gibibytes);
    template["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": name}}}]}});
    vec![json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": "bank"},
        "spec": {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": {"app": name}}, "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "200Gi"}}}}]}})]
}
