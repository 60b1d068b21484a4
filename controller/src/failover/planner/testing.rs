//! Facts for tests: three sites a, b and c that are well.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::{MultiActiveServiceSpec, Stability, TimingProfile};
use serde_json::json;

use crate::{
    failover::facts::{Consent, DataFacts, DataPosition, MoveRequest, ServiceFacts, SiteFacts},
    quorum::{Entry, Holder, Incarnation},
};

pub fn holder(site: &str, epoch: u64) -> Holder {
    Holder { site: site.into(), epoch, incarnation: Incarnation(format!("{site}{epoch}")) }
}

pub fn answer(lag_seconds: u64) -> DataPosition {
    DataPosition { lag: Duration::from_secs(lag_seconds), ..DataPosition::default() }
}

pub fn alive(epoch: u64) -> impl Fn(&str) -> SiteFacts {
    move |site| SiteFacts {
        fresh: Some(holder(site, epoch)),
        fresh_for: Duration::from_secs(3_600),
        ready: Some(2),
        ..SiteFacts::default()
    }
}

pub fn lost() -> SiteFacts {
    SiteFacts { unfresh_for: Duration::from_secs(4), ..SiteFacts::default() }
}

fn facts(spec: serde_json::Value, holders: &[&str]) -> ServiceFacts {
    let spec: MultiActiveServiceSpec = serde_json::from_value(spec).unwrap();
    ServiceFacts {
        name: "n/s".into(),
        group: "g".into(),
        candidates: spec.sites.clone(),
        spec,
        stability: Stability::Steady,
        profile: TimingProfile::Bank,
        same_spec_at: 3,
        members: 3,
        entry: Entry { version: 1, holders: holders.iter().map(|site| holder(site, 1)).collect(), traceparent: None },
        entry_stable_for: Duration::from_secs(3_600),
        moved_for: None,
        entered_for: BTreeMap::new(),
        sites: ["a", "b", "c"].map(|site| (site.to_owned(), alive(1)(site))).into(),
        dependencies: Vec::new(),
        consent: Consent::default(),
        blocked: None,
        automatic_site: None,
        database: None,
    }
}

/// A stateless service of which two sites shall serve, everything automatic, no room checked.
pub fn active(holders: &[&str]) -> ServiceFacts {
    let spec = json!({
        "mode": "ActiveActive", "kind": "query", "sites": ["a", "b", "c"], "minActive": 2,
        "workload": {"deployment": "d"}, "traffic": [], "enforcement": "enforce",
        "decision": {"planned": "auto", "unplanned": "auto"}, "holdDown": "5s", "capacityGate": {"action": "warn"},
        "failback": {"mode": "automatic", "soak": "5s"},
    });
    facts(spec, holders)
}

/// A single writer of a kind, everything automatic, no room checked; with data that pass where the kind loses nothing.
pub fn single(kind: &str, holders: &[&str]) -> ServiceFacts {
    let mut spec = json!({
        "mode": "ActiveStandby", "kind": kind, "sites": ["a", "b", "c"],
        "workload": {"deployment": "d"}, "traffic": [], "enforcement": "enforce",
        "decision": {"planned": "auto", "unplanned": "auto"}, "holdDown": "10m", "capacityGate": {"action": "warn"},
        "failback": {"mode": "automatic", "soak": "5s"},
    });
    if kind != "compute" {
        spec["dataGate"] = json!({"hook": {"url": "http://db"}});
    }
    let mut facts = facts(spec, holders);
    if kind != "compute" {
        for (name, site) in &mut facts.sites {
            let leads = holders.contains(&name.as_str());
            site.data =
                Some(DataFacts::Answer(DataPosition { complete: true, leads, position: Some(100), ..answer(0) }));
        }
    }
    facts
}

pub fn request(to: Option<&str>) -> MoveRequest {
    MoveRequest {
        id: "r1".into(),
        by: "zhang".into(),
        to: to.map(str::to_owned),
        from: None,
        accept_loss: None,
        accept_shortage: false,
        break_glass: false,
        drill: None,
    }
}
