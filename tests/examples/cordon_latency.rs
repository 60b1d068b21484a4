//! Prints how long it takes from a condition on a Node to its cordon: a real controller process against a simulated
//! data center on loopback. `cargo run -p evergreen-tests --example cordon_latency -- CONTROLLER [NODES]`

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use evergreen_api::{
    names::{ASSIGNMENTS, SYSTEM_NAMESPACE},
    resources::{DataCenter, Playbook, all_crds},
};
use evergreen_twin::{NodeSpec, Twin};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

/// The controller, ended with this program.
struct Controller(Child);

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let controller = PathBuf::from(arguments.next().ok_or("usage: cordon_latency CONTROLLER [NODES]")?);
    let nodes: usize = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let mut builder = Twin::builder("bench");
    for number in 0..nodes {
        builder = builder.node(NodeSpec::new(&format!("n{number:04}")));
    }
    let twin = builder.build();
    let cancel = CancellationToken::new();
    twin.start(cancel.clone());
    let client = twin.client("bench");
    prepare(&client).await?;
    let served = twin.serve(([127, 0, 0, 1], 0).into()).await?;
    let dir = tempfile::tempdir()?;
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, served.kubeconfig("controller:bench"))?;
    let _controller = Controller(
        Command::new(controller)
            .args(["--site", "bench", "--metrics-listen", "127.0.0.1:0", "--kubeconfig"])
            .arg(&kubeconfig)
            .env("RUST_LOG", "error")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .spawn()?,
    );
    // The first one also waits for the election; it is not counted.
    let api: Api<Node> = Api::all(client);
    tokio::time::timeout(Duration::from_secs(60), cordon(&api, "n0000")).await??;
    let mut took = Vec::with_capacity(nodes);
    for number in 1..nodes {
        took.push(tokio::time::timeout(Duration::from_secs(30), cordon(&api, &format!("n{number:04}"))).await??);
    }
    took.sort();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1000.0;
    println!("signal to cordon, p50 ms\t{:.0}", at(50));
    println!("signal to cordon, p99 ms\t{:.0}", at(99));
    cancel.cancel();
    Ok(())
}

/// Raises a condition and waits until the node is unschedulable.
async fn cordon(api: &Api<Node>, node: &str) -> Result<Duration, Failure> {
    let patch = json!({"status": {"conditions": [{"type": "KernelOops", "status": "True", "reason": "Bench",
        "message": "bench", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
    let begin = Instant::now();
    api.patch_status(node, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
    loop {
        if api.get(node).await?.spec.and_then(|spec| spec.unschedulable) == Some(true) {
            return Ok(begin.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn prepare(client: &kube::Client) -> Result<(), Failure> {
    let create = PostParams::default();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in all_crds() {
        crds.create(&create, &crd).await?;
    }
    let named = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata: named(SYSTEM_NAMESPACE), ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&create, &namespace).await?;
    let data = Some([("register".to_owned(), "{}".to_owned())].into());
    let register = ConfigMap { metadata: named(ASSIGNMENTS), data, ..ConfigMap::default() };
    Api::<ConfigMap>::namespaced(client.clone(), SYSTEM_NAMESPACE).create(&create, &register).await?;
    let site: DataCenter = serde_json::from_value(json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "DataCenter", "metadata": {"name": "bench"},
        "spec": {"profile": "fast", "apiServer": {"kubeconfigSecret": "unused"}},
    }))?;
    Api::<DataCenter>::all(client.clone()).create(&create, &site).await?;
    let playbook: Playbook = serde_json::from_value(json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "Playbook", "metadata": {"name": "cordon"},
        "spec": {
            "summary": "Cordon.", "mode": "enforce", "match": [{"nodeCondition": {"type": "KernelOops"}}],
            "guards": {"budget": {"per": "dataCenter", "maxUnavailable": "100%", "minHealthy": "0%"},
                "storm": {"maxUnhealthy": "100%"}},
            "steps": [{"cordon": {}}],
        },
    }))?;
    Api::<Playbook>::all(client.clone()).create(&create, &playbook).await?;
    Ok(())
}
