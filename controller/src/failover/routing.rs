//! 单元化: the routing table of a Unitized service, the same bytes at every site, and what its actuators are told. Pure.

use std::collections::BTreeMap;

use evergreen_api::resources::Units;
use serde::Serialize;

use super::facts::ServiceFacts;

/// Which cell each shard belongs to and which site serves it. Readers keep the highest version that they have seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RoutingTable {
    api_version: &'static str,
    service: String,
    /// Sum of the versions of the cells' entries: each only grows, so does this.
    pub version: u64,
    shard_header: String,
    shards: u32,
    cells: Vec<CellRoute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct CellRoute {
    name: String,
    shards: Vec<String>,
    /// Absent while nobody holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    /// Version of the cell's entry: the number that its resources compare.
    version: u64,
}

impl RoutingTable {
    /// The table in the form in which every site publishes it.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// The table of a service; `cells` are its groups in the order of the spec. None where too few sites hold this spec: what
/// was published stays.
pub(super) fn table(units: &Units, cells: &[&ServiceFacts]) -> Option<RoutingTable> {
    let first = cells.first()?;
    if first.same_spec_at * 2 <= first.members || cells.len() != units.cells.len() {
        return None;
    }
    let route = |(cell, facts): (&evergreen_api::resources::Cell, &&ServiceFacts)| CellRoute {
        name: cell.name.clone(),
        shards: cell.shards.clone(),
        site: facts.entry.holders.first().map(|holder| holder.site.clone()),
        version: facts.entry.version,
    };
    Some(RoutingTable {
        api_version: "evergreen.dev/routing.v1",
        service: first.name.clone(),
        version: cells.iter().map(|facts| facts.entry.version).sum(),
        shard_header: units.shard_header.clone(),
        shards: units.shards,
        cells: units.cells.iter().zip(cells).map(route).collect(),
    })
}

/// Site of each cell, and how clients without a shard are shared at `own` site's entry (`None`: at one before all sites).
/// None while a cell has no holder or nobody can serve: everything stays as it is.
pub(super) fn shares(
    units: &Units,
    cells: &[&ServiceFacts],
    own: Option<&str>,
) -> Option<(BTreeMap<String, String>, BTreeMap<String, u32>)> {
    let mut sites = BTreeMap::new();
    for (cell, facts) in units.cells.iter().zip(cells) {
        sites.insert(cell.name.clone(), facts.entry.holders.first()?.site.clone());
    }
    let serves = |site: &str| {
        cells.iter().any(|facts| facts.entry.holders.iter().any(|holder| holder.site == site) && facts.can_serve(site))
    };
    let all = &cells.first()?.spec.sites;
    let mut serving: Vec<&str> = all.iter().map(String::as_str).filter(|site| serves(site)).collect();
    if let Some(own) = own.filter(|own| serving.contains(own)) {
        serving = vec![own];
    }
    let each = 100 / u32::try_from(serving.len()).ok().filter(|count| *count > 0)?;
    let share = |site: &String| (site.clone(), if serving.contains(&site.as_str()) { each.max(1) } else { 0 });
    Some((sites, all.iter().map(share).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::failover::planner::testing::single;

    fn units() -> Units {
        serde_json::from_value(json!({"shardHeader": "x-shard", "shards": 10, "cells": [
            {"name": "c1", "shards": ["0-4"], "sites": ["a", "b"]}, {"name": "c2", "shards": ["5-9"], "sites": ["b", "a"]}]}))
        .unwrap()
    }

    #[test]
    fn every_site_makes_the_same_bytes_and_the_version_only_grows() {
        let (one, mut two) = (single("account", &["a"]), single("account", &["b"]));
        let before = table(&units(), &[&one, &two]).unwrap();
        let value: Value = serde_json::from_str(&before.text()).unwrap();
        assert_eq!(value["cells"][1], json!({"name": "c2", "shards": ["5-9"], "site": "b", "version": 1}));
        // What differs between sites is not in it.
        let mut elsewhere = one.clone();
        elsewhere.entry_stable_for = std::time::Duration::ZERO;
        elsewhere.sites.get_mut("b").unwrap().ready = None;
        assert_eq!(table(&units(), &[&elsewhere, &two]).unwrap().text(), before.text());
        two.entry.version = 2;
        two.entry.holders.clear();
        let after = table(&units(), &[&one, &two]).unwrap();
        assert!(after.version > before.version && !after.text().contains("\"site\": \"b\""), "{}", after.text());
        two.same_spec_at = 1;
        let one = ServiceFacts { same_spec_at: 1, ..one };
        assert_eq!(table(&units(), &[&one, &two]), None, "a spec that few sites hold is not published");
    }

    #[test]
    fn each_cell_goes_to_its_holder_and_everything_stays_while_one_has_none() {
        let (one, mut two) = (single("account", &["a"]), single("account", &["b"]));
        let told = |shares: &BTreeMap<String, u32>| shares.values().copied().collect::<Vec<_>>();
        let (sites, at_a) = shares(&units(), &[&one, &two], Some("a")).unwrap();
        assert_eq!((sites["c1"].as_str(), sites["c2"].as_str()), ("a", "b"));
        assert_eq!(told(&at_a), [100, 0, 0]);
        assert_eq!(told(&shares(&units(), &[&one, &two], Some("c")).unwrap().1), [50, 50, 0]);
        assert_eq!(told(&shares(&units(), &[&one, &two], None).unwrap().1), [50, 50, 0]);
        two.entry.holders.clear();
        assert_eq!(shares(&units(), &[&one, &two], Some("a")), None);
    }
}
