//! Decides who shall hold a stateless service's group. Pure: the same facts give the same decision.

use std::time::Duration;

use evergreen_api::resources::{Decision as Policy, Enforcement, FailbackMode, Stability};

use super::facts::ServiceFacts;
use crate::quorum::{Entry, Holder};

/// A group without holders waits this long for the rest of its sites, so that a fleet that starts is not placed twice.
const FIRST_PLACEMENT_PATIENCE: Duration = Duration::from_secs(10);

/// Who carries a decision out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The coordinator: the first site, by name, whose lease is fresh.
    Coordinator,
    /// The site that leaves the group: only it can release without being revoked.
    Leaver(String),
}

/// Why the map should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The group has no holder yet.
    FirstPlacement,
    /// A holder's site came back as a new incarnation.
    Restarted(String),
    /// A holder's site is lost.
    SiteLost(String),
    /// Fewer sites hold it than wanted.
    TooFew,
    /// A better site is back.
    Failback(String),
    /// More sites hold it than wanted: the least preferred one leaves.
    TooMany(String),
}

impl Cause {
    /// Planned moves can wait for people; unplanned ones restore service.
    pub fn is_planned(&self) -> bool {
        matches!(self, Self::Failback(_) | Self::TooMany(_))
    }
}

/// Whether a decision is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out.
    Act,
    /// Not yet; it will be carried out by itself.
    Wait(String),
    /// Not at all, until somebody changes something.
    Hold(String),
}

/// A wanted change of a group's entry, with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Failover group.
    pub group: String,
    /// Why.
    pub cause: Cause,
    /// The entry that it was decided on.
    pub old: Entry,
    /// Holders that it shall have.
    pub holders: Vec<Holder>,
    /// Who carries it out.
    pub actor: Actor,
    /// Whether it is carried out.
    pub verdict: Verdict,
    /// One sentence for people.
    pub reason: String,
    /// Sites that were considered and why they were not taken.
    pub rejected: Vec<String>,
}

/// Decides about one service; none when everything is as it should be.
pub fn plan(facts: &ServiceFacts) -> Option<Decision> {
    let spec = &facts.spec;
    if spec.mode.single_writer() {
        return None;
    }
    let wanted = spec.min_active as usize;
    let mut rejected = Vec::new();
    let candidates = candidates(facts, &mut rejected);
    let entry = &facts.entry;
    let decide = |cause: Cause, holders: Vec<Holder>, actor: Actor, reason: String, rejected: Vec<String>| {
        let verdict = verdict(facts, &cause);
        let group = facts.group.clone();
        (holders != entry.holders).then(|| Decision {
            group,
            cause,
            old: entry.clone(),
            holders,
            actor,
            verdict,
            reason,
            rejected,
        })
    };

    if entry.holders.is_empty() {
        let holders = sorted(candidates.iter().take(wanted).cloned());
        let reason = format!("no site holds it yet; the best {wanted} that can serve are {}", names(&holders));
        return decide(Cause::FirstPlacement, holders, Actor::Coordinator, reason, rejected);
    }
    for holder in &entry.holders {
        let site = facts.sites.get(&holder.site);
        match site.and_then(|site| site.fresh.as_ref()) {
            Some(current) if current == holder => {}
            Some(current) => {
                let others = entry.holders.iter().filter(|h| *h != holder).cloned();
                let holders = sorted(others.chain([current.clone()]));
                let reason = format!("{} restarted: epoch {} replaces {}", holder.site, current.epoch, holder.epoch);
                return decide(Cause::Restarted(holder.site.clone()), holders, Actor::Coordinator, reason, rejected);
            }
            None => {
                let silent = site.map_or_else(Default::default, |site| site.unfresh_for);
                let rest: Vec<Holder> = entry.holders.iter().filter(|h| *h != holder).cloned().collect();
                let spare = candidates.iter().find(|c| rest.iter().all(|h| h.site != c.site)).cloned();
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
                return decide(Cause::SiteLost(holder.site.clone()), holders, Actor::Coordinator, reason, rejected);
            }
        }
    }
    if entry.holders.len() < wanted {
        let missing = candidates.iter().find(|candidate| !entry.holders.contains(candidate))?;
        let holders = sorted(entry.holders.iter().cloned().chain([missing.clone()]));
        let reason = format!("{} of {wanted} wanted sites hold it; {} can serve", entry.holders.len(), missing.site);
        return decide(Cause::TooFew, holders, Actor::Coordinator, reason, rejected);
    }
    let rank = |holder: &Holder| spec.sites.iter().position(|site| *site == holder.site).unwrap_or(usize::MAX);
    let worst = entry.holders.iter().max_by_key(|holder| rank(holder))?;
    if entry.holders.len() > wanted {
        let holders = sorted(entry.holders.iter().filter(|holder| *holder != worst).cloned());
        // Nobody leaves before the ones that stay can serve.
        if !holders.iter().all(|holder| facts.can_serve(&holder.site)) {
            return None;
        }
        let count = entry.holders.len();
        let reason = format!("{count} sites hold it, {wanted} are wanted; {} is the least preferred", worst.site);
        let actor = Actor::Leaver(worst.site.clone());
        return decide(Cause::TooMany(worst.site.clone()), holders, actor, reason, rejected);
    }
    let better = |candidate: &&Holder| !entry.holders.contains(candidate) && rank(candidate) < rank(worst);
    let returning = candidates.iter().find(better)?;
    let soaked = facts.sites.get(&returning.site).map_or_else(Default::default, |site| site.fresh_for);
    let holders = sorted(entry.holders.iter().cloned().chain([returning.clone()]));
    let reason = format!("{} is preferred and has been healthy for {} s", returning.site, soaked.as_secs());
    decide(Cause::Failback(returning.site.clone()), holders, Actor::Coordinator, reason, rejected)
}

/// Sites that can serve, best first; the others are rejected with the reason.
fn candidates(facts: &ServiceFacts, rejected: &mut Vec<String>) -> Vec<Holder> {
    let mut candidates = Vec::new();
    for site in &facts.spec.sites {
        let Some(known) = facts.sites.get(site) else {
            rejected.push(format!("{site}: no such member data center"));
            continue;
        };
        let min = facts.spec.workload.min_ready;
        match (&known.fresh, known.ready) {
            (None, _) => rejected.push(format!("{site}: its lease is not fresh at a majority")),
            (Some(_), None) => rejected.push(format!("{site}: its workload cannot be read")),
            (Some(_), Some(ready)) if ready < min => {
                rejected.push(format!("{site}: {ready} of at least {min} replicas are ready"));
            }
            (Some(holder), Some(_)) => candidates.push(holder.clone()),
        }
    }
    candidates
}

fn verdict(facts: &ServiceFacts, cause: &Cause) -> Verdict {
    let spec = &facts.spec;
    let hold = |why: String| Verdict::Hold(why);
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
        return hold("enforcement is advise: recommended, not done".into());
    }
    let policy = if cause.is_planned() { spec.decision.planned } else { spec.decision.unplanned_of(Stability::Steady) };
    // A first placement and a restart give nobody's share away; they need no decision of a person.
    let moves = !matches!(cause, Cause::FirstPlacement | Cause::Restarted(_));
    if moves && policy != Policy::Auto {
        let which = if cause.is_planned() { "planned" } else { "unplanned" };
        return hold(format!("decision.{which} is not auto: set it to auto, or move the service by hand"));
    }
    let complete = spec.sites.iter().all(|site| facts.can_serve(site));
    if *cause == Cause::FirstPlacement && !complete && facts.entry_stable_for < FIRST_PLACEMENT_PATIENCE {
        return Verdict::Wait("the other sites are given a moment to come up".into());
    }
    if let Cause::Failback(site) = cause {
        if spec.failback.mode == FailbackMode::Manual {
            return hold("failback.mode is manual".into());
        }
        let fresh_for = facts.sites.get(site).map_or_else(Default::default, |facts| facts.fresh_for);
        if fresh_for < spec.failback.soak.get() {
            return Verdict::Wait(format!("{site} has to be healthy for {} first", spec.failback.soak));
        }
    }
    if cause.is_planned() && facts.entry_stable_for < spec.hold_down.get() {
        return Verdict::Wait(format!("the last move is less than holdDown ({}) ago", spec.hold_down));
    }
    Verdict::Act
}

fn sorted(holders: impl Iterator<Item = Holder>) -> Vec<Holder> {
    let mut holders: Vec<Holder> = holders.collect();
    holders.sort();
    holders
}

fn names(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "none".into();
    }
    holders.iter().map(|holder| holder.site.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use evergreen_api::resources::MultiActiveServiceSpec;
    use serde_json::json;

    use super::*;
    use crate::{failover::SiteFacts, quorum::Incarnation};

    fn holder(site: &str, epoch: u64) -> Holder {
        Holder { site: site.into(), epoch, incarnation: Incarnation(format!("{site}{epoch}")) }
    }

    fn alive(site: &str, epoch: u64) -> (String, SiteFacts) {
        let fresh_for = Duration::from_secs(60);
        let facts =
            SiteFacts { fresh: Some(holder(site, epoch)), fresh_for, unfresh_for: Duration::ZERO, ready: Some(2) };
        (site.to_owned(), facts)
    }

    fn lost(site: &str) -> (String, SiteFacts) {
        let unfresh_for = Duration::from_secs(4);
        (site.to_owned(), SiteFacts { fresh: None, fresh_for: Duration::ZERO, unfresh_for, ready: None })
    }

    fn facts(sites: [(String, SiteFacts); 3], holders: Vec<Holder>) -> ServiceFacts {
        let spec: MultiActiveServiceSpec = serde_json::from_value(json!({
            "mode": "ActiveActive", "kind": "query", "sites": ["a", "b", "c"], "minActive": 2,
            "workload": {"deployment": "d"}, "traffic": [], "enforcement": "enforce",
            "decision": {"planned": "auto", "unplanned": "auto"}, "holdDown": "5s",
            "failback": {"mode": "automatic", "soak": "5s"},
        }))
        .unwrap();
        ServiceFacts {
            group: "g".into(),
            spec,
            same_spec_at: 3,
            members: 3,
            entry: Entry { version: 1, holders, traceparent: None },
            entry_stable_for: Duration::from_secs(60),
            sites: sites.into(),
        }
    }

    #[test]
    fn the_first_placement_takes_the_best_sites_that_can_serve() {
        let decision = plan(&facts([alive("a", 1), lost("b"), alive("c", 1)], vec![])).unwrap();
        assert_eq!(decision.holders, [holder("a", 1), holder("c", 1)]);
        assert_eq!(decision.verdict, Verdict::Act);
        assert!(decision.rejected[0].starts_with("b:"));
    }

    #[test]
    fn the_first_placement_gives_sites_that_start_a_moment() {
        let mut starting = facts([alive("a", 1), lost("b"), alive("c", 1)], vec![]);
        starting.entry_stable_for = Duration::from_secs(3);
        assert!(matches!(plan(&starting).unwrap().verdict, Verdict::Wait(_)));
    }

    #[test]
    fn nothing_is_wanted_while_the_preferred_sites_hold_it() {
        assert_eq!(
            plan(&facts([alive("a", 1), alive("b", 1), alive("c", 1)], vec![holder("a", 1), holder("b", 1)])),
            None
        );
    }

    #[test]
    fn a_lost_site_is_replaced_by_the_best_other_one() {
        let decision =
            plan(&facts([alive("a", 1), lost("b"), alive("c", 1)], vec![holder("a", 1), holder("b", 1)])).unwrap();
        assert_eq!(decision.cause, Cause::SiteLost("b".into()));
        assert_eq!(decision.holders, [holder("a", 1), holder("c", 1)]);
        assert_eq!(decision.actor, Actor::Coordinator);
    }

    #[test]
    fn the_last_holder_is_never_removed() {
        assert_eq!(plan(&facts([lost("a"), lost("b"), lost("c")], vec![holder("a", 1)])), None);
    }

    #[test]
    fn a_returned_site_enters_first_and_only_then_the_stand_in_leaves() {
        let sites = || [alive("a", 1), alive("b", 3), alive("c", 1)];
        let enter = plan(&facts(sites(), vec![holder("a", 1), holder("c", 1)])).unwrap();
        assert_eq!(enter.cause, Cause::Failback("b".into()));
        assert_eq!(enter.holders, [holder("a", 1), holder("b", 3), holder("c", 1)]);
        let leave = plan(&facts(sites(), enter.holders)).unwrap();
        assert_eq!(leave.actor, Actor::Leaver("c".into()));
        assert_eq!(leave.holders, [holder("a", 1), holder("b", 3)]);
    }

    #[test]
    fn a_returned_site_waits_out_its_soak_and_the_hold_down() {
        let mut soaking = facts([alive("a", 1), alive("b", 3), alive("c", 1)], vec![holder("a", 1), holder("c", 1)]);
        soaking.sites.get_mut("b").unwrap().fresh_for = Duration::from_secs(4);
        assert!(matches!(plan(&soaking).unwrap().verdict, Verdict::Wait(why) if why.contains("healthy for 5s")));
        let mut recent = facts([alive("a", 1), alive("b", 3), alive("c", 1)], vec![holder("a", 1), holder("c", 1)]);
        recent.entry_stable_for = Duration::from_secs(4);
        assert!(matches!(plan(&recent).unwrap().verdict, Verdict::Wait(why) if why.contains("holdDown")));
    }

    #[test]
    fn a_holder_that_cannot_be_read_for_a_moment_loses_nothing() {
        let mut unread = facts([alive("a", 1), alive("b", 1), alive("c", 1)], vec![holder("a", 1), holder("b", 1)]);
        unread.sites.get_mut("b").unwrap().ready = None;
        assert_eq!(plan(&unread), None);
        let mut unready =
            facts([alive("a", 1), alive("b", 3), alive("c", 1)], vec![holder("a", 1), holder("b", 3), holder("c", 1)]);
        unready.sites.get_mut("b").unwrap().ready = Some(0);
        assert_eq!(plan(&unready), None, "nobody leaves before the ones that stay can serve");
    }

    #[test]
    fn a_restarted_site_is_named_again_under_its_new_epoch() {
        let decision =
            plan(&facts([alive("a", 1), alive("b", 4), alive("c", 1)], vec![holder("a", 1), holder("b", 2)])).unwrap();
        assert_eq!(decision.cause, Cause::Restarted("b".into()));
        assert_eq!(decision.holders, [holder("a", 1), holder("b", 4)]);
    }

    #[test]
    fn observing_and_manual_decisions_are_shown_and_not_carried_out() {
        let mut observed = facts([alive("a", 1), lost("b"), alive("c", 1)], vec![holder("a", 1), holder("b", 1)]);
        observed.spec.enforcement = Enforcement::Observe;
        assert!(matches!(plan(&observed).unwrap().verdict, Verdict::Hold(_)));
        observed.spec.enforcement = Enforcement::Enforce;
        observed.spec.decision.unplanned = Some(Policy::Manual);
        assert!(matches!(plan(&observed).unwrap().verdict, Verdict::Hold(why) if why.contains("unplanned")));
    }

    #[test]
    fn a_spec_that_no_majority_holds_is_not_acted_on() {
        let mut drifted = facts([alive("a", 1), lost("b"), alive("c", 1)], vec![holder("a", 1), holder("b", 1)]);
        drifted.same_spec_at = 1;
        assert!(matches!(plan(&drifted).unwrap().verdict, Verdict::Hold(why) if why.starts_with("SpecDrift")));
    }

    #[test]
    fn a_site_without_ready_replicas_is_no_candidate() {
        let mut short = facts([alive("a", 1), lost("b"), alive("c", 1)], vec![holder("a", 1), holder("b", 1)]);
        short.sites.get_mut("c").unwrap().ready = Some(0);
        let decision = plan(&short).unwrap();
        assert_eq!(decision.holders, [holder("a", 1)], "one holder stays, nobody unready is added");
        assert!(decision.rejected.iter().any(|r| r.contains("0 of at least 1")));
    }
}
