//! The database hook contract under real controllers of three simulated data centers: a planned move demotes, proves and
//! only then releases; a hook that hangs or lies holds the move and says so.

use std::time::Duration;

use evergreen_tests::{
    fleet::{Fleet, automatic_service},
    hooks::{Hooks, Mood},
    wait::eventually,
};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(60);

async fn until_told(fleet: &Fleet, site: &str, pointer: &str, words: &str) {
    eventually(&format!("{pointer} at {site} says {words:?}"), BOUND, || async {
        let service = fleet.service(site).await?;
        let text = service.pointer(pointer).map(Value::to_string).unwrap_or_default();
        if text.contains(words) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_demoted_and_proven_fenced_before_another_is_promoted_and_a_hook_that_hangs_or_lies_holds() {
    let hooks = Hooks::serve("dc-b").await;
    // The data lead at dc-b, so that the service is placed there; dc-a is preferred, so that it moves by itself later.
    let url = format!("http://{}/{{site}}", hooks.address);
    let mut service = automatic_service();
    let spec = &mut service["spec"];
    spec["mode"] = json!("ActiveStandby");
    spec["kind"] = json!("account");
    spec["minActive"] = json!(1);
    spec["objectives"] = json!({"rpo": "0s"});
    spec["dataGate"] = json!({"hook": {"url": url}});
    spec["database"] = json!({"endpoint": {"url": url}, "timeout": "1s"});
    spec["capacityGate"] = json!({"action": "warn"});
    spec["failback"] = json!({"mode": "automatic", "soak": "10s"});
    let allow = hooks.address.clone();
    hooks.mood("dc-a", Mood::Lies);
    let fleet = Fleet::start_with(service, &["--hook-allow", &allow], |_| Vec::new()).await;

    // The other sites are fenced before the own database is promoted; one that answers for another epoch is no proof.
    until_told(&fleet, "dc-b", "/status/database", "demote at dc-a: it answers for epoch").await;
    until_told(&fleet, "dc-b", "/status/conditions", "nothing is granted here yet").await;
    assert!(hooks.calls().iter().all(|(_, verb, _)| verb != "promote"), "{:?}", hooks.calls());
    hooks.mood("dc-a", Mood::Well);
    until_told(&fleet, "dc-b", "/status/database", "dc-b leads under epoch").await;

    // From here on the move away from dc-b has to wait for its demotion.
    hooks.mood("dc-b", Mood::Hangs);
    until_told(&fleet, "dc-b", "/status/plan", "database: demote at dc-b: no answer within 1s").await;
    hooks.mood("dc-b", Mood::Lies);
    until_told(&fleet, "dc-b", "/status/plan", "database: demote at dc-b: it answers for epoch").await;
    assert_eq!(fleet.active("dc-b").await, Ok(vec!["dc-b".to_owned()]), "it moved without its database");
    hooks.mood("dc-b", Mood::Well);
    until_told(&fleet, "dc-a", "/status/database", "dc-a leads under epoch").await;
    assert_eq!(fleet.active("dc-a").await, Ok(vec!["dc-a".to_owned()]));

    let calls = hooks.calls();
    let last = |site: &str, verb: &str| calls.iter().rposition(|(s, v, _)| s == site && v == verb);
    let promoted = calls.iter().position(|(site, verb, _)| site == "dc-a" && verb == "promote").expect("a promotion");
    let before = &calls[..promoted];
    assert!(before.iter().any(|(site, verb, _)| site == "dc-b" && verb == "prove-fenced"), "{calls:?}");
    assert!(last("dc-b", "promote") < Some(promoted), "{calls:?}");
    let (first, second) = (calls[last("dc-b", "promote").expect("it led")].2, calls[promoted].2);
    assert!(first < second, "the epoch did not rise: {calls:?}");
    assert_eq!(hooks.most_primaries(), 1, "two databases took writes: {calls:?}");
}
