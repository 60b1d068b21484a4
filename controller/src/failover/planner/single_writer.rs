//! What the map should be for a group with one writer at a time: an ActiveStandby service, or a cell of a Unitized one.
//! The set of holders has one member; whoever leaves is gone before another is named (the protocol core sees to that).

use evergreen_api::resources::Authority;

use super::{Actor, Cause, Draft, candidates, data, names};
use crate::{
    failover::facts::{DataFacts, MoveRequest, ServiceFacts},
    quorum::Holder,
};

pub(super) fn draft(facts: &ServiceFacts) -> Option<Draft> {
    let mut rejected = Vec::new();
    let possible = candidates::candidates(facts, &mut rejected);
    let Some(holder) = facts.entry.holders.first() else {
        return first(facts, possible, rejected);
    };
    let current = facts.fresh(&holder.site);
    if let Some(restarted) = current.filter(|current| *current != holder) {
        return Some(Draft {
            cause: Cause::Restarted(holder.site.clone()),
            holders: vec![restarted.clone()],
            actor: Actor::Coordinator,
            reason: format!("{} restarted: epoch {} replaces {}", holder.site, restarted.epoch, holder.epoch),
            rejected,
        });
    }
    let others: Vec<Holder> = possible.into_iter().filter(|candidate| candidate.site != holder.site).collect();
    // Only the holder itself can leave without being revoked.
    let actor = if current.is_some() { Actor::Leaver(holder.site.clone()) } else { Actor::Coordinator };
    if facts.spec.authority == Authority::Database {
        return follow(facts, holder, &others, actor, rejected, current.is_some());
    }
    if let Some(request) = facts.request()
        && let Some(draft) = asked(facts, request, holder, &others, actor.clone(), &rejected)
    {
        return Some(draft);
    }
    if current.is_none() {
        let silent = facts.sites.get(&holder.site).map_or_else(Default::default, |site| site.unfresh_for);
        let lost = format!("{} has not renewed its lease for {:.1} s", holder.site, silent.as_secs_f64());
        let cause = Cause::SiteLost(holder.site.clone());
        let chosen = best(facts, holder, &others, &mut rejected);
        return Some(match chosen {
            Some(site) => Draft {
                reason: format!("{lost}; {} is the best other site that can serve", site.site),
                cause,
                holders: vec![site],
                actor,
                rejected,
            },
            None => Draft {
                reason: format!("{lost}, and no other site can take it"),
                cause,
                holders: facts.entry.holders.clone(),
                actor,
                rejected,
            },
        });
    }
    if facts.held_by_drill() {
        return None;
    }
    let returning = others.iter().find(|other| facts.rank(&other.site) < facts.rank(&holder.site))?;
    let soaked = facts.sites.get(&returning.site).map_or_else(Default::default, |site| site.fresh_for);
    Some(Draft {
        cause: Cause::Failback(returning.site.clone()),
        holders: vec![returning.clone()],
        actor,
        reason: format!("{} is preferred and has been healthy for {} s", returning.site, soaked.as_secs()),
        rejected,
    })
}

/// The best site whose data pass; if none passes the best site, so that the verdict says what is missing.
fn best(facts: &ServiceFacts, holder: &Holder, others: &[Holder], rejected: &mut Vec<String>) -> Option<Holder> {
    let mut chosen = None;
    for other in others {
        match data::gate(facts, &other.site, Some(&holder.site), false, None) {
            Ok(_) => {
                chosen = Some(other.clone());
                break;
            }
            Err(why) => rejected.push(format!("{}: {why}", other.site)),
        }
    }
    chosen.or_else(|| others.first().cloned())
}

fn first(facts: &ServiceFacts, possible: Vec<Holder>, rejected: Vec<String>) -> Option<Draft> {
    // Where the data are led today is where the service belongs.
    let leads = |holder: &&Holder| matches!(facts.sites.get(&holder.site).and_then(|site| site.data.as_ref()), Some(DataFacts::Answer(at)) if at.leads);
    let chosen = possible.iter().find(leads).or_else(|| possible.first())?.clone();
    let why = if leads(&&chosen) { "its data lead" } else { "it is the best site that can serve" };
    Some(Draft {
        cause: Cause::FirstPlacement,
        reason: format!("no site holds it yet; {}: {why}", chosen.site),
        holders: vec![chosen],
        actor: Actor::Coordinator,
        rejected,
    })
}

/// The database elects; the group follows and never races it.
fn follow(
    facts: &ServiceFacts,
    holder: &Holder,
    others: &[Holder],
    actor: Actor,
    rejected: Vec<String>,
    alive: bool,
) -> Option<Draft> {
    let leaders: Vec<&str> = facts
        .sites
        .iter()
        .filter(|(_, site)| matches!(&site.data, Some(DataFacts::Answer(at)) if at.leads))
        .map(|(site, _)| site.as_str())
        .collect();
    match leaders.as_slice() {
        [leader] if *leader == holder.site && alive => None,
        [leader] if *leader != holder.site => {
            let target = others.iter().find(|other| other.site == *leader);
            Some(Draft {
                cause: Cause::DatabaseLed((*leader).to_owned()),
                holders: target.map_or_else(|| facts.entry.holders.clone(), |target| vec![target.clone()]),
                actor,
                reason: format!("the database leads at {leader}; {} held it", holder.site),
                rejected,
            })
        }
        _ if alive => None,
        _ => Some(Draft {
            cause: Cause::SiteLost(holder.site.clone()),
            holders: facts.entry.holders.clone(),
            actor,
            reason: format!("{} is lost; the database has to elect a leader first", holder.site),
            rejected,
        }),
    }
}

/// What a person asked for; none when the group is there already.
fn asked(
    facts: &ServiceFacts,
    request: &MoveRequest,
    holder: &Holder,
    others: &[Holder],
    actor: Actor,
    rejected: &[String],
) -> Option<Draft> {
    let mut rejected = rejected.to_vec();
    let target = match &request.to {
        Some(site) if *site == holder.site => return None,
        Some(site) => others.iter().find(|other| other.site == *site).cloned(),
        None => best(facts, holder, others, &mut rejected),
    };
    let holders = target.map_or_else(|| facts.entry.holders.clone(), |target| vec![target]);
    let reason = if holders == facts.entry.holders {
        let to = request.to.as_deref().unwrap_or("another site");
        format!("{} asked for {to}, which cannot take it", request.by)
    } else {
        format!("{} asked for it to be held by {}", request.by, names(&holders))
    };
    Some(Draft { cause: Cause::Asked(request.by.clone()), holders, actor, reason, rejected })
}
