//! A twin of a large fleet, measured: `cargo run --release -p evergreen-twin --example scale -- [NODES [PODS]]`.
//!
//! Prints one `name value unit` a line; `scripts/bench-twin` makes a table of them.

use std::time::{Duration, Instant};

use evergreen_twin::apiserver::write::WriteContext;
use evergreen_twin::{NodeSpec, Twin};
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tower::ServiceExt;

type Error = Box<dyn std::error::Error>;

/// Pods of a Deployment, and Deployments of a namespace.
const REPLICAS: usize = 100;
const DEPLOYMENTS: usize = 10;
/// Requests under way at once, and watchers of the fan-out.
const PARALLEL: usize = 16;
const WATCHERS: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let argument = |n: usize, otherwise: usize| std::env::args().nth(n).map_or(Ok(otherwise), |a| a.parse());
    let (nodes, pods) = (argument(1, 5_000)?, argument(2, 150_000)?);
    let days: usize = argument(3, 2)?;
    patches().await?;
    let twin = fleet(nodes, pods)?;
    line("rss_mib", rss_mib("VmRSS")?, "MiB");
    list(&twin).await?;
    fan_out(&twin).await?;
    forks(&twin);
    let mut digests = Vec::new();
    for _ in 0..days {
        digests.push(day(&twin, nodes)?);
    }
    line("peak_rss_mib", rss_mib("VmHWM")?, "MiB");
    let same = digests.windows(2).all(|pair| pair[0] == pair[1]);
    println!("digest {:016x} {}", digests[0], if same { "same-in-every-run" } else { "DIFFERS" });
    if same { Ok(()) } else { Err("two runs of the same day differ".into()) }
}

fn line(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.3} {unit}");
}

/// Processor seconds that this process has used.
fn cpu_seconds() -> Result<f64, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit_once(") ").ok_or("no such file")?.1;
    let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    // Linux counts in hundredths of a second on every platform that this is built for.
    Ok(ticks / 100.0)
}

fn rss_mib(field: &str) -> Result<f64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    let kib: f64 = found.and_then(|v| v.split_whitespace().next()).ok_or("no such field")?.parse()?;
    Ok(kib / 1024.0)
}

fn pod(namespace: &str, name: &str, node: &str, owner: Option<(&str, &str)>) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "bench"}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.example/shop/frontend:1.4.2",
            "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 8080, "protocol": "TCP", "name": "http"}],
            "env": [{"name": "REGION", "value": "north"}, {"name": "LOG_LEVEL", "value": "info"}],
            "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}]}});
    if let Some((name, uid)) = owner {
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true}]);
    }
    pod
}

/// Status patches a second: through an unmodified client, as bare requests, and straight at the server's functions.
async fn patches() -> Result<(), Error> {
    let count = 10_000;
    let twin = Twin::builder("bench").build();
    for n in 0..count {
        twin.api().create_object(&pod("default", &format!("p{n:07}"), &format!("n{}", n % 100), None))?;
    }
    let address = |round: usize, n: usize| format!("10.{round}.{}.{}", n / 250 % 250, n % 250);
    let status = |round: usize, n: usize| {
        json!({"status": {"phase": "Running", "podIP": address(round, n), "conditions": [
        {"type": "Ready", "status": if round.is_multiple_of(2) { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    };
    let api: Api<Pod> = Api::default_namespaced(twin.client("bench"));
    for (round, kind) in [(0, "client_merge"), (1, "client_strategic")] {
        let begun = Instant::now();
        futures::stream::iter(0..count)
            .map(|n| {
                let (api, status) = (api.clone(), status(round, n));
                let patch = if round == 0 { Patch::Merge(status) } else { Patch::Strategic(status) };
                async move { api.patch_status(&format!("p{n:07}"), &PatchParams::default(), &patch).await.map(drop) }
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        line(&format!("status_patches_{kind}"), count as f64 / begun.elapsed().as_secs_f64(), "/s");
    }
    let router = twin.router();
    let (begun, used) = (Instant::now(), cpu_seconds()?);
    for n in 0..count {
        let request = http::Request::patch(format!("/api/v1/namespaces/default/pods/p{n:07}/status"))
            .header("content-type", "application/merge-patch+json")
            .header("authorization", "Bearer bench")
            .body(axum::body::Body::from(status(2, n).to_string()))?;
        let answer = router.clone().oneshot(request).await?;
        if !answer.status().is_success() {
            return Err(format!("a patch was refused: {}", answer.status()).into());
        }
        answer.into_body().collect().await?;
    }
    line("status_patches_router", count as f64 / begun.elapsed().as_secs_f64(), "/s");
    line("status_patches_router_per_cpu_second", count as f64 / (cpu_seconds()? - used), "/s");
    let pods = twin.api().registry().get("", "v1", "pods").ok_or("pods are not served")?;
    let context = WriteContext { subresource: Some("status"), ..WriteContext::default() };
    let begun = Instant::now();
    for n in 0..count {
        twin.api().update(&pods, "default", &format!("p{n:07}"), &context, |old: &Value| {
            let mut new = old.clone();
            new["status"]["podIP"] = json!(address(9, n));
            Ok(new)
        })?;
    }
    line("status_updates_direct", count as f64 / begun.elapsed().as_secs_f64(), "/s");
    Ok(())
}

/// The fleet: nodes in ten zones, Deployments of 100 pods, all running; taken in as a snapshot.
fn fleet(nodes: usize, pods: usize) -> Result<Twin, Error> {
    let begun = Instant::now();
    let mut builder = Twin::builder("fleet").epoch("2026-01-01T00:00:00Z".parse()?).held();
    for n in 0..nodes {
        builder = builder.node(NodeSpec::new(&format!("node-{n:05}")).zone(&format!("zone-{}", n % 10)));
    }
    let twin = builder.build();
    let stamp = "2025-12-31T00:00:00Z";
    let objects = (0..pods.div_ceil(REPLICAS)).flat_map(|d| {
        let (namespace, name) = (format!("team-{:03}", d / DEPLOYMENTS), format!("app-{}", d % DEPLOYMENTS));
        let labels = json!({"app": name});
        let template = json!({"metadata": {"labels": labels}, "spec": pod("", "", "", None)["spec"]});
        let mut template = template;
        if let Some(spec) = template["spec"].as_object_mut() {
            spec.remove("nodeName");
        }
        let uid = |what: &str, n: usize| format!("{what}-{d:05}-{n:04}-4000-8000-0000000000");
        let spec = json!({"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec, "metadata": {"name": name,
            "namespace": namespace, "uid": uid("dep", 0), "creationTimestamp": stamp, "generation": 1, "labels": labels}});
        let own = |n: usize| {
            let node = format!("node-{:05}", (d * REPLICAS + n) % nodes);
            let set = format!("{name}-7d9f8b6c5d");
            let mut object = pod(&namespace, &format!("{set}-{n:05}"), &node, Some((&set, &uid("rs", 0))));
            object["metadata"]["labels"] = json!({"app": name, "pod-template-hash": "7d9f8b6c5d"});
            object["metadata"]["uid"] = json!(uid("pod", n));
            object["metadata"]["creationTimestamp"] = json!(stamp);
            let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": stamp});
            let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
            object["status"] = json!({"phase": "Running", "qosClass": "Burstable", "startTime": stamp, "hostIP": "10.0.0.1",
                "podIP": format!("10.244.{}.{}", n / 250, n % 250 + 1), "podIPs": [{"ip": "10.244.0.1"}],
                "conditions": conditions,
                "containerStatuses": [{"name": "main", "image": "registry.example/shop/frontend:1.4.2", "imageID": "", "ready": true,
                    "started": true, "restartCount": 0, "state": {"running": {"startedAt": stamp}}, "lastState": {},
                    "containerID": "containerd://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}]});
            let bears = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            object["spec"]["tolerations"] = json!([bears("node.kubernetes.io/not-ready"), bears("node.kubernetes.io/unreachable")]);
            object["spec"]["restartPolicy"] = json!("Always");
            object["spec"]["terminationGracePeriodSeconds"] = json!(30);
            object
        };
        let mut set = deployment.clone();
        set["kind"] = json!("ReplicaSet");
        set["metadata"]["name"] = json!(format!("{name}-7d9f8b6c5d"));
        set["metadata"]["uid"] = json!(uid("rs", 0));
        set["metadata"]["labels"]["pod-template-hash"] = json!("7d9f8b6c5d");
        set["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": name,
            "uid": uid("dep", 0), "controller": true, "blockOwnerDeletion": true}]);
        let with_hash = json!({"app": name, "pod-template-hash": "7d9f8b6c5d"});
        set["spec"] = json!({"replicas": REPLICAS, "selector": {"matchLabels": with_hash}, "template": deployment["spec"]["template"]});
        set["spec"]["template"]["metadata"]["labels"] = with_hash;
        let pods: Vec<Value> = (0..REPLICAS).map(own).collect();
        [deployment, set].into_iter().chain(pods)
    });
    let loaded = twin.load(objects);
    if !loaded.refused.is_empty() {
        return Err(format!("refused: {:?}", loaded.refused[0]).into());
    }
    line("load", begun.elapsed().as_secs_f64(), "s");
    line("objects", loaded.taken as f64, "objects");
    let begun = Instant::now();
    twin.advance(Duration::from_secs(1));
    line("first_second", begun.elapsed().as_secs_f64(), "s");
    Ok(twin)
}

async fn get(twin: &Twin, path: &str) -> Result<usize, Error> {
    let request = http::Request::get(path).header("authorization", "Bearer bench").body(axum::body::Body::empty())?;
    let answer = twin.router().oneshot(request).await?;
    Ok(answer.into_body().collect().await?.to_bytes().len())
}

async fn list(twin: &Twin) -> Result<(), Error> {
    for (name, path) in [
        ("list_all_pods", "/api/v1/pods"),
        ("list_page_of_500", "/api/v1/pods?limit=500"),
        ("list_namespace", "/api/v1/namespaces/team-000/pods"),
        ("list_pods_of_a_node", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-00001"),
    ] {
        let begun = Instant::now();
        let bytes = get(twin, path).await?;
        line(name, begun.elapsed().as_secs_f64() * 1e3, "ms");
        line(&format!("{name}_size"), bytes as f64 / f64::from(1 << 20), "MiB");
    }
    Ok(())
}

/// Events a second that reach 100 watchers of one namespace while its pods change.
async fn fan_out(twin: &Twin) -> Result<(), Error> {
    let changes = 1_000;
    let version = twin.api().store().version();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let path = format!("/api/v1/namespaces/team-000/pods?watch=true&resourceVersion={version}");
        let request =
            http::Request::get(path).header("authorization", "Bearer bench").body(axum::body::Body::empty())?;
        let body = twin.router().oneshot(request).await?.into_body();
        watchers.push(tokio::spawn(async move {
            let (mut stream, mut lines) = (body.into_data_stream(), 0);
            while lines < changes {
                let Some(Ok(chunk)) = stream.next().await else { break };
                lines += chunk.iter().filter(|b| **b == b'\n').count();
            }
            lines
        }));
    }
    let pods = twin.api().registry().get("", "v1", "pods").ok_or("pods are not served")?;
    let context = WriteContext { subresource: Some("status"), ..WriteContext::default() };
    let begun = Instant::now();
    for n in 0..changes {
        let name = format!("app-{}-7d9f8b6c5d-{:05}", n / REPLICAS % DEPLOYMENTS, n % REPLICAS);
        twin.api().update(&pods, "team-000", &name, &context, |old: &Value| {
            let mut new = old.clone();
            new["status"]["message"] = json!(n.to_string());
            Ok(new)
        })?;
        tokio::task::yield_now().await;
    }
    let mut seen = 0;
    for watcher in watchers {
        seen += watcher.await?;
    }
    line("watch_events_to_100_watchers", seen as f64 / begun.elapsed().as_secs_f64(), "/s");
    Ok(())
}

fn forks(twin: &Twin) {
    // What the fan-out has changed is taken in first.
    twin.advance(Duration::from_secs(1));
    let begun = Instant::now();
    let fork = twin.fork();
    line("fork", begun.elapsed().as_secs_f64() * 1e3, "ms");
    let begun = Instant::now();
    fork.stop_node("node-00000");
    fork.advance(Duration::from_secs(60));
    line("fork_first_minute_with_a_lost_node", begun.elapsed().as_secs_f64() * 1e3, "ms");
}

/// A day of the fleet on a fork: heartbeats, load and power by the minute, a node lost every half hour for ten to
/// forty minutes, a zone without power for ten minutes, a rollout of 100 pods every hour.
fn day(twin: &Twin, nodes: usize) -> Result<u64, Error> {
    let twin = twin.fork();
    let (begun, used) = (Instant::now(), cpu_seconds()?);
    let before = twin.api().store().version();
    let deployments = twin.api().registry().get("apps", "v1", "deployments").ok_or("no deployments")?;
    let mut back: Vec<(u64, String)> = Vec::new();
    let mut instants = 0;
    for minute in 0..24 * 60u64 {
        if minute % 30 == 7 {
            let node = format!("node-{:05}", (minute as usize * 7919) % nodes);
            twin.stop_node(&node);
            back.push((minute + 10 + minute % 31, node));
        }
        if minute == 13 * 60 {
            for n in (3..nodes).step_by(10) {
                let node = format!("node-{n:05}");
                twin.stop_node(&node);
                back.push((minute + 10, node));
            }
        }
        if minute % 60 == 20 {
            let d = minute as usize / 60;
            let (namespace, name) = (format!("team-{:03}", d / DEPLOYMENTS), format!("app-{}", d % DEPLOYMENTS));
            twin.api().update(&deployments, &namespace, &name, &WriteContext::default(), |old: &Value| {
                let mut new = old.clone();
                new["spec"]["template"]["spec"]["containers"][0]["image"] =
                    json!("registry.example/shop/frontend:1.4.3");
                Ok(new)
            })?;
        }
        for (_, node) in back.iter().filter(|(at, _)| *at == minute) {
            twin.start_node(node)?;
        }
        back.retain(|(at, _)| *at > minute);
        instants += twin.advance(Duration::from_secs(60));
    }
    line("day", begun.elapsed().as_secs_f64(), "s");
    line("day_cpu", cpu_seconds()? - used, "s");
    line("day_instants", instants as f64, "instants");
    line("day_writes", (twin.api().store().version() - before) as f64, "writes");
    line("day_energy", twin.computed_joules() / 3.6e9, "MWh");
    Ok(twin.api().store().digest() ^ twin.computed_joules().to_bits())
}
