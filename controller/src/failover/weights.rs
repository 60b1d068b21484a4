//! How a site's entry splits traffic, from who holds the group. Pure.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::{Failback, FailbackMode, TrafficWhitelist};

use super::facts::ServiceFacts;

/// Weight of everything that is served, split evenly.
const WHOLE: u32 = 100;

/// Weight of each site's backend at `own` site's entry; none to leave the route as it is (fail static).
///
/// A holder serves its own clients; any other site hands them to the holders that can serve. A holder that comes back by
/// and by hands on what is not its share yet.
pub fn weights(facts: &ServiceFacts, own: &str) -> Option<BTreeMap<String, u32>> {
    let holders: Vec<&str> = facts.entry.holders.iter().map(|holder| holder.site.as_str()).collect();
    let others: Vec<&str> = holders.iter().copied().filter(|site| *site != own && facts.can_serve(site)).collect();
    let mine = match holders.contains(&own) && facts.can_serve(own) {
        false => 0,
        true if others.is_empty() => WHOLE,
        true => share(facts, own),
    };
    if mine == 0 && others.is_empty() {
        return None;
    }
    let count = u32::try_from(others.len()).unwrap_or(u32::MAX).max(1);
    let each = if mine == WHOLE { 0 } else { ((WHOLE - mine) / count).max(1) };
    let weight = |site: &String| match site.as_str() {
        site if site == own => mine,
        site if others.contains(&site) => each,
        _ => 0,
    };
    Some(facts.spec.sites.iter().map(|site| (site.clone(), weight(site))).collect())
}

/// The share of its own clients that a holder serves: all, unless it comes back step by step.
fn share(facts: &ServiceFacts, own: &str) -> u32 {
    let failback = &facts.spec.failback;
    let Some(held) = facts.entered_for.get(own).filter(|_| failback.mode == FailbackMode::Gradual) else {
        return WHOLE;
    };
    let soak = failback.soak.get().max(Duration::from_millis(1));
    let step = usize::try_from(held.as_millis() / soak.as_millis()).unwrap_or(usize::MAX);
    failback.steps().get(step).copied().unwrap_or(WHOLE).min(WHOLE)
}

/// How long a site that comes back step by step has held a service of whose clients it serves `share`: as long as it takes
/// to get to that step. None for one that serves all, or does not come back step by step.
pub fn held_by_share(failback: &Failback, share: u32) -> Option<Duration> {
    let steps = failback.steps();
    let step = steps.iter().rposition(|step| *step <= share).unwrap_or(0);
    let coming = failback.mode == FailbackMode::Gradual && share < WHOLE && step + 1 < steps.len();
    coming.then(|| failback.soak.get() * u32::try_from(step).unwrap_or(u32::MAX))
}

/// Weights at an entry before all sites: the holders that can serve, evenly; none to leave it as it is (fail static).
pub fn fleet_weights(facts: &ServiceFacts) -> Option<BTreeMap<String, u32>> {
    let holds = |site: &str| facts.entry.holders.iter().any(|holder| holder.site == site) && facts.can_serve(site);
    let targets = facts.spec.sites.iter().filter(|site| holds(site)).count();
    let share = WHOLE / u32::try_from(targets).unwrap_or(u32::MAX).max(1);
    let weight = |site: &String| (site.clone(), if holds(site) { share.max(1) } else { 0 });
    (targets > 0).then(|| facts.spec.sites.iter().map(weight).collect())
}

/// Clients that are led to one site whatever the shares are; none while that site does not hold the service or cannot serve,
/// so that they go where everybody goes.
pub fn whitelist(facts: &ServiceFacts) -> Option<TrafficWhitelist> {
    let list = facts.spec.whitelist.as_ref()?;
    let holds = facts.entry.holders.iter().any(|holder| holder.site == list.site);
    (holds && facts.can_serve(&list.site)).then(|| list.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::planner::testing::active;

    fn facts(holders: &[&str], ready: &[(&str, u32)]) -> ServiceFacts {
        let mut facts = active(holders);
        for (name, site) in &mut facts.sites {
            site.ready = ready.iter().find(|(known, _)| known == name).map(|(_, ready)| *ready);
        }
        facts
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
    fn before_all_sites_the_holders_that_can_serve_share_evenly() {
        let split =
            |facts: &ServiceFacts| fleet_weights(facts).map(|weights| weights.into_values().collect::<Vec<_>>());
        assert_eq!(split(&facts(&["a", "b"], &[("a", 2), ("b", 2), ("c", 2)])), Some(vec![50, 50, 0]));
        assert_eq!(split(&facts(&["a", "b"], &[("a", 2), ("b", 0), ("c", 2)])), Some(vec![100, 0, 0]));
        assert_eq!(split(&facts(&["a"], &[("a", 0), ("b", 2)])), None);
    }

    #[test]
    fn a_whitelist_counts_while_its_site_holds_the_service_and_can_serve() {
        let list = TrafficWhitelist { header: "x-tester".into(), value: "1".into(), site: "b".into() };
        let listed = |holders: &[&str], ready: u32| {
            let mut facts = facts(holders, &[("a", 2), ("b", ready)]);
            facts.spec.whitelist = Some(list.clone());
            whitelist(&facts)
        };
        assert_eq!(listed(&["a", "b"], 2), Some(list.clone()));
        assert_eq!(listed(&["a", "b"], 0), None);
        assert_eq!(listed(&["a"], 2), None, "testers are led to no site that may not serve");
    }

    #[test]
    fn with_nobody_left_the_route_stays_as_it_is() {
        assert_eq!(split(&facts(&["a", "b"], &[("a", 0), ("b", 0)]), "a"), None);
        assert_eq!(split(&facts(&[], &[("a", 2)]), "a"), None);
    }

    #[test]
    fn a_share_tells_how_long_a_site_has_been_coming_back() {
        let mut facts = active(&["a"]);
        facts.spec.failback.steps = vec![20, 60, 100];
        assert_eq!(held_by_share(&facts.spec.failback, 20), None, "nothing comes back step by step");
        facts.spec.failback.mode = FailbackMode::Gradual;
        let held = |share| held_by_share(&facts.spec.failback, share).map(|held| held.as_secs());
        assert_eq!([0, 20, 59, 60, 100].map(held), [Some(0), Some(0), Some(0), Some(5), None]);
    }

    #[test]
    fn a_returned_site_takes_its_share_step_by_step() {
        let mut facts = facts(&["a", "b", "c"], &[("a", 2), ("b", 2), ("c", 2)]);
        facts.spec.failback.mode = FailbackMode::Gradual;
        facts.spec.failback.steps = vec![20, 60, 100];
        for (seconds, shares) in [(0, [40, 20, 40]), (5, [20, 60, 20]), (10, [0, 100, 0]), (60, [0, 100, 0])] {
            facts.entered_for.insert("b".into(), Duration::from_secs(seconds));
            assert_eq!(split(&facts, "b"), Some(shares.to_vec()), "{seconds} s");
        }
        assert_eq!(split(&facts, "a"), Some(vec![100, 0, 0]), "the others serve their own clients");
    }
}
