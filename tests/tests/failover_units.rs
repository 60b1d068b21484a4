//! Cells of a Unitized service under real controllers of three simulated data centers: one routing table everywhere, routes
//! by cell, and an older table that is refused; and a recommendation that is sent once.

use std::time::Duration;

use evergreen_tests::{
    fleet::{Fleet, SITES, automatic_service},
    wait::eventually,
};
use evergreen_twin::Loss;
use k8s_openapi::api::{core::v1::ConfigMap, events::v1::Event};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(60);

async fn table(fleet: &Fleet, site: &str) -> Result<(u64, String), String> {
    let api: Api<ConfigMap> = Api::namespaced(fleet.site(site).client.clone(), "shop");
    let map = api.get("checkout-routing").await.map_err(|error| error.to_string())?;
    let epoch = map.annotations().get("evergreen.dev/epoch").and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok((epoch, map.data.and_then(|mut data| data.remove("routing.json")).unwrap_or_default()))
}

fn site_of(text: &str, cell: usize) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    value.pointer(&format!("/cells/{cell}/site")).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Weights of each rule of the route at a site, by backend.
async fn rules(fleet: &Fleet, site: &str) -> Result<Vec<Vec<u64>>, String> {
    let resource = kube::api::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
        "gateway.networking.k8s.io",
        "v1",
        "HTTPRoute",
    ));
    let api: Api<kube::api::DynamicObject> = Api::namespaced_with(fleet.site(site).client.clone(), "shop", &resource);
    let route = api.get("by-cell").await.map_err(|error| error.to_string())?;
    let rules = route.data.pointer("/spec/rules").and_then(Value::as_array).cloned().unwrap_or_default();
    let weights = |rule: &Value| {
        let refs = rule["backendRefs"].as_array().cloned().unwrap_or_default();
        refs.iter().map(|one| one["weight"].as_u64().unwrap_or(1)).collect()
    };
    Ok(rules.iter().map(weights).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_move_on_their_own_and_every_site_publishes_the_same_table() {
    let mut service = automatic_service();
    let spec = &mut service["spec"];
    spec["mode"] = json!("Unitized");
    spec["kind"] = json!("compute");
    spec["minActive"] = json!(1);
    spec["capacityGate"] = json!({"action": "warn"});
    spec["failback"] = json!({"mode": "manual"});
    spec["units"] = json!({"shardHeader": "x-shard", "cells": [
        {"name": "c1", "shards": ["0-49"], "sites": ["dc-a", "dc-c"]},
        {"name": "c2", "shards": ["50-99"], "sites": ["dc-b", "dc-a"]}]});
    spec["traffic"][0]["httpRoute"]["name"] = json!("by-cell");
    spec["traffic"][0]["httpRoute"]["unitHeader"] = json!("x-cell");
    let route = |site: &str| {
        let refs: Vec<Value> = SITES
            .iter()
            .map(|other| {
                let name = if *other == site { "checkout".to_owned() } else { format!("checkout-{other}") };
                json!({"name": name, "port": 8080, "weight": 0})
            })
            .collect();
        let rule =
            |cell: &str| json!({"matches": [{"headers": [{"name": "x-cell", "value": cell}]}], "backendRefs": refs});
        let rules = [rule("c1"), rule("c2"), json!({"backendRefs": refs})];
        let object = json!({"metadata": {"name": "by-cell", "namespace": "shop"}, "spec": {"rules": rules}});
        vec![("gateway.networking.k8s.io", "v1", "HTTPRoute", object)]
    };
    let mut fleet = Fleet::start_with(service, &[], route).await;
    let (fleet_now, mut first) = (&fleet, String::new());
    for site in SITES {
        let text = eventually(&format!("{site} publishes both cells"), BOUND, || async move {
            let (_, text) = table(fleet_now, site).await?;
            let cells = (site_of(&text, 0), site_of(&text, 1));
            if cells == ("dc-a".into(), "dc-b".into()) { Ok(text) } else { Err(text) }
        })
        .await;
        assert!(first.is_empty() || first == text, "{first} and {text} differ");
        first = text;
    }
    eventually("each cell is led to its holder", BOUND, || async {
        let found = rules(&fleet, "dc-a").await?;
        if found == [vec![100, 0, 0], vec![0, 100, 0], vec![100, 0, 0]] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let (version, _) = table(&fleet, "dc-a").await.expect("a table");

    // Somebody holds a newer table at dc-c: an older one does not replace it.
    let maps: Api<ConfigMap> = Api::namespaced(fleet.site("dc-c").client.clone(), "shop");
    let newer = Patch::Merge(json!({"metadata": {"annotations": {"evergreen.dev/epoch": "1000000"}}}));
    maps.patch("checkout-routing", &PatchParams::default(), &newer).await.expect("a patch");
    fleet.kill_controller("dc-b");
    fleet.site("dc-b").twin.faults().lose(Loss::Reset);
    let (moved, text) = eventually("c2 is at dc-a, c1 where it was", BOUND, || async {
        let (moved, text) = table(&fleet, "dc-a").await?;
        let cells = (site_of(&text, 0), site_of(&text, 1));
        if cells == ("dc-a".into(), "dc-a".into()) { Ok((moved, text)) } else { Err(text) }
    })
    .await;
    assert!(moved > version, "{moved} after {version}: {text}");
    eventually("dc-c refuses its older table", BOUND, || async {
        let log = std::fs::read_to_string(fleet.dir().join("controller-dc-c.log")).unwrap_or_default();
        if log.contains("already written for epoch 1000000") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert_eq!(table(&fleet, "dc-c").await, Ok((1_000_000, first)));
    eventually("the route follows", BOUND, || async {
        let found = rules(&fleet, "dc-a").await?;
        if found[1] == [100, 0, 0] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_advised_is_told_by_one_event_and_not_done() {
    let mut service = automatic_service();
    service["spec"]["enforcement"] = json!("advise");
    let mut fleet = Fleet::start(service).await;
    let events = async |fleet: &Fleet| {
        let api: Api<Event> = Api::namespaced(fleet.site("dc-a").client.clone(), "shop");
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let ours = all.items.into_iter().filter(|event| event.reason.as_deref() == Some("MoveRecommended"));
        Ok::<_, String>(ours.collect::<Vec<Event>>())
    };
    let (fleet_now, look) = (&fleet, &events);
    let first = eventually("a recommendation", BOUND, || async move {
        let found = look(fleet_now).await?;
        let whole = found.iter().find(|event| event.note.as_deref().is_some_and(|note| note.contains("to dc-a, dc-b")));
        whole.map(|_| found.len()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    // A controller that restarts does not say it again.
    fleet.kill_controller("dc-a");
    fleet.start_controller("dc-a");
    eventually("the controller is back", BOUND, || async {
        let log = std::fs::read_to_string(fleet.dir().join("controller-dc-a.log")).unwrap_or_default();
        let told = log.matches("advise: recommended, not done").count();
        if told >= 2 { Ok(()) } else { Err(format!("told {told} times")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let found = events(&fleet).await.expect("events");
    assert_eq!(found.len(), first, "{found:?}");
    let regarding = found[0].regarding.as_ref().expect("an object");
    assert_eq!((regarding.kind.as_deref(), regarding.name.as_deref()), (Some("MultiActiveService"), Some("checkout")));
    assert_eq!(fleet.active("dc-a").await, Ok(Vec::new()), "it was done, not advised");
}
