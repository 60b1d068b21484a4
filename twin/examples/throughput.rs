//! Prints how many objects and status patches a second one API server takes, in process, through an unmodified
//! kube-rs client and straight at its functions: `cargo run --release -p evergreen-twin --example throughput`.

use std::time::Instant;

use evergreen_twin::Twin;
use evergreen_twin::apiserver::write::WriteContext;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// Requests under way at once.
const PARALLEL: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(10_000), |n| n.parse())?;
    let twin = Twin::builder("bench").build();
    let api: Api<Pod> = Api::default_namespaced(twin.client("bench"));
    let pod = |i: usize| -> Result<Pod, serde_json::Error> {
        serde_json::from_value(json!({
            "metadata": {"name": format!("p{i:07}"), "labels": {"app": "bench"}},
            "spec": {"nodeName": format!("n{}", i % 100), "containers": [{"name": "c", "image": "a:1",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}
        }))
    };
    let status =
        |i: usize| json!({"status": {"phase": "Running", "podIP": format!("10.0.{}.{}", i / 250 % 250, i % 250)}});

    let started = Instant::now();
    futures::stream::iter(0..count)
        .map(|i| {
            let (api, pod) = (api.clone(), pod(i));
            async move {
                api.create(&PostParams::default(), &pod?).await.map(drop).map_err(Box::<dyn std::error::Error>::from)
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    print("objects created/s (kube client)", count, started);

    let started = Instant::now();
    futures::stream::iter(0..count)
        .map(|i| {
            let (api, patch) = (api.clone(), status(i));
            async move {
                api.patch_status(&format!("p{i:07}"), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    print("status patches/s (kube client)", count, started);

    let pods = twin.api().registry().get("", "v1", "pods").ok_or("pods are not served")?;
    let context = WriteContext { subresource: Some("status"), ..WriteContext::default() };
    let started = Instant::now();
    for i in 0..count {
        twin.api().update(&pods, "default", &format!("p{i:07}"), &context, |old: &Value| {
            let mut new = old.clone();
            new["status"]["podIP"] = json!(format!("10.9.{}.{}", i / 250 % 250, i % 250));
            Ok(new)
        })?;
    }
    print("status patches/s (direct)", count, started);

    let started = Instant::now();
    let listed = api.list(&ListParams::default()).await?.items.len();
    print("objects listed/s (one list)", listed, started);
    Ok(())
}

fn print(what: &str, count: usize, since: Instant) {
    println!("{what:<34} {:>10.0}", count as f64 / since.elapsed().as_secs_f64());
}
