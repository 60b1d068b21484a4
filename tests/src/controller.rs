//! Real `evergreen-controller` processes of one data center on a real API server.

use std::{path::Path, process::Command, time::Duration};

use evergreen_api::{
    names::{ASSIGNMENTS, LEADER_LEASE, SYSTEM_NAMESPACE},
    resources::{DataCenter, Playbook, PlaybookRun, PlaybookRunStatus, RunPhase},
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    kubernetes::Cluster,
    programs::{Process, free_port, program},
    wait::eventually,
};

/// Name of the data center in these tests.
pub const SITE: &str = "dc-test";

/// Prepares a data center of one: its register, its DataCenter, no playbooks, no runs, no leader.
///
/// # Panics
/// When the API server refuses.
pub async fn prepare(cluster: &Cluster) {
    let client = &cluster.client;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let sites: Api<DataCenter> = Api::all(client.clone());
    let playbooks: Api<Playbook> = Api::all(client.clone());
    let runs: Api<PlaybookRun> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    // No controller runs now, so what an earlier test left may go all at once.
    let all = ListParams::default();
    leases.delete_collection(&DeleteParams::default(), &all).await.expect("leases are deleted");
    sites.delete_collection(&DeleteParams::default(), &all).await.expect("sites are deleted");
    playbooks.delete_collection(&DeleteParams::default(), &all).await.expect("playbooks are deleted");
    runs.delete_collection(&DeleteParams::default(), &all).await.expect("runs are deleted");
    let _ = maps.delete(ASSIGNMENTS, &DeleteParams::default()).await;
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": ASSIGNMENTS}, "data": {"register": "{}"}})).expect("a map");
    maps.create(&PostParams::default(), &map).await.expect("the register");
    let site: DataCenter = serde_json::from_value(json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "DataCenter", "metadata": {"name": SITE},
        "spec": {"profile": "fast", "apiServer": {"kubeconfigSecret": "unused"}},
    }))
    .expect("a data center");
    sites.create(&PostParams::default(), &site).await.expect("the data center");
}

/// A controller process; `otlp` is where it exports to.
///
/// # Panics
/// When it cannot be started.
pub fn start(kubeconfig: &Path, replica: &str, dir: &Path, otlp: Option<&str>) -> Process {
    start_with(kubeconfig, replica, dir, otlp, &[])
}

/// As [`start`], with further flags.
///
/// # Panics
/// When it cannot be started.
pub fn start_with(kubeconfig: &Path, replica: &str, dir: &Path, otlp: Option<&str>, flags: &[&str]) -> Process {
    let mut command = Command::new(program("evergreen-controller"));
    command.args(["--site", SITE, "--replica", replica, "--kubeconfig"]).arg(kubeconfig);
    command.args(["--listen", &format!("127.0.0.1:{}", free_port())]);
    command.args(["--metrics-listen", &format!("127.0.0.1:{}", free_port())]);
    command.args(flags).env_remove("KUBECONFIG").env("RUST_LOG", "info");
    match otlp {
        Some(endpoint) => command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        None => command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT"),
    };
    Process::start(&format!("controller-{replica}"), command, dir).expect("the controller starts")
}

/// The replica that leads, once there is one that `wanted` accepts.
///
/// # Panics
/// When there is none within half a minute.
pub async fn leader(client: &kube::Client, wanted: impl Fn(&str) -> bool) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let (leases, wanted) = (&leases, &wanted);
    eventually("a leader", Duration::from_secs(30), || async move {
        let lease = leases.get_opt(LEADER_LEASE).await.map_err(|error| error.to_string())?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
        if !holder.is_empty() && wanted(&holder) { Ok(holder) } else { Err(format!("`{holder}` leads")) }
    })
    .await
}

/// Applies a playbook with that spec.
///
/// # Panics
/// When the API server refuses.
pub async fn playbook(client: &kube::Client, name: &str, spec: Value) {
    let playbooks: Api<Playbook> = Api::all(client.clone());
    let playbook =
        json!({"apiVersion": "evergreen.dev/v1alpha1", "kind": "Playbook", "metadata": {"name": name}, "spec": spec});
    playbooks
        .patch(name, &PatchParams::apply("evergreen-tests").force(), &Patch::Apply(&playbook))
        .await
        .expect("a playbook");
}

/// Runs for a node.
///
/// # Errors
/// What the API server says.
pub async fn runs_for(client: &kube::Client, node: &str) -> Result<Vec<PlaybookRun>, String> {
    let runs: Api<PlaybookRun> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let list = runs.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    Ok(list.into_iter().filter(|run| run.spec.subject.name == node).collect())
}

/// The status of the only run for `node`, once `wanted` accepts it.
///
/// # Panics
/// When that does not happen within `bound`, or there is more than one run.
pub async fn run_of(
    client: &kube::Client,
    node: &str,
    what: &str,
    bound: Duration,
    wanted: impl Fn(&PlaybookRunStatus) -> bool,
) -> PlaybookRunStatus {
    let wanted = &wanted;
    eventually(what, bound, || async move {
        let runs = runs_for(client, node).await?;
        assert!(
            runs.len() < 2,
            "two runs for {node}: {:?}",
            runs.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        );
        let status = runs.into_iter().next().and_then(|run| run.status).ok_or("no run yet")?;
        if wanted(&status) {
            return Ok(status);
        }
        assert!(
            !status.phase.is_final() || status.phase == RunPhase::Succeeded,
            "the run ended as {:?}: {}; log: {:#?}",
            status.phase,
            status.message,
            status.log
        );
        Err(format!("{:?}: {}; {:?}", status.phase, status.message, status.log.last()))
    })
    .await
}
