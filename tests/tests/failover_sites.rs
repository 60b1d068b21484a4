//! Site quorum and failover of a stateless service: real controllers, three simulated data centers.

use std::time::Duration;

use evergreen_tests::{
    fleet::{Fleet, automatic_service},
    wait::eventually,
};
use evergreen_twin::Loss;
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(40);

async fn until_active(fleet: &Fleet, at: &str, wanted: &[&str]) {
    eventually(&format!("{wanted:?} active, as {at} sees it"), BOUND, || async {
        let active = fleet.active(at).await?;
        if active == wanted { Ok(()) } else { Err(format!("{active:?}")) }
    })
    .await;
}

async fn until_weights(fleet: &Fleet, at: &str, wanted: &[(&str, u64)]) {
    let wanted = wanted.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
    eventually(&format!("weights {wanted:?} at {at}"), BOUND, || async {
        let weights = fleet.weights(at).await?;
        if weights == wanted { Ok(()) } else { Err(format!("{weights:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_center_is_replaced_and_gets_its_share_back() {
    let mut fleet = Fleet::start(automatic_service()).await;
    until_active(&fleet, "dc-c", &["dc-a", "dc-b"]).await;
    until_weights(&fleet, "dc-a", &[("checkout", 100), ("checkout-dc-b", 0), ("checkout-dc-c", 0)]).await;
    until_weights(&fleet, "dc-c", &[("checkout", 0), ("checkout-dc-a", 50), ("checkout-dc-b", 50)]).await;

    fleet.kill_controller("dc-b");
    fleet.site("dc-b").twin.faults().lose(Loss::Reset);
    until_active(&fleet, "dc-a", &["dc-a", "dc-c"]).await;
    until_active(&fleet, "dc-c", &["dc-a", "dc-c"]).await;
    until_weights(&fleet, "dc-c", &[("checkout", 100), ("checkout-dc-a", 0), ("checkout-dc-b", 0)]).await;

    fleet.site("dc-b").twin.faults().clear();
    fleet.start_controller("dc-b");
    until_active(&fleet, "dc-a", &["dc-a", "dc-b"]).await;
    until_active(&fleet, "dc-b", &["dc-a", "dc-b"]).await;
    until_weights(&fleet, "dc-b", &[("checkout", 100), ("checkout-dc-a", 0), ("checkout-dc-c", 0)]).await;
    let holders = fleet.service("dc-a").await.unwrap().pointer("/status/holders").cloned().unwrap();
    let epoch = holders.as_array().unwrap().iter().find(|h| h["site"] == "dc-b").unwrap()["epoch"].as_u64().unwrap();
    assert!(epoch >= 2, "a returned site serves under a new epoch: {holders}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_shorter_than_the_lease_moves_nothing() {
    let fleet = Fleet::start(automatic_service()).await;
    until_active(&fleet, "dc-b", &["dc-a", "dc-b"]).await;
    let before = holders(&fleet).await;
    for site in ["dc-a", "dc-c"] {
        fleet.site(site).twin.faults().partition("controller:dc-b");
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for site in ["dc-a", "dc-c"] {
        fleet.site(site).twin.faults().clear();
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(holders(&fleet).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observed_service_is_decided_about_and_left_alone() {
    let mut service = automatic_service();
    service["spec"]["enforcement"] = json!("observe");
    let fleet = Fleet::start(service).await;
    eventually("a plan in the status", BOUND, || async {
        let service = fleet.service("dc-a").await?;
        let plan = service.pointer("/status/plan/0").and_then(Value::as_str).unwrap_or_default().to_owned();
        if plan.contains("enforcement is observe") { Ok(()) } else { Err(plan) }
    })
    .await;
    assert!(fleet.active("dc-a").await.unwrap().is_empty());
    assert_eq!(fleet.weights("dc-c").await.unwrap()["checkout"], 100, "the route is as people wrote it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_comes_back_under_a_new_epoch_and_its_site_serves_again() {
    let mut fleet = Fleet::start(automatic_service()).await;
    until_active(&fleet, "dc-b", &["dc-a", "dc-b"]).await;
    let before = holders(&fleet).await;
    fleet.kill_controller("dc-a");
    fleet.start_controller("dc-a");
    eventually("dc-a holds it under a higher epoch", BOUND, || async {
        let after = holders(&fleet).await;
        let epoch = |all: &Value| {
            all.as_array().into_iter().flatten().find(|h| h["site"] == "dc-a").and_then(|h| h["epoch"].as_u64())
        };
        match (epoch(&before), epoch(&after)) {
            (Some(old), Some(new)) if new > old => Ok(()),
            _ => Err(after.to_string()),
        }
    })
    .await;
}

async fn holders(fleet: &Fleet) -> Value {
    fleet.service("dc-b").await.expect("the service").pointer("/status/holders").cloned().unwrap_or_default()
}
