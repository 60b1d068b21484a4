//! Kubeconfigs that lead to the wrong cluster: refused with the remedy, never acted on; right again without a restart.

use std::time::Duration;

use evergreen_api::{names::SYSTEM_NAMESPACE, resources::DataCenter};
use evergreen_tests::{
    fleet::{Fleet, automatic_service},
    wait::eventually,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(40);

/// Puts into dc-a's Secret for dc-c a kubeconfig of another data center.
async fn lead_dc_c_to(fleet: &Fleet, cluster: &str) {
    let file = fleet.kubeconfig(cluster, "controller:dc-a");
    let text = std::fs::read_to_string(file).expect("a kubeconfig");
    let api: Api<Secret> = Api::namespaced(fleet.site("dc-a").client.clone(), SYSTEM_NAMESPACE);
    let patch = Patch::Merge(json!({"data": null, "stringData": {"kubeconfig": text}}));
    api.patch("evergreen-site-dc-c", &PatchParams::default(), &patch).await.expect("a Secret");
}

async fn dc_c(fleet: &Fleet) -> Result<Value, String> {
    let api: Api<DataCenter> = Api::all(fleet.site("dc-a").client.clone());
    let found = api.get("dc-c").await.map_err(|error| error.to_string())?;
    serde_json::to_value(found.status).map_err(|error| error.to_string())
}

async fn until_register(fleet: &Fleet, reason: &str, says: &str) {
    eventually(&format!("dc-a says {reason} of dc-c"), BOUND, || async {
        let status = dc_c(fleet).await?;
        let found = status["conditions"].as_array().into_iter().flatten().find(|found| found["type"] == "Register");
        let found = found.cloned().unwrap_or_default();
        let message = found["message"].as_str().unwrap_or_default();
        if found["reason"] == reason && message.contains(says) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_of_another_cluster_is_refused_with_the_remedy_and_counts_for_nothing() {
    let mut fleet = Fleet::start(automatic_service()).await;
    until_register(&fleet, "Answers", "").await;
    eventually("one more loss is survived", BOUND, || async {
        let status = dc_c(&fleet).await?;
        let lease = status["leaseLeft"].as_str().unwrap_or_default();
        if status["tolerance"] == "1" && lease.starts_with('>') { Ok(()) } else { Err(status.to_string()) }
    })
    .await;

    // Pinned in an earlier life of the controller.
    fleet.kill_controller("dc-a");
    lead_dc_c_to(&fleet, "dc-b").await;
    fleet.start_controller("dc-a");
    until_register(&fleet, "WrongCluster", "spec.apiServer.clusterUid").await;
    eventually("dc-a counts two registers and says that nothing more may be lost", BOUND, || async {
        let status = dc_c(&fleet).await?;
        if status["tolerance"] == "ZERO" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;

    // Not pinned: one cluster under two names.
    fleet.kill_controller("dc-a");
    let api: Api<DataCenter> = Api::all(fleet.site("dc-a").client.clone());
    let unpin = Patch::Merge(json!({"status": {"clusterUid": null}}));
    api.patch_status("dc-c", &PatchParams::default(), &unpin).await.expect("a status");
    fleet.start_controller("dc-a");
    until_register(&fleet, "SharedCluster", "one and the same cluster").await;

    // What is put right is taken up without a restart.
    lead_dc_c_to(&fleet, "dc-c").await;
    until_register(&fleet, "Answers", "").await;
}
