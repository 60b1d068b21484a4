//! Puts together what the drill planner may know: from the drill's object, a look at the failover loop, and what people said.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evergreen_api::{
    names::{DRILL_GROUP_PREFIX, DRILL_SIGNER_PREFIX},
    resources::{
        DrillPhase, Enforcement, FailoverDrill, FailoverDrillSpec, FailoverDrillStatus, Scorecard, Stability, spec_hash,
    },
};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use super::facts::{DrillFacts, DrillServiceFacts, ProbeFacts, TicketFacts};
use crate::{
    consent::ConsentBook,
    failover::{DataFacts, DrillMark, Look, MoveRequest, Seen, Verdict},
    quorum::Mono,
};

/// A site that was never seen in quorum is given this long before its absence is an incident.
const COMES_UP: Duration = Duration::from_secs(15);

/// What is known beside the object and the look.
pub(super) struct Around<'a> {
    pub site: &'a str,
    pub book: &'a ConsentBook,
    pub now: Mono,
    pub wall: Timestamp,
    /// How long the drill has been in its phase.
    pub in_phase_for: Duration,
    pub probe: ProbeFacts,
    pub other_drill: Option<String>,
    pub stopped: Option<String>,
    /// Why the drill's word does not count.
    pub mute: Option<String>,
    /// Sites that this controller has seen in quorum.
    pub seen: &'a BTreeSet<String>,
}

/// Failover group that people name in statements about a drill.
pub(super) fn group_of(name: &str) -> String {
    format!("{DRILL_GROUP_PREFIX}{name}")
}

/// Name under which the drills of a site sign.
pub(super) fn signer_of(site: &str) -> String {
    format!("{DRILL_SIGNER_PREFIX}{site}")
}

/// Digest of what a ticket is about: approvals say yes to this and nothing else.
pub(super) fn digest(name: &str, ticket: &str, spec: &FailoverDrillSpec) -> String {
    spec_hash(&json!({"drill": name, "ticket": ticket, "site": spec.site, "services": spec.services, "mode": spec.mode,
        "holdFor": spec.hold_for, "moveWithin": spec.move_within, "objectives": spec.objectives, "probe": spec.probe,
        "windows": spec.windows}))
}

/// The request of a drill for its dry run.
pub(super) fn request(name: &str, spec: &FailoverDrillSpec, card: Option<&Scorecard>) -> MoveRequest {
    MoveRequest {
        id: "drill".into(),
        by: signer_of(&spec.site),
        to: None,
        from: Some(spec.site.clone()),
        accept_loss: None,
        accept_shortage: false,
        break_glass: false,
        drill: Some(DrillMark {
            name: name.to_owned(),
            ticket: card.map(|card| card.digest.clone()).unwrap_or_default(),
            hold: false,
            traceparent: None,
            approved_by: card.map(|card| card.approvers.clone()).unwrap_or_default(),
        }),
    }
}

/// Facts of a drill.
pub(super) fn facts(drill: &FailoverDrill, look: &Look, around: &Around) -> DrillFacts {
    let (name, spec) = (drill.name_any(), &drill.spec);
    let status = drill.status.clone().unwrap_or_default();
    let card = status.current.as_ref();
    let begun = card.is_some_and(|card| card.started_at.is_some());
    let services = groups(&name, spec, &status, look, around.mute.as_ref());
    let ticket = card.map(|card| TicketFacts {
        by: (card.requested_by != "schedule").then(|| card.requested_by.clone()),
        open_for: age(&card.opened_at, around.wall),
        approved_by: card.approvers.iter().cloned().collect(),
    });
    let changed = card.is_some_and(|card| card.digest != digest(&name, &card.ticket, spec));
    let said = spec.abort.as_ref().filter(|abort| card.is_some_and(|card| card.ticket == abort.ticket));
    let abort = said
        .map(|abort| format!("broken off by {}: {}", abort.by, abort.reason))
        .or_else(|| changed.then(|| "its spec was changed after the ticket was opened".to_owned()));
    let since = status.looked_at.as_deref().and_then(|text| text.parse().ok());
    let asked = around.book.request(&group_of(&name), status.tickets, around.now);
    DrillFacts {
        spec: spec.clone(),
        phase: status.phase,
        begun,
        in_phase_for: around.in_phase_for,
        now: around.wall,
        since: since.unwrap_or(around.wall),
        ticket,
        asked_by: asked.filter(|request| request.drill.is_none()).map(|request| request.by),
        abort,
        deleted: drill.metadata.deletion_timestamp.is_some(),
        tolerance: look.tolerance,
        incident: incident(&name, &status, look, around),
        other_drill: around.other_drill.clone(),
        stopped: around.stopped.clone(),
        probe: around.probe,
        breaking_off: card.is_some_and(|card| card.abort_ms.is_some()),
        services,
    }
}

/// How long ago, on the wall clock of the one who wrote it and reads it again: for tickets, which last for hours.
fn age(text: &str, now: Timestamp) -> Duration {
    let at: Option<Timestamp> = text.parse().ok();
    at.and_then(|at| Duration::try_from(now.duration_since(at)).ok()).unwrap_or_default()
}

fn groups(
    name: &str,
    spec: &FailoverDrillSpec,
    status: &FailoverDrillStatus,
    look: &Look,
    mute: Option<&String>,
) -> BTreeMap<String, DrillServiceFacts> {
    let card = status.current.as_ref();
    if let Some(card) = card.filter(|card| !card.services.is_empty()) {
        let of = |drilled: &evergreen_api::resources::DrilledService| {
            let mut known =
                look.groups.get(&drilled.name).map(|seen| group(name, spec, card, seen)).unwrap_or_default();
            known.before = drilled.before.iter().cloned().collect();
            (drilled.name.clone(), known)
        };
        return card.services.iter().map(of).collect();
    }
    let blank = Scorecard::default();
    let wanted = |seen: &&Seen| {
        seen.facts.entry.at(&spec.site).is_some()
            && (spec.services.is_empty()
                || spec.services.iter().any(|one| format!("{}/{}", one.namespace, one.name) == seen.service))
    };
    let all = look.groups.values().filter(wanted);
    all.map(|seen| {
        let mut known = group(name, spec, card.unwrap_or(&blank), seen);
        if let Some(why) = mute {
            known.closed = Some(why.clone());
        }
        (seen.facts.group.clone(), known)
    })
    .collect()
}

fn group(name: &str, spec: &FailoverDrillSpec, card: &Scorecard, seen: &Seen) -> DrillServiceFacts {
    let facts = &seen.facts;
    let holders: BTreeSet<String> = facts.entry.holders.iter().map(|holder| holder.site.clone()).collect();
    let would = seen.would(request(name, spec, Some(card)));
    let (mut closed, mut people) = (None, 0);
    match would.as_ref().map(|decision| (&decision.verdict, decision)) {
        None => closed = Some(format!("nothing would move it away from {}", spec.site)),
        Some((Verdict::Act, _)) => {}
        Some((Verdict::Propose(_), decision)) => {
            people = decision.proposal.as_ref().map_or(0, |p| usize::from(p.people))
        }
        // A database that would be demoted first is on its way.
        Some((Verdict::Wait(_), decision)) if decision.demotes => {}
        Some((Verdict::Wait(why) | Verdict::Hold(why), _)) => closed = Some(why.clone()),
    }
    let target = match holders.contains(&spec.site) {
        true => would.as_ref().and_then(|decision| decision.entering().next().map(|holder| holder.site.clone())),
        // Away: what counts is the way back.
        false => Some(spec.site.clone()),
    };
    let lag = target.and_then(|site| match &facts.sites.get(&site)?.data {
        Some(DataFacts::Answer(at)) => Some(at.lag),
        _ => None,
    });
    DrillServiceFacts {
        holders,
        before: BTreeSet::new(),
        sites: facts.candidates.iter().cloned().collect(),
        min_active: if facts.spec.mode.single_writer() { 1 } else { facts.spec.min_active as usize },
        steady: facts.stability == Stability::Steady,
        enforced: facts.spec.enforcement == Enforcement::Enforce,
        moving: seen.moving(),
        people,
        closed,
        lag,
    }
}

/// Something real that goes first.
fn incident(name: &str, status: &FailoverDrillStatus, look: &Look, around: &Around) -> Option<String> {
    if !look.in_quorum {
        return Some(format!("{} is not in quorum", around.site));
    }
    for seen in look.groups.values() {
        for (site, known) in &seen.facts.sites {
            let lost = known.fresh.is_none() && (around.seen.contains(site) || known.unfresh_for > COMES_UP);
            if lost {
                return Some(format!("{site} does not renew its lease"));
            }
        }
    }
    let card = status.current.as_ref()?;
    let ours = |group: &str| card.services.is_empty() || card.services.iter().any(|one| one.name == group);
    for seen in look.groups.values().filter(|seen| ours(&seen.facts.group)) {
        let Some(asked) = &seen.facts.consent.request else { continue };
        match &asked.drill {
            None => return Some(format!("{} asks for a move of {} by hand", asked.by, seen.facts.group)),
            Some(mark) if mark.name != name && !mark.hold => {
                return Some(format!("the drill {} moves {}", mark.name, seen.facts.group));
            }
            Some(_) => {}
        }
    }
    card.services.iter().find_map(|drilled| {
        let seen = look.groups.get(&drilled.name)?;
        let holders: Vec<String> = seen.facts.entry.holders.iter().map(|holder| holder.site.clone()).collect();
        let expected = match status.phase {
            DrillPhase::Moving => holders == drilled.before || !holders.contains(&around.site.to_owned()),
            DrillPhase::Holding => drilled.away.is_empty() || holders == drilled.away,
            DrillPhase::Returning => holders == drilled.before || drilled.away.is_empty() || holders == drilled.away,
            DrillPhase::Idle | DrillPhase::Waiting => true,
        };
        (!expected)
            .then(|| format!("{} is held by {}, which is not the drill's doing", drilled.name, holders.join(", ")))
    })
}
