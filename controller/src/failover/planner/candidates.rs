//! Sites that could take a group, best first; the others are rejected with the reason.

use super::super::facts::ServiceFacts;
use crate::quorum::Holder;

pub(super) fn candidates(facts: &ServiceFacts, rejected: &mut Vec<String>) -> Vec<Holder> {
    let mut candidates = Vec::new();
    for site in &facts.candidates {
        match refusal(facts, site) {
            Ok(holder) => candidates.push(holder),
            Err(why) => rejected.push(format!("{site}: {why}")),
        }
    }
    candidates
}

/// The site's incarnation, or why it cannot serve.
pub(super) fn refusal(facts: &ServiceFacts, site: &str) -> Result<Holder, String> {
    let Some(known) = facts.sites.get(site) else { return Err("no such member data center".into()) };
    let min = facts.spec.workload.min_ready;
    match (&known.fresh, known.ready) {
        (None, _) => Err("its lease is not fresh at a majority".into()),
        (Some(_), None) => Err("its workload cannot be read".into()),
        (Some(_), Some(ready)) if ready < min => Err(format!("{ready} of at least {min} replicas are ready")),
        (Some(holder), Some(_)) => Ok(holder.clone()),
    }
}
