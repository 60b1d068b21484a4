//! Whether a wanted change is carried out: people's consent first, then the gates, then time.

use std::{collections::BTreeSet, time::Duration};

use evergreen_api::resources::{
    Authority, CapacityAction, Decision as Policy, Enforcement, FailbackMode, OnTimeout, ServiceMode, Stability,
};

use super::{Cause, Decision, Draft, Proposal, Verdict, capacity, data, database, dependencies, proposal};
use crate::failover::facts::{DRILL_APPROVALS, MoveRequest, ServiceFacts};

/// A group without holders waits this long for the rest of its sites, so that a fleet that starts is not placed twice.
const FIRST_PLACEMENT_PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing is done about what is recommended.
pub(in crate::failover) const ADVISED: &str = "enforcement is advise: recommended, not done";

pub(super) fn judge(facts: &ServiceFacts, draft: Draft) -> Decision {
    let mut notes = Vec::new();
    let mut asked_of = None;
    let mut verdict = verdict(facts, &draft, &mut notes, &mut asked_of).unwrap_or_else(|stop| stop);
    let mut demotes = false;
    if verdict == Verdict::Act
        && let Err(why) = database::release(facts, &draft)
    {
        (verdict, demotes) = (Verdict::Wait(why), true);
    }
    let request = facts.request().filter(|_| matches!(draft.cause, Cause::Asked(_)));
    Decision {
        group: facts.group.clone(),
        cause: draft.cause,
        old: facts.entry.clone(),
        holders: draft.holders,
        actor: draft.actor,
        verdict,
        reason: draft.reason,
        rejected: draft.rejected,
        notes,
        proposal: asked_of,
        request: request.map(|request| request.id.clone()),
        demotes,
    }
}

/// `Err` is a verdict too: the first reason not to act.
fn verdict(
    facts: &ServiceFacts,
    draft: &Draft,
    notes: &mut Vec<String>,
    asked_of: &mut Option<Proposal>,
) -> Result<Verdict, Verdict> {
    let spec = &facts.spec;
    let hold = |why: String| Err(Verdict::Hold(why));
    if let Some(why) = &facts.blocked {
        return hold(why.clone());
    }
    if facts.same_spec_at * 2 <= facts.members {
        return hold(format!(
            "SpecDrift: only {} of {} sites hold this spec; apply the same everywhere",
            facts.same_spec_at, facts.members
        ));
    }
    if spec.enforcement == Enforcement::Observe {
        return hold("enforcement is observe: decided and recorded, not done".into());
    }
    if spec.enforcement == Enforcement::Advise {
        return hold(ADVISED.into());
    }
    if draft.holders == facts.entry.holders {
        return hold(draft.reason.clone());
    }
    if let Some(profile) = spec.profile.filter(|profile| *profile != facts.profile) {
        return hold(format!("it is planned for timing profile {profile:?}, the sites run with {:?}", facts.profile));
    }
    // A site that restarted is named again: nobody's share is given away, no data move, and a pause keeps things as they
    // are.
    if matches!(draft.cause, Cause::Restarted(_)) {
        return Ok(Verdict::Act);
    }
    if let Some(why) = &facts.consent.paused {
        return hold(format!("paused: {why}"));
    }
    let request = facts.request().filter(|_| matches!(draft.cause, Cause::Asked(_)));
    gates(facts, draft, request, notes)?;
    if request.is_none() {
        timing(facts, draft)?;
        alone(facts, draft)?;
    }
    let allowed = consent(facts, draft, request, asked_of)?;
    drilled(facts, request)?;
    Ok(allowed)
}

/// The key of a site's drills is a machine's: its word alone starts nothing where two people have to.
fn drilled(facts: &ServiceFacts, request: Option<&MoveRequest>) -> Result<(), Verdict> {
    let Some(drill) = request.and_then(|request| request.drill.as_ref()) else { return Ok(()) };
    let people: BTreeSet<&String> = drill.approved_by.iter().collect();
    if facts.stability == Stability::Steady && people.len() < DRILL_APPROVALS {
        let (have, name) = (people.len(), &drill.name);
        return Err(Verdict::Propose(format!(
            "{have} of {DRILL_APPROVALS} approvals of the ticket of drill {name}: its service is steady"
        )));
    }
    Ok(())
}

/// Whether everybody who leaves can still stop by himself. What a person asks for after a loss is no planned move.
fn planned(facts: &ServiceFacts, draft: &Draft) -> bool {
    let mut leaving = facts.entry.holders.iter().filter(|old| draft.holders.iter().all(|new| new.site != old.site));
    draft.cause.is_planned() && leaving.all(|holder| facts.fresh(&holder.site) == Some(holder))
}

fn gates(
    facts: &ServiceFacts,
    draft: &Draft,
    request: Option<&MoveRequest>,
    notes: &mut Vec<String>,
) -> Result<(), Verdict> {
    let spec = &facts.spec;
    let entering =
        draft.holders.iter().map(|holder| holder.site.as_str()).filter(|site| facts.entry.at(site).is_none());
    let leaving = facts.entry.holders.iter().find(|old| draft.holders.iter().all(|new| new.site != old.site));
    let planned = planned(facts, draft);
    for site in entering {
        dependencies::gate(facts, site).map_err(Verdict::Wait)?;
        if spec.authority != Authority::Database {
            let from = leaving.map(|holder| holder.site.as_str());
            let accepted = request.and_then(|request| request.accept_loss);
            match data::gate(facts, site, from, planned, accepted) {
                Ok(told) => notes.extend(told),
                Err(why) => {
                    return Err(Verdict::Hold(format!(
                        "{why}; a person can accept a named loss: evergreen failover {} --to {site} --accept-loss 30s",
                        facts.name
                    )));
                }
            }
        }
        if draft.cause == Cause::FirstPlacement {
            continue;
        }
        if let Err(short) = capacity::gate(facts, site, &draft.holders) {
            let holds = match spec.capacity_gate.action {
                CapacityAction::Hold => true,
                CapacityAction::HoldPlanned => planned,
                CapacityAction::Warn => false,
            };
            let overridden = request.is_some_and(|request| request.accept_shortage);
            if holds && !overridden {
                return Err(Verdict::Hold(format!(
                    "capacity gate: {short}; a person can accept it: evergreen switchover {} --to {site} --accept-shortage",
                    facts.name
                )));
            }
            notes.push(format!("too little room: {short}"));
        }
    }
    Ok(())
}

/// What only time solves, for moves that nobody asked for.
fn timing(facts: &ServiceFacts, draft: &Draft) -> Result<(), Verdict> {
    let spec = &facts.spec;
    match &draft.cause {
        Cause::FirstPlacement => {
            let complete = facts.candidates.iter().all(|site| facts.can_serve(site));
            if !complete && facts.entry_stable_for < FIRST_PLACEMENT_PATIENCE {
                return Err(Verdict::Wait("the other sites are given a moment to come up".into()));
            }
        }
        Cause::Failback(site) => {
            if spec.failback.mode == FailbackMode::Manual {
                return Err(Verdict::Hold("failback.mode is manual".into()));
            }
            let fresh_for = facts.sites.get(site).map_or_else(Default::default, |facts| facts.fresh_for);
            if fresh_for < spec.failback.soak.get() {
                return Err(Verdict::Wait(format!("{site} has to be healthy for {} first", spec.failback.soak)));
            }
        }
        Cause::TooMany(_) if spec.failback.mode == FailbackMode::Gradual => {
            let steps = u32::try_from(spec.failback.steps().len()).unwrap_or(u32::MAX);
            let whole = spec.failback.soak.get() * steps;
            if facts.entered_for.values().any(|held| *held < whole) {
                return Err(Verdict::Wait(format!("the returned site takes its share in {steps} steps first")));
            }
        }
        _ => {}
    }
    let hold_down = spec.hold_down.get();
    let last = if draft.cause.is_planned() { Some(facts.entry_stable_for) } else { facts.moved_for };
    // A stateless service that loses another site goes on being served; a single writer that goes to and fro does harm.
    let held = draft.cause.is_planned() || spec.mode != ServiceMode::ActiveActive;
    if held && draft.cause != Cause::FirstPlacement && last.is_some_and(|last| last < hold_down) {
        let why = format!("the last move is less than holdDown ({}) ago", spec.hold_down);
        return Err(Verdict::Wait(why));
    }
    Ok(())
}

/// Never two sites at once in any automatic act.
fn alone(facts: &ServiceFacts, draft: &Draft) -> Result<(), Verdict> {
    match (&draft.cause, &facts.automatic_site) {
        (Cause::SiteLost(site), Some(other)) if other != site => Err(Verdict::Hold(format!(
            "never two sites at once: {other} is lost too and is being replaced; a person can ask for this move"
        ))),
        _ => Ok(()),
    }
}

fn consent(
    facts: &ServiceFacts,
    draft: &Draft,
    request: Option<&MoveRequest>,
    asked_of: &mut Option<Proposal>,
) -> Result<Verdict, Verdict> {
    let spec = &facts.spec;
    // A first placement gives nobody's share away; a database that elected its leader is followed.
    if matches!(draft.cause, Cause::FirstPlacement | Cause::DatabaseLed(_)) {
        return Ok(Verdict::Act);
    }
    if request.is_some_and(|request| request.break_glass) {
        return Ok(Verdict::Act);
    }
    let (which, mut policy) = if planned(facts, draft) {
        ("planned", spec.decision.planned)
    } else {
        ("unplanned", spec.decision.unplanned_of(facts.stability))
    };
    if spec.authority == Authority::Person && request.is_none() {
        return Err(Verdict::Hold("authority is person: a person has to ask for every move".into()));
    }
    if request.is_some_and(|request| request.accept_loss.is_some()) {
        // A named loss takes two people, always.
        policy = Policy::Approve;
    }
    match policy {
        Policy::Auto => Ok(Verdict::Act),
        Policy::Manual if request.is_some() => Ok(Verdict::Act),
        Policy::Manual => {
            Err(Verdict::Hold(format!("decision.{which} is manual: ask for it with `evergreen failover`")))
        }
        Policy::Approve => {
            let approval = &spec.decision.approval;
            let proposal = proposal::proposal(facts, draft, approval.people);
            let open_for = facts.consent.open_for.get(&proposal.id).copied().unwrap_or_default();
            let missing = usize::from(proposal.people).saturating_sub(proposal.approved_by.len());
            let expired = open_for >= approval.timeout.get();
            let (id, silence_is_no) = (proposal.id.clone(), approval.on_timeout == OnTimeout::Hold);
            *asked_of = Some(proposal);
            // What was approved in time stays approved; the executor may need longer than the proposal is open.
            if missing == 0 {
                return Ok(Verdict::Act);
            }
            if expired && silence_is_no {
                return Err(Verdict::Hold(format!(
                    "nobody approved within {}; ask for it with `evergreen failover`",
                    approval.timeout
                )));
            }
            if expired {
                return Ok(Verdict::Act);
            }
            Err(Verdict::Propose(format!("{missing} more to approve: evergreen approve {id}")))
        }
    }
}
