//! What a decision makes of a drill's status. Pure: written before anything is done.

use evergreen_api::resources::{
    DrillPhase, DrillResult, DrillStep, DrilledService, FailoverDrillSpec, FailoverDrillStatus, ProposalStatus,
    Scorecard,
};

use super::{
    calendar,
    facts::DrillFacts,
    observe::{digest, group_of},
    planner::{Next, needed},
};

/// Scorecards that are kept.
const HISTORY: usize = 20;
/// Steps that a scorecard keeps.
const STEPS: usize = 100;

/// Notes a step.
pub(super) fn step(card: &mut Scorecard, at: &str, by: &str, what: String) {
    if card.steps.len() < STEPS {
        card.steps.push(DrillStep { at: at.to_owned(), by: by.to_owned(), what });
    }
}

/// Takes a decision into the status.
pub(super) fn take(
    name: &str,
    spec: &FailoverDrillSpec,
    status: &mut FailoverDrillStatus,
    facts: &DrillFacts,
    next: &Next,
    at: &str,
) {
    let card = status.current.get_or_insert_default();
    match next {
        Next::Stay(_) => {}
        Next::OpenTicket(by) => {
            status.tickets += 1;
            let ticket = format!("{name}-{}", status.tickets);
            let by = by.clone().unwrap_or_else(|| "schedule".to_owned());
            *card = Scorecard {
                digest: digest(name, &ticket, spec),
                ticket,
                requested_by: by.clone(),
                opened_at: at.to_owned(),
                ..Scorecard::default()
            };
            let who = if by == "schedule" { "controller" } else { &by };
            step(card, at, who, "opened the ticket".into());
            status.looked_at = Some(at.to_owned());
            status.phase = DrillPhase::Waiting;
        }
        Next::Claim => {
            let of = |(group, known): (&String, &super::facts::DrillServiceFacts)| DrilledService {
                name: group.clone(),
                before: known.holders.iter().cloned().collect(),
                away: Vec::new(),
            };
            card.services = facts.services.iter().map(of).collect();
            status.phase = DrillPhase::Moving;
        }
        Next::Withdraw(_) => {
            card.services.clear();
            status.phase = DrillPhase::Waiting;
        }
        Next::Begin => {
            card.started_at = Some(at.to_owned());
            card.rpo_ms = lag(facts);
            step(card, at, "controller", format!("begins: services leave {}", spec.site));
        }
        Next::Hold => {
            card.moved_at = Some(at.to_owned());
            away(card, facts);
            step(card, at, "controller", format!("all have left {}; holds for {}", spec.site, spec.hold_for));
            status.phase = DrillPhase::Holding;
        }
        Next::Return | Next::Abort(_) => {
            card.returning_at = Some(at.to_owned());
            card.rpo_ms = card.rpo_ms.max(lag(facts));
            away(card, facts);
            match next {
                Next::Abort(why) => {
                    card.reason.clone_from(why);
                    card.abort_ms.get_or_insert(0);
                    step(card, at, "controller", format!("breaks off: {why}"));
                }
                _ => step(card, at, "controller", "brings the services back".into()),
            }
            status.phase = DrillPhase::Returning;
        }
        Next::End(result, why) => {
            end(status, facts, *result, why, at);
            return;
        }
    }
    if status.phase == DrillPhase::Waiting {
        propose(name, spec, status, facts);
    } else {
        status.proposal = None;
    }
    if status.phase == DrillPhase::Idle {
        status.current = None;
    }
}

fn lag(facts: &DrillFacts) -> Option<u64> {
    facts
        .services
        .values()
        .filter_map(|one| one.lag)
        .max()
        .map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX))
}

fn away(card: &mut Scorecard, facts: &DrillFacts) {
    for drilled in &mut card.services {
        if let Some(known) = facts.services.get(&drilled.name).filter(|known| known.has_left(&facts.spec.site)) {
            drilled.away = known.holders.iter().cloned().collect();
        }
    }
}

fn end(status: &mut FailoverDrillStatus, facts: &DrillFacts, result: DrillResult, why: &str, at: &str) {
    if let Some(mut card) = status.current.take() {
        card.ended_at = Some(at.to_owned());
        if card.returning_at.is_some() && facts.services.values().all(super::facts::DrillServiceFacts::is_back) {
            card.returned_at = Some(at.to_owned());
        }
        card.result = Some(result);
        // Why it was broken off says more than that it was.
        card.reason = if card.reason.is_empty() { why.to_owned() } else { format!("{}; {why}", card.reason) };
        step(&mut card, at, "controller", format!("ends: {why}"));
        status.history.insert(0, card);
        status.history.truncate(HISTORY);
    }
    status.last_result = Some(result);
    status.phase = DrillPhase::Idle;
    status.proposal = None;
    status.message = format!("the last drill ended: {why}");
    status.looked_at = Some(at.to_owned());
}

/// What people are asked to approve.
fn propose(name: &str, spec: &FailoverDrillSpec, status: &mut FailoverDrillStatus, facts: &DrillFacts) {
    let Some(card) = &status.current else { return };
    let people = needed(facts);
    let groups: Vec<&str> = facts.services.keys().map(String::as_str).collect();
    status.proposal = (people > 0).then(|| ProposalStatus {
        id: card.digest.clone(),
        group: group_of(name),
        entry_version: status.tickets,
        summary: format!(
            "drill {}: {} leave {} for {} and come back",
            card.ticket,
            groups.join(", "),
            spec.site,
            spec.hold_for
        ),
        people: u8::try_from(people).unwrap_or(u8::MAX),
        approved_by: card.approvers.clone(),
        then: format!("open for {}; then it is closed and nothing moves", spec.ticket_lasts),
    });
}

/// When the schedule opens the next ticket.
pub(super) fn next_run(spec: &FailoverDrillSpec, now: jiff::Timestamp) -> Option<String> {
    let schedule = spec.schedule.as_ref().filter(|_| !spec.suspend)?;
    calendar::next_run(schedule, now).ok().map(|next| next.to_string())
}
