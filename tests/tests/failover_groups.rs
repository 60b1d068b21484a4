//! Many groups of a lost data center: real controllers on simulated API servers. They move in a few rounds of the map, not
//! in one round each. EVERGREEN_GROUPS asks for more of them than the test takes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use evergreen_api::names::{ASSIGNMENTS, SYSTEM_NAMESPACE};
use evergreen_tests::{
    fleet::{Fleet, SITES, automatic_service},
    wait::eventually,
};
use evergreen_twin::Loss;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::{Value, json};

/// A service of which one site at a time is the writer; the first of the sites is the preferred one.
fn single_writer(name: &str) -> Value {
    let backend = |site: &str| json!({"site": site, "local": name, "remote": format!("{name}-{site}"), "port": 8080});
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {
        "mode": "ActiveStandby", "kind": "query", "sites": SITES, "workload": {"deployment": "checkout"},
        "enforcement": "enforce", "decision": {"planned": "auto", "unplanned": "auto"}, "holdDown": "2s",
        "traffic": [{"httpRoute": {"name": name, "backends": SITES.map(backend)}}], "failback": {"mode": "manual"}}})
}

/// Its route at a site.
fn route(name: &str, at: &str) -> Value {
    let backend = |site: &str| {
        let local = if site == at { name.to_owned() } else { format!("{name}-{site}") };
        json!({"name": local, "port": 8080, "weight": u64::from(site == at)})
    };
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"rules": [{"backendRefs": SITES.map(backend)}]}})
}

/// What a register holds: how many single writers each site has, how often the map was changed, and its size.
#[derive(Debug, Default)]
struct Map {
    at: Vec<String>,
    ballot: u64,
    bytes: usize,
}

/// The newest of what the registers of the two other sites hold: of any majority at least one is among them.
async fn map(fleet: &Fleet) -> Result<Map, String> {
    let (one, other) = (register(fleet, "dc-b").await?, register(fleet, "dc-c").await?);
    Ok(if one.ballot < other.ballot { other } else { one })
}

async fn register(fleet: &Fleet, at: &str) -> Result<Map, String> {
    let maps: Api<ConfigMap> = Api::namespaced(fleet.site(at).client.clone(), SYSTEM_NAMESPACE);
    let object = maps.get(ASSIGNMENTS).await.map_err(|error| error.to_string())?;
    let text = object.data.and_then(|mut data| data.remove("register")).ok_or("an empty register")?;
    let state: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let holders = |entry: &Value| entry["holders"][0]["site"].as_str().unwrap_or_default().to_owned();
    let groups = state["accepted"]["map"].as_object().into_iter().flatten();
    let at = groups.filter(|(group, _)| group.starts_with("shop.g-")).map(|(_, entry)| holders(entry)).collect();
    Ok(Map { at, ballot: state["accepted"]["ballot"]["counter"].as_u64().unwrap_or(0), bytes: text.len() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_of_a_lost_site_move_in_a_few_rounds() {
    let count: usize = std::env::var("EVERGREEN_GROUPS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let bound = Duration::from_secs(60 + count as u64 / 4);
    let mut fleet = Fleet::start_with(automatic_service(), &[], |site| {
        let names = (0..count).map(|number| format!("g-{number:04}"));
        let objects = names.flat_map(|name| {
            let service = ("evergreen.dev", "v1alpha1", "MultiActiveService", single_writer(&name));
            [service, ("gateway.networking.k8s.io", "v1", "HTTPRoute", route(&name, site))]
        });
        objects.collect()
    })
    .await;
    eventually("all groups are at the first site", bound, || async {
        let map = map(&fleet).await?;
        let there = map.at.iter().filter(|site| *site == "dc-a").count();
        if there == count { Ok(()) } else { Err(format!("{there} of {count}; {}", map.ballot)) }
    })
    .await;
    let before = map(&fleet).await.expect("a map");
    fleet.kill_controller("dc-a");
    fleet.site("dc-a").twin.faults().lose(Loss::Reset);
    let lost = Instant::now();
    let (mut first, mut ballots) = (None, BTreeSet::new());
    let after = loop {
        let now = map(&fleet).await.expect("a map");
        let moved = now.at.iter().filter(|site| *site != "dc-a").count();
        if moved > 0 {
            first.get_or_insert_with(|| lost.elapsed());
            ballots.insert(now.ballot);
        }
        if moved == count {
            break now;
        }
        assert!(lost.elapsed() < bound, "{moved} of {count} groups moved within {bound:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!(
        "{count} groups of a lost site: the first moved after {:.1} s, the last after {:.1} s, in {} maps; {} KiB of map",
        first.unwrap_or_default().as_secs_f64(),
        lost.elapsed().as_secs_f64(),
        ballots.len(),
        after.bytes >> 10
    );
    assert!(after.ballot > before.ballot, "the map was changed");
    assert!(ballots.len() <= 4, "{count} groups moved in {} maps", ballots.len());
}
