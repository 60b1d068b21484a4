//! Plans that come late, and plans that would leave nobody.

use std::{collections::BTreeMap, time::Duration};

use evergreen_tests::{
    real::{
        fleet::{Fleet, SITES, WEB},
        objects,
    },
    wait::eventually,
};
use serde_json::Value;

use crate::Stage;

async fn route(fleet: &Fleet, at: &str) -> Result<(BTreeMap<String, u64>, String), String> {
    let client = &fleet.site(at).plane.client;
    let api = objects::api(client, "gateway.networking.k8s.io", "v1", "HTTPRoute", Some(objects::NAMESPACE));
    let route = api.get(WEB).await.map_err(|error| error.to_string())?;
    let refs = route.data.pointer("/spec/rules/0/backendRefs").and_then(Value::as_array).cloned().unwrap_or_default();
    let weights = refs.iter().map(|r| {
        (r["name"].as_str().unwrap_or_default().to_owned(), r.get("weight").and_then(Value::as_u64).unwrap_or(1))
    });
    Ok((weights.collect(), route.metadata.resource_version.unwrap_or_default()))
}

/// AWS, October 2025: an enactor that was held up applied its older plan over a newer one, and clean-up emptied the
/// record. Here the write of an enactor is held in the network, the enactor is replaced, newer plans are applied, and
/// then the old write arrives.
pub async fn a_delayed_enactor_does_not_apply_an_older_plan(stage: &mut Stage<'_>) {
    let at = "dc-c";
    let (before, _) = route(stage.fleet, at).await.expect("a route");
    // Everything that the enactor asks of its own API server is held from now on, answers first so that it decides.
    let held = |from: &str, to: &str| from == "controller:dc-c" && to == "api:dc-c";
    stage.fleet.site_dies("dc-b");
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.fleet.links.set(held, |quality| quality.cut_there = true);
    eventually("the route elsewhere follows", Duration::from_secs(40), || async {
        let (weights, _) = route(stage.fleet, "dc-a").await?;
        if weights.get("web-dc-b") == Some(&0) { Ok(()) } else { Err(format!("{weights:?}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The enactor is given up; its requests are still on their way.
    stage.fleet.site_mut(at).controller = None;
    stage.fleet.site_returns("dc-b").expect("it starts");
    // The one that replaces it reaches the API server another way and applies the newest plan.
    stage
        .fleet
        .links
        .between("controller:dc-c", "api:dc-c", ([127, 0, 0, 1], stage.fleet.site(at).plane.port).into())
        .await;
    stage.fleet.start_controller(at).expect("a controller starts");
    stage.fleet.whole().await;
    let newest = eventually("the newest plan is applied", Duration::from_secs(30), || async {
        let (weights, version) = route(stage.fleet, at).await?;
        if weights == before { Ok((weights, version)) } else { Err(format!("{weights:?}")) }
    })
    .await;
    stage.fleet.links.release_old();
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < end {
        let now = route(stage.fleet, at).await.expect("a route");
        assert!(now.0.values().any(|weight| *weight > 0), "the record was emptied: {now:?}");
        assert_eq!(now.0, newest.0, "an older plan was applied over a newer one");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// ARC's safety rule: all off is rejected.
pub async fn the_last_endpoint_is_never_removed(stage: &mut Stage<'_>) {
    for site in SITES {
        objects::ready(&stage.fleet.site(site).plane.client, WEB, 0).await;
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(12);
    while tokio::time::Instant::now() < end {
        for site in SITES {
            let (weights, _) = route(stage.fleet, site).await.expect("a route");
            assert!(weights.values().any(|weight| *weight > 0), "all off at {site}: {weights:?}");
        }
        assert!(!stage.fleet.granted(WEB).await.is_empty(), "no site is granted the service any more");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
