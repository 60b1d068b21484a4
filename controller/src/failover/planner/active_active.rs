//! What the map should be for a service that several sites serve at once. The last holder is never removed.

use super::{Actor, Cause, Draft, candidates::candidates, names, sorted};
use crate::{failover::facts::ServiceFacts, quorum::Holder};

pub(super) fn draft(facts: &ServiceFacts) -> Option<Draft> {
    let spec = &facts.spec;
    let wanted = spec.min_active as usize;
    let mut rejected = Vec::new();
    let candidates = candidates(facts, &mut rejected);
    let entry = &facts.entry;
    let draft = |cause: Cause, holders: Vec<Holder>, actor: Actor, reason: String, rejected: Vec<String>| {
        (holders != entry.holders).then_some(Draft { cause, holders, actor, reason, rejected })
    };
    if entry.holders.is_empty() {
        let holders = sorted(candidates.iter().take(wanted).cloned());
        let reason = format!("no site holds it yet; the best {wanted} that can serve are {}", names(&holders));
        return draft(Cause::FirstPlacement, holders, Actor::Coordinator, reason, rejected);
    }
    for holder in &entry.holders {
        let site = facts.sites.get(&holder.site);
        match site.and_then(|site| site.fresh.as_ref()) {
            Some(current) if current == holder => {}
            Some(current) => {
                let others = entry.holders.iter().filter(|h| *h != holder).cloned();
                let holders = sorted(others.chain([current.clone()]));
                let reason = format!("{} restarted: epoch {} replaces {}", holder.site, current.epoch, holder.epoch);
                return draft(Cause::Restarted(holder.site.clone()), holders, Actor::Coordinator, reason, rejected);
            }
            None => {
                let silent = site.map_or_else(Default::default, |site| site.unfresh_for);
                let rest: Vec<Holder> = entry.holders.iter().filter(|h| *h != holder).cloned().collect();
                let request = facts.request();
                let wished = request.and_then(|request| request.to.as_ref());
                let free = |c: &&Holder| rest.iter().all(|h| h.site != c.site);
                let spare = candidates.iter().find(|c| free(c) && wished.is_none_or(|site| *site == c.site)).cloned();
                let reason = match &spare {
                    Some(spare) => format!(
                        "{} has not renewed its lease for {:.1} s; {} is the best other site that can serve",
                        holder.site,
                        silent.as_secs_f64(),
                        spare.site
                    ),
                    None => format!("{} has not renewed its lease for {:.1} s", holder.site, silent.as_secs_f64()),
                };
                let holders = sorted(rest.into_iter().chain(spare));
                if holders.is_empty() {
                    // The last holder is never removed without another: a stateless service fails static.
                    continue;
                }
                let cause = match request {
                    Some(request) => Cause::Asked(request.by.clone()),
                    None => Cause::SiteLost(holder.site.clone()),
                };
                return draft(cause, holders, Actor::Coordinator, reason, rejected);
            }
        }
    }
    if let Some(request) = facts.request() {
        return asked(facts, request, &candidates, rejected);
    }
    if entry.holders.len() < wanted {
        let missing = candidates.iter().find(|candidate| !entry.holders.contains(candidate))?;
        let holders = sorted(entry.holders.iter().cloned().chain([missing.clone()]));
        let reason = format!("{} of {wanted} wanted sites hold it; {} can serve", entry.holders.len(), missing.site);
        return draft(Cause::TooFew, holders, Actor::Coordinator, reason, rejected);
    }
    if facts.held_by_drill() {
        return None;
    }
    let worst = entry.holders.iter().max_by_key(|holder| facts.rank(&holder.site))?;
    if entry.holders.len() > wanted {
        let holders = sorted(entry.holders.iter().filter(|holder| *holder != worst).cloned());
        // Nobody leaves before the ones that stay can serve.
        if !holders.iter().all(|holder| facts.can_serve(&holder.site)) {
            return None;
        }
        let count = entry.holders.len();
        let reason = format!("{count} sites hold it, {wanted} are wanted; {} is the least preferred", worst.site);
        let actor = Actor::Leaver(worst.site.clone());
        return draft(Cause::TooMany(worst.site.clone()), holders, actor, reason, rejected);
    }
    let better = |candidate: &&Holder| {
        !entry.holders.contains(candidate) && facts.rank(&candidate.site) < facts.rank(&worst.site)
    };
    let returning = candidates.iter().find(better)?;
    let soaked = facts.sites.get(&returning.site).map_or_else(Default::default, |site| site.fresh_for);
    let holders = sorted(entry.holders.iter().cloned().chain([returning.clone()]));
    let reason = format!("{} is preferred and has been healthy for {} s", returning.site, soaked.as_secs());
    draft(Cause::Failback(returning.site.clone()), holders, Actor::Coordinator, reason, rejected)
}

/// A person wants another site in, out, or one instead of another. The one that leaves releases by itself.
fn asked(
    facts: &ServiceFacts,
    request: &crate::failover::facts::MoveRequest,
    candidates: &[Holder],
    mut rejected: Vec<String>,
) -> Option<Draft> {
    let holders = &facts.entry.holders;
    let outside: Vec<&Holder> = candidates.iter().filter(|c| holders.iter().all(|h| h.site != c.site)).collect();
    let to = match &request.to {
        Some(site) if holders.iter().any(|holder| holder.site == *site) => None,
        Some(site) => match outside.iter().find(|holder| holder.site == *site) {
            Some(holder) => Some((*holder).clone()),
            None => {
                rejected.push(format!("{site}: asked for, but it cannot serve"));
                return Some(Draft {
                    cause: Cause::Asked(request.by.clone()),
                    holders: holders.clone(),
                    actor: Actor::Coordinator,
                    reason: format!("{} asked for {site}, which cannot take it", request.by),
                    rejected,
                });
            }
        },
        None => outside.first().map(|holder| (*holder).clone()),
    };
    let leaver = match &request.from {
        Some(site) => holders.iter().find(|holder| holder.site == *site),
        None => None,
    };
    let wished = sorted(holders.iter().filter(|holder| Some(*holder) != leaver).cloned().chain(to));
    // Never the last one, and nobody leaves before one that stays can serve.
    if wished.is_empty() || !wished.iter().any(|holder| facts.can_serve(&holder.site)) || wished == *holders {
        return None;
    }
    let actor = leaver.map_or(Actor::Coordinator, |leaver| Actor::Leaver(leaver.site.clone()));
    let reason = format!("{} asked for it to be held by {}", request.by, names(&wished));
    Some(Draft { cause: Cause::Asked(request.by.clone()), holders: wished, actor, reason, rejected })
}
