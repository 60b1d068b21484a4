//! What only shows over all groups: groups that several services share, dependency cycles, and that automatic moves never
//! take from two lost sites at once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cause, Decision, Verdict, plan};
use crate::failover::facts::ServiceFacts;

/// Decides about every group; fills in what the single plans have to know of each other, so that each decision can be
/// made again from its own facts. Decisions are in the order of `all`; services of one group get the same decision.
pub fn plan_all(all: &mut [ServiceFacts]) -> Vec<Option<Decision>> {
    share(all);
    for (name, why) in cycles(all) {
        for facts in all.iter_mut().filter(|facts| facts.name == name) {
            facts.blocked.get_or_insert(why.clone());
        }
    }
    let mut decisions: Vec<Option<Decision>> = all.iter().map(plan).collect();
    let Some(site) = automatic_site(all, &decisions) else { return decisions };
    for (facts, decision) in all.iter_mut().zip(&mut decisions) {
        facts.automatic_site = Some(site.clone());
        if decision.as_ref().is_some_and(|decision| matches!(decision.cause, Cause::SiteLost(_))) {
            *decision = plan(facts);
        }
    }
    decisions
}

/// The lost site that automatic moves take from: the one that is being replaced already, else the first one that was
/// lost; of several the first by name.
fn automatic_site(all: &[ServiceFacts], decisions: &[Option<Decision>]) -> Option<String> {
    if let Some(known) = all.iter().find_map(|facts| facts.automatic_site.clone()) {
        return Some(known);
    }
    let mut lost: Vec<_> = all
        .iter()
        .zip(decisions)
        .filter_map(|(facts, decision)| match decision.as_ref()? {
            Decision { cause: Cause::SiteLost(site), verdict: Verdict::Act, .. } => {
                Some((std::cmp::Reverse(facts.sites.get(site)?.unfresh_for), site.clone()))
            }
            _ => None,
        })
        .collect();
    lost.sort();
    lost.into_iter().next().map(|(_, site)| site)
}

/// Services of one group move together: a site serves the group when it serves all of them, and they must not contradict.
fn share(all: &mut [ServiceFacts]) {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, facts) in all.iter().enumerate() {
        groups.entry(facts.group.clone()).or_default().push(index);
    }
    for members in groups.values().filter(|members| members.len() > 1) {
        let spec = &all[members[0]].spec;
        let differs = members[1..].iter().find(|index| {
            let other = &all[**index].spec;
            let same = (other.mode, other.min_active, other.enforcement, other.authority, &all[**index].candidates)
                == (spec.mode, spec.min_active, spec.enforcement, spec.authority, &all[members[0]].candidates)
                && other.decision == spec.decision
                && other.failback == spec.failback;
            !same
        });
        let conflict = differs.map(|other| {
            format!(
                "{} and {} share a group but differ in mode, sites, minActive, enforcement, decision or failback",
                all[members[0]].name, all[*other].name
            )
        });
        let mut ready: BTreeMap<String, Option<u32>> = BTreeMap::new();
        for index in members {
            let facts = &all[*index];
            for (site, known) in &facts.sites {
                // Counted in shares of the least that each service needs, so that the least of them says it all.
                let enough = known.ready.map(|ready| u32::from(ready >= facts.spec.workload.min_ready));
                let least = ready.entry(site.clone()).or_insert(enough);
                *least = least.zip(enough).map(|(a, b)| a.min(b));
            }
        }
        for index in members {
            let facts = &mut all[*index];
            if let Some(conflict) = &conflict {
                facts.blocked.get_or_insert(conflict.clone());
            }
            for (site, enough) in &ready {
                if let Some(known) = facts.sites.get_mut(site)
                    && *enough != Some(1)
                {
                    known.ready =
                        enough.map(|_| known.ready.unwrap_or(0).min(facts.spec.workload.min_ready.saturating_sub(1)));
                }
            }
        }
    }
}

/// Services on a cycle of dependencies, and the cycle.
fn cycles(all: &[ServiceFacts]) -> BTreeMap<String, String> {
    let edges: BTreeMap<&str, Vec<&str>> = all
        .iter()
        .map(|facts| (facts.name.as_str(), facts.dependencies.iter().map(|other| other.name.as_str()).collect()))
        .collect();
    let mut found = BTreeMap::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in edges.keys().copied() {
        if done.contains(start) {
            continue;
        }
        // Depth first with an own stack: (service, next dependency to look at).
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((service, next)) = path.last_mut() {
            let dependency = edges.get(*service).and_then(|others| others.get(*next)).copied();
            *next += 1;
            match dependency {
                Some(other) => {
                    if let Some(begin) = path.iter().position(|(known, _)| *known == other) {
                        let mut names: Vec<&str> = path[begin..].iter().map(|(name, _)| *name).collect();
                        names.push(other);
                        let why = format!("dependency cycle: {}", names.join(" -> "));
                        for name in &names {
                            found.entry((*name).to_owned()).or_insert_with(|| why.clone());
                        }
                    } else if !done.contains(other) && edges.contains_key(other) {
                        path.push((other, 0));
                    }
                }
                None => {
                    done.insert(*service);
                    path.pop();
                }
            }
        }
    }
    found
}
