//! How a site's entry splits traffic, from who holds the group. Pure.

use std::collections::BTreeMap;

use super::facts::ServiceFacts;

/// Weight of everything that is served, split evenly.
const WHOLE: u32 = 100;

/// Weight of each site's backend at `own` site's entry; none to leave the route as it is (fail static).
///
/// A holder serves its own clients; any other site hands them to the holders that can serve.
pub fn weights(facts: &ServiceFacts, own: &str) -> Option<BTreeMap<String, u32>> {
    let holders: Vec<&str> = facts.entry.holders.iter().map(|holder| holder.site.as_str()).collect();
    let targets: Vec<&str> = if holders.contains(&own) && facts.can_serve(own) {
        vec![own]
    } else {
        holders.into_iter().filter(|site| *site != own && facts.can_serve(site)).collect()
    };
    if targets.is_empty() {
        return None;
    }
    let share = WHOLE / u32::try_from(targets.len()).unwrap_or(u32::MAX).max(1);
    Some(
        facts
            .spec
            .sites
            .iter()
            .map(|site| (site.clone(), if targets.contains(&site.as_str()) { share.max(1) } else { 0 }))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{
        failover::SiteFacts,
        quorum::{Entry, Holder, Incarnation},
    };

    fn facts(holders: &[&str], ready: &[(&str, u32)]) -> ServiceFacts {
        let holder = |site: &str| Holder { site: site.into(), epoch: 1, incarnation: Incarnation(site.to_owned()) };
        let spec = serde_json::from_value(json!({
            "mode": "ActiveActive", "kind": "query", "sites": ["a", "b", "c"], "minActive": 2,
            "workload": {"deployment": "d"}, "traffic": [],
        }))
        .unwrap();
        let sites = ready
            .iter()
            .map(|(site, ready)| {
                let facts = SiteFacts { fresh: Some(holder(site)), ready: Some(*ready), ..SiteFacts::default() };
                ((*site).to_owned(), facts)
            })
            .collect();
        ServiceFacts {
            group: "g".into(),
            spec,
            same_spec_at: 3,
            members: 3,
            entry: Entry { version: 1, holders: holders.iter().map(|site| holder(site)).collect(), traceparent: None },
            entry_stable_for: Duration::ZERO,
            sites,
        }
    }

    fn split(facts: &ServiceFacts, own: &str) -> Option<Vec<u32>> {
        weights(facts, own).map(|weights| weights.into_values().collect())
    }

    #[test]
    fn a_holder_serves_its_own_clients() {
        assert_eq!(split(&facts(&["a", "b"], &[("a", 2), ("b", 2), ("c", 2)]), "a"), Some(vec![100, 0, 0]));
    }

    #[test]
    fn another_site_hands_its_clients_to_the_holders() {
        assert_eq!(split(&facts(&["a", "b"], &[("a", 2), ("b", 2), ("c", 2)]), "c"), Some(vec![50, 50, 0]));
    }

    #[test]
    fn a_holder_without_ready_replicas_hands_its_clients_on() {
        assert_eq!(split(&facts(&["a", "b"], &[("a", 0), ("b", 2)]), "a"), Some(vec![0, 100, 0]));
    }

    #[test]
    fn with_nobody_left_the_route_stays_as_it_is() {
        assert_eq!(split(&facts(&["a", "b"], &[("a", 0), ("b", 0)]), "a"), None);
        assert_eq!(split(&facts(&[], &[("a", 2)]), "a"), None);
    }
}
