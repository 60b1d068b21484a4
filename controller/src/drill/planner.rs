//! Decides what a drill does next. Pure: the same facts give the same decision.
//!
//! One site at a time; never while a real incident is on, never at tolerance zero, never outside of its
//! windows; where a service is steady, two people other than the one who asked start it.

use std::time::Duration;

use evergreen_api::resources::{DrillMode, DrillPhase, DrillResult};
use serde::{Deserialize, Serialize};

use super::{
    calendar,
    facts::{DrillFacts, TicketFacts},
};
use crate::failover::DRILL_APPROVALS;

/// Nothing ends sooner after moving back was asked for: what was already being carried out has to show first.
const SETTLE: Duration = Duration::from_secs(3);

/// What a drill does next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Nothing, for this reason.
    Stay(String),
    /// Open a ticket, for this person or, if none, for the schedule.
    OpenTicket(Option<String>),
    /// Say to the fleet that this drill wants to begin.
    Claim,
    /// Another drill said so too: take it back.
    Withdraw(String),
    /// Begin: services leave the site.
    Begin,
    /// All have left: hold.
    Hold,
    /// Bring them back.
    Return,
    /// An objective is breached: bring them back at once.
    Abort(String),
    /// Over.
    End(DrillResult, String),
}

/// Decides.
pub fn next(facts: &DrillFacts) -> Next {
    match facts.phase {
        DrillPhase::Idle => idle(facts),
        DrillPhase::Waiting => waiting(facts),
        DrillPhase::Moving | DrillPhase::Holding | DrillPhase::Returning => under_way(facts),
    }
}

fn idle(facts: &DrillFacts) -> Next {
    if facts.deleted {
        return Next::Stay("being deleted".into());
    }
    if let Some(by) = &facts.asked_by {
        return Next::OpenTicket(Some(by.clone()));
    }
    let Some(schedule) = &facts.spec.schedule else {
        return Next::Stay("no schedule: it runs when a person asks".into());
    };
    if facts.spec.suspend {
        return Next::Stay("suspended".into());
    }
    match calendar::fired(schedule, facts.since, facts.now) {
        Ok(true) => Next::OpenTicket(None),
        Ok(false) => Next::Stay("waits for its time".into()),
        Err(why) => Next::Stay(why),
    }
}

fn waiting(facts: &DrillFacts) -> Next {
    let Some(ticket) = &facts.ticket else { return Next::End(DrillResult::Refused, "there is no ticket".into()) };
    if let Some(why) = &facts.abort {
        return Next::End(DrillResult::Refused, why.clone());
    }
    if facts.deleted {
        return Next::End(DrillResult::Refused, "the spec is deleted".into());
    }
    if ticket.open_for >= facts.spec.ticket_lasts.get() {
        let why = format!("nobody could start it within {}", facts.spec.ticket_lasts);
        return Next::End(DrillResult::Refused, why);
    }
    if let Some(why) = refusal(facts) {
        return Next::End(DrillResult::Refused, why);
    }
    match patience(facts, ticket) {
        Some(why) => Next::Stay(why),
        None if facts.spec.mode == DrillMode::Tabletop => {
            Next::End(DrillResult::Passed, "tabletop: it could have begun, nothing was moved".into())
        }
        None => Next::Claim,
    }
}

/// What makes a drill impossible whoever waits.
fn refusal(facts: &DrillFacts) -> Option<String> {
    if facts.tolerance == 0 {
        return Some("tolerance is zero: one more loss would leave nobody to decide; no drill is made then".into());
    }
    if facts.services.is_empty() {
        return Some(format!("no service is held by {}", facts.spec.site));
    }
    for (name, service) in &facts.services {
        if !service.enforced {
            return Some(format!("{name} is not enforced: its controllers would not move it"));
        }
        if !service.holders.contains(&facts.spec.site) {
            return Some(format!("{name} is not held by {}", facts.spec.site));
        }
        if service.sites.len() <= service.min_active {
            return Some(format!("{name} has no other site to go to"));
        }
    }
    None
}

/// What the ticket waits for; none when it may begin.
fn patience(facts: &DrillFacts, ticket: &TicketFacts) -> Option<String> {
    if let Some(why) = &facts.stopped {
        return Some(format!("stopped: {why}"));
    }
    if let Some(why) = &facts.incident {
        return Some(format!("a real incident goes first: {why}"));
    }
    if let Some(other) = &facts.other_drill {
        return Some(format!("one site at a time: {other} is under way"));
    }
    let longest = facts.spec.move_within.get() * 2 + facts.spec.hold_for.get();
    let steady = facts.services.values().any(|service| service.steady);
    if steady && facts.spec.windows.is_empty() {
        return Some("a steady service is drilled in a window only: set spec.windows".into());
    }
    match calendar::may_start(&facts.spec, facts.now, longest) {
        Ok(Ok(())) => {}
        Ok(Err(why)) | Err(why) => return Some(why),
    }
    if let Some((name, why)) = facts.services.iter().find_map(|(name, one)| Some((name, one.closed.as_ref()?))) {
        return Some(format!("{name} cannot be moved now: {why}"));
    }
    if let (Some(rpo), Some((name, lag))) = (
        facts.spec.objectives.rpo,
        facts.services.iter().filter_map(|(name, one)| Some((name, one.lag?))).max_by_key(|(_, lag)| *lag),
    ) && lag > rpo.get()
    {
        return Some(format!("{name} is {} ms behind, the objective is {rpo}", lag.as_millis()));
    }
    let approvers = ticket.approved_by.iter().filter(|person| Some(*person) != ticket.by.as_ref()).count();
    let needed = needed(facts);
    (approvers < needed).then(|| format!("{approvers} of {needed} approvals by people other than the one who asked"))
}

/// People who have to approve.
pub fn needed(facts: &DrillFacts) -> usize {
    let of = |one: &super::facts::DrillServiceFacts| one.people.max(if one.steady { DRILL_APPROVALS } else { 0 });
    facts.services.values().map(of).max().unwrap_or(0)
}

/// What would keep a drill from beginning if it were asked for and approved now.
pub fn obstacle(facts: &DrillFacts) -> Option<String> {
    refusal(facts).or_else(|| {
        let by = Some(String::new());
        let all = (0..needed(facts)).map(|number| number.to_string()).collect();
        patience(facts, &TicketFacts { by, open_for: Duration::ZERO, approved_by: all })
    })
}

fn under_way(facts: &DrillFacts) -> Next {
    if let Some(why) = &facts.incident {
        return Next::End(DrillResult::Interrupted, why.clone());
    }
    if let Some(why) = &facts.stopped {
        return Next::End(DrillResult::Interrupted, format!("stopped: {why}"));
    }
    if facts.phase == DrillPhase::Returning {
        return returning(facts);
    }
    if facts.phase == DrillPhase::Moving && !facts.begun {
        return match (&facts.abort, facts.deleted, &facts.other_drill) {
            (Some(why), ..) => Next::End(DrillResult::Refused, why.clone()),
            (None, true, _) => Next::End(DrillResult::Refused, "the spec is deleted".into()),
            (None, false, Some(other)) => Next::Withdraw(format!("one site at a time: {other} is under way")),
            (None, false, None) => Next::Begin,
        };
    }
    if let Some(why) = &facts.abort {
        return Next::Abort(why.clone());
    }
    if facts.deleted {
        return Next::Abort("the spec is deleted".into());
    }
    if let Some(why) = breach(facts) {
        return Next::Abort(why);
    }
    let away = facts.services.values().all(|service| service.has_left(&facts.spec.site));
    match facts.phase {
        DrillPhase::Moving if away => Next::Hold,
        DrillPhase::Moving if facts.in_phase_for >= facts.spec.move_within.get() => {
            Next::Abort(format!("not all services had left within {}", facts.spec.move_within))
        }
        DrillPhase::Moving => Next::Stay(left_to_do(facts, "leave", |one| one.has_left(&facts.spec.site))),
        _ if facts.in_phase_for >= facts.spec.hold_for.get() => Next::Return,
        _ => Next::Stay(format!("{} s of {} held", facts.in_phase_for.as_secs(), facts.spec.hold_for)),
    }
}

fn returning(facts: &DrillFacts) -> Next {
    if facts.in_phase_for < SETTLE {
        return Next::Stay("waits for what is under way".into());
    }
    if facts.services.values().all(super::facts::DrillServiceFacts::is_back) {
        if facts.breaking_off {
            return Next::End(DrillResult::Aborted, "broken off; the services are back".into());
        }
        let missed = facts.spec.objectives.rto.filter(|rto| facts.probe.without_service > rto.get());
        return match missed {
            Some(rto) => {
                let took = facts.probe.without_service.as_millis();
                Next::End(DrillResult::Failed, format!("{took} ms without service, the objective is {rto}"))
            }
            None => Next::End(DrillResult::Passed, "moved, held, came back".into()),
        };
    }
    if facts.in_phase_for >= facts.spec.move_within.get() {
        let left = left_to_do(facts, "come back", super::facts::DrillServiceFacts::is_back);
        return Next::End(
            DrillResult::Failed,
            format!("{left}, and {} have passed: move them by hand", facts.spec.move_within),
        );
    }
    Next::Stay(left_to_do(facts, "come back", super::facts::DrillServiceFacts::is_back))
}

fn left_to_do(facts: &DrillFacts, what: &str, done: impl Fn(&super::facts::DrillServiceFacts) -> bool) -> String {
    let names: Vec<&str> = facts.services.iter().filter(|(_, one)| !done(one)).map(|(name, _)| name.as_str()).collect();
    format!("{} of {} services have to {what}: {}", names.len(), facts.services.len(), names.join(", "))
}

/// An objective that does not hold, while services are moving away or are away.
fn breach(facts: &DrillFacts) -> Option<String> {
    let objectives = &facts.spec.objectives;
    if let (Some(most), Some(ratio)) = (objectives.max_error_percent, facts.probe.error_ratio)
        && ratio * 100.0 > f64::from(most)
    {
        return Some(format!("{:.0} % of probes failed in 5 s, at most {most} % may", ratio * 100.0));
    }
    if let Some(rto) = objectives.rto
        && facts.probe.without_service > rto.get()
    {
        return Some(format!("{} ms without service, the objective is {rto}", facts.probe.without_service.as_millis()));
    }
    let lag = facts.services.iter().filter_map(|(name, one)| Some((name, one.lag?))).max_by_key(|(_, lag)| *lag);
    match (objectives.rpo, lag) {
        (Some(rpo), Some((name, lag))) if facts.phase == DrillPhase::Holding && lag > rpo.get() => {
            Some(format!("{name} is {} ms behind, the objective is {rpo}", lag.as_millis()))
        }
        _ => None,
    }
}

/// How long a breach may go unanswered: the look of the executor and the window of the probe together are shorter.
pub const ABORT_WITHIN: Duration = Duration::from_secs(5);
