//! A service's database: what its hooks are asked at this moment, whether the site that leaves may release, and whether the
//! site that comes in may be granted anything. Fence first, then promote, then grant.
//!
//! Calls carry a token: the version of the group's entry, and a step that counts how often the own wish was turned within
//! that version. A hook refuses what is below the highest token that it has seen, so that a call that arrives late
//! changes nothing.

use std::time::Duration;

use evergreen_api::resources::{Authority, Enforcement};

use super::{Actor, Decision, Draft, Verdict};
use crate::failover::facts::{DatabaseFacts, HookCall, HookToken, HookVerb, HookWish, ServiceFacts};

/// A site that does not answer at all is given so long before its lease, which is over, has to be proof enough.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be done about a service's database now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseDuty {
    /// Calls to make; those that were answered are not asked for again.
    pub calls: Vec<HookCall>,
    /// What the own site wants of its database, to be remembered until the next look.
    pub wish: Option<HookWish>,
    /// Version of the entry under which grants may be given: the database was promoted under it. None while it was not.
    pub raised: Option<u64>,
    /// Where it stands, for people.
    pub told: String,
}

/// What is to be done; none where grants do not wait for a database: without hooks, where the database elects by itself, or
/// while nothing is enforced.
pub fn duty(facts: &ServiceFacts, decision: Option<&Decision>) -> Option<DatabaseDuty> {
    let known = led(facts)?;
    let version = facts.entry.version;
    let own = known.own.as_str();
    let Some(alive) = facts.fresh(own) else {
        return Some(DatabaseDuty {
            told: "this site is not in quorum: nothing is asked".into(),
            ..Default::default()
        });
    };
    match facts.entry.at(own) {
        Some(named) if named != alive => {
            // A restarted site is named again first; its database stays as it is until then.
            Some(DatabaseDuty { told: "waits for the map to name this site again".into(), ..Default::default() })
        }
        Some(_) => {
            let leaving = decision.filter(|decision| leaves(decision, own));
            let wish = wish(known, version, leaving.is_some());
            Some(match leaving {
                Some(decision) => {
                    let to = decision.holders.first().map_or("", |holder| holder.site.as_str());
                    fence(facts, known, own, wish.token(), to, Some(wish))
                }
                None => lead(facts, known, wish),
            })
        }
        None => {
            let holder = facts.entry.holders.first()?;
            Some(fence(facts, known, own, HookToken { epoch: version, step: 0 }, &holder.site, None))
        }
    }
}

/// Facts of the hooks, where this group's database is led by us.
fn led(facts: &ServiceFacts) -> Option<&DatabaseFacts> {
    let enforced = facts.spec.enforcement == Enforcement::Enforce && facts.spec.authority != Authority::Database;
    facts.spec.database.as_ref().filter(|_| enforced)?;
    facts.database.as_ref()
}

fn leaves(decision: &Decision, own: &str) -> bool {
    let mine = matches!(&decision.actor, Actor::Leaver(site) if site == own);
    mine && (decision.verdict == Verdict::Act || decision.demotes)
}

/// The wish with its step: one more each time it is turned within a version.
fn wish(known: &DatabaseFacts, version: u64, leaving: bool) -> HookWish {
    let step = match known.wish {
        Some(last) if last.epoch == version => last.step + u32::from(last.leaving != leaving),
        _ => 0,
    };
    HookWish { epoch: version, step, leaving }
}

/// Demoted, and proven to be: the database at `site` follows `to` from here on.
fn fence(
    facts: &ServiceFacts,
    known: &DatabaseFacts,
    site: &str,
    token: HookToken,
    to: &str,
    wish: Option<HookWish>,
) -> DatabaseDuty {
    let call =
        |verb| HookCall { group: facts.group.clone(), site: site.to_owned(), verb, token, holder: to.to_owned() };
    let (calls, told) =
        match (known.answered(site, HookVerb::Demote, token), known.answered(site, HookVerb::ProveFenced, token)) {
            (None, _) => (vec![call(HookVerb::Demote)], known.waiting(site, HookVerb::Demote)),
            (Some(_), None) => (vec![call(HookVerb::ProveFenced)], known.waiting(site, HookVerb::ProveFenced)),
            (Some(_), Some(proof)) => (Vec::new(), format!("fenced at {site}: {}", proof.evidence)),
        };
    DatabaseDuty { calls, wish, raised: None, told }
}

/// Every other site is fenced or silent, then the own database is promoted.
fn lead(facts: &ServiceFacts, known: &DatabaseFacts, wish: HookWish) -> DatabaseDuty {
    let own = known.own.as_str();
    if known.answered(own, HookVerb::Promote, wish.token()).is_some() {
        let told = format!("{own} leads under epoch {}", wish.epoch);
        return DatabaseDuty { calls: Vec::new(), wish: Some(wish), raised: Some(wish.epoch), told };
    }
    let mut duty = DatabaseDuty { wish: Some(wish), ..DatabaseDuty::default() };
    let mut waits = Vec::new();
    for other in facts.candidates.iter().filter(|site| site.as_str() != own) {
        let token = HookToken { epoch: wish.epoch, step: 0 };
        let at = fence(facts, known, other, token, own, None);
        if at.calls.is_empty() {
            continue;
        }
        // A lost site answers nothing: it goes on being asked, and is not waited for.
        if known.silent_for(other).is_none_or(|silent| silent < PATIENCE) {
            waits.push(at.told);
        }
        duty.calls.extend(at.calls);
    }
    if waits.is_empty() {
        let (group, site, verb) = (facts.group.clone(), own.to_owned(), HookVerb::Promote);
        duty.calls.push(HookCall { group, site, verb, token: wish.token(), holder: own.to_owned() });
        waits.push(known.waiting(own, HookVerb::Promote));
    }
    duty.told = waits.join("; ");
    duty
}

/// Whether the site that leaves may release the group: its database is fenced, and the one that comes in has everything
/// that it wrote.
pub(super) fn release(facts: &ServiceFacts, draft: &Draft) -> Result<(), String> {
    let Some(known) = led(facts) else { return Ok(()) };
    let own = known.own.as_str();
    if !matches!(&draft.actor, Actor::Leaver(site) if site == own) {
        return Ok(());
    }
    let token = wish(known, facts.entry.version, true).token();
    let say = |verb| format!("database: {}", known.waiting(own, verb));
    let demoted = known.answered(own, HookVerb::Demote, token).ok_or_else(|| say(HookVerb::Demote))?;
    known.answered(own, HookVerb::ProveFenced, token).ok_or_else(|| say(HookVerb::ProveFenced))?;
    let complete = facts.spec.rpo().is_some_and(|rpo| rpo.is_zero());
    for holder in draft.holders.iter().filter(|_| complete) {
        let at = facts.sites.get(&holder.site).and_then(|site| site.data.as_ref()).and_then(|data| data.position());
        if let (Some(last), Some(at)) = (demoted.position, at)
            && at < last
        {
            return Err(format!("database: {} is at {at}, {own} wrote up to {last}", holder.site));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::{
        facts::{DataFacts, HookAnswer, HookTrouble},
        planner::{
            plan,
            testing::{request, single},
        },
    };

    fn facts(own: &str, holder: &str) -> ServiceFacts {
        let mut facts = single("account", &[holder]);
        facts.spec.database =
            Some(serde_json::from_value(serde_json::json!({"endpoint": {"url": "http://h"}})).unwrap());
        facts.database = Some(DatabaseFacts { own: own.into(), ..DatabaseFacts::default() });
        facts
    }

    fn answer(facts: &mut ServiceFacts, call: &HookCall, position: Option<u64>) {
        let answer =
            HookAnswer { verb: call.verb, token: call.token, position, evidence: "pg_is_in_recovery() = t".into() };
        facts.database.as_mut().unwrap().answers.entry(call.site.clone()).or_default().push(answer);
    }

    fn calls(duty: &DatabaseDuty) -> Vec<(&str, HookVerb, u64, u32)> {
        duty.calls.iter().map(|call| (call.site.as_str(), call.verb, call.token.epoch, call.token.step)).collect()
    }

    /// Answers whatever is asked until nothing more is; answers everything that was asked.
    fn settle(facts: &mut ServiceFacts) -> Vec<(String, HookVerb)> {
        let mut asked = Vec::new();
        for _ in 0..20 {
            let decision = plan(facts);
            let duty = duty(facts, decision.as_ref()).unwrap();
            facts.database.as_mut().unwrap().wish = duty.wish;
            if duty.calls.is_empty() {
                return asked;
            }
            for call in &duty.calls {
                asked.push((call.site.clone(), call.verb));
                answer(facts, call, None);
            }
        }
        panic!("it never settles: {asked:?}");
    }

    #[test]
    fn the_others_are_fenced_before_the_own_database_is_promoted_and_only_then_is_granted() {
        let mut facts = facts("a", "a");
        let first = duty(&facts, None).unwrap();
        assert_eq!(calls(&first), [("b", HookVerb::Demote, 1, 0), ("c", HookVerb::Demote, 1, 0)]);
        assert_eq!(first.raised, None);
        let asked = settle(&mut facts);
        assert_eq!(asked.last().unwrap(), &("a".to_owned(), HookVerb::Promote));
        assert_eq!(asked.iter().filter(|(_, verb)| *verb == HookVerb::ProveFenced).count(), 2);
        assert_eq!(duty(&facts, None).unwrap().raised, Some(1));
        facts.entry.version = 2;
        assert_eq!(duty(&facts, None).unwrap().raised, None, "each version is raised anew");
    }

    #[test]
    fn a_site_that_is_silent_is_not_waited_for_and_one_that_answers_no_is() {
        let mut facts = facts("a", "a");
        let answered = ["b"].map(|site| (site.to_owned(), Duration::from_secs(3)));
        facts.database.as_mut().unwrap().silent = answered.into();
        let (b, c) = (("b", HookVerb::Demote, 1, 0), ("c", HookVerb::Demote, 1, 0));
        assert_eq!(calls(&duty(&facts, None).unwrap()), [b, c]);
        facts.database.as_mut().unwrap().silent.insert("c".into(), PATIENCE);
        assert_eq!(calls(&duty(&facts, None).unwrap()), [b, c, ("a", HookVerb::Promote, 1, 0)]);
        let no = HookTrouble { verb: HookVerb::Demote, why: "it answers for epoch 9, asked for 1".into() };
        let known = facts.database.as_mut().unwrap();
        known.silent.remove("c");
        known.troubles.insert("c".into(), no);
        let held = duty(&facts, None).unwrap();
        assert!(held.raised.is_none() && held.told.contains("epoch 9"), "{held:?}");
        assert_eq!(calls(&held), [b, c]);
    }

    #[test]
    fn a_planned_move_demotes_and_proves_before_it_releases() {
        let mut facts = facts("a", "a");
        settle(&mut facts);
        facts.consent.request = Some(request(Some("b")));
        let held = plan(&facts).unwrap();
        assert!(matches!(&held.verdict, Verdict::Wait(why) if why.contains("demote at a")), "{:?}", held.verdict);
        let asked = duty(&facts, Some(&held)).unwrap();
        assert_eq!(calls(&asked), [("a", HookVerb::Demote, 1, 1)], "the step is one higher than that of the promotion");
        assert_eq!((asked.calls[0].holder.as_str(), asked.raised), ("b", None));
        settle(&mut facts);
        assert_eq!(plan(&facts).unwrap().verdict, Verdict::Act);
        // Another site's controller does not know, and does not have to: only who leaves releases.
        facts.database = Some(DatabaseFacts { own: "b".into(), ..DatabaseFacts::default() });
        assert_eq!(plan(&facts).unwrap().verdict, Verdict::Act);
    }

    #[test]
    fn a_move_that_is_called_off_promotes_again_under_a_higher_step() {
        let mut facts = facts("a", "a");
        settle(&mut facts);
        facts.consent.request = Some(request(Some("b")));
        settle(&mut facts);
        facts.consent.request = None;
        let back = duty(&facts, plan(&facts).as_ref()).unwrap();
        assert_eq!(back.raised, None);
        assert!(calls(&back).contains(&("a", HookVerb::Promote, 1, 2)), "{back:?}");
    }

    #[test]
    fn what_the_old_database_wrote_last_must_have_arrived() {
        let mut facts = facts("a", "a");
        settle(&mut facts);
        facts.consent.request = Some(request(Some("b")));
        for _ in 0..2 {
            let decision = plan(&facts);
            let duty = duty(&facts, decision.as_ref()).unwrap();
            facts.database.as_mut().unwrap().wish = duty.wish;
            for call in &duty.calls {
                answer(&mut facts, call, Some(101));
            }
        }
        assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Wait(why) if why.contains("b is at 100")));
        if let Some(DataFacts::Answer(at)) = &mut facts.sites.get_mut("b").unwrap().data {
            at.position = Some(101);
        }
        assert_eq!(plan(&facts).unwrap().verdict, Verdict::Act);
    }

    #[test]
    fn who_does_not_hold_the_group_fences_its_own_database() {
        let mut facts = facts("b", "a");
        assert_eq!(calls(&duty(&facts, None).unwrap()), [("b", HookVerb::Demote, 1, 0)]);
        settle(&mut facts);
        assert!(duty(&facts, None).unwrap().told.contains("fenced at b"));
    }

    #[test]
    fn nobody_is_asked_out_of_quorum_under_an_old_life_or_where_the_database_elects() {
        let mut out = facts("a", "a");
        out.sites.get_mut("a").unwrap().fresh = None;
        assert!(duty(&out, None).unwrap().calls.is_empty());
        let mut restarted = facts("a", "a");
        restarted.sites.get_mut("a").unwrap().fresh = Some(crate::failover::planner::testing::holder("a", 2));
        assert!(duty(&restarted, None).unwrap().calls.is_empty());
        let mut elects = facts("a", "a");
        elects.spec.authority = Authority::Database;
        assert_eq!(duty(&elects, None), None);
        let mut watched = facts("a", "a");
        watched.spec.enforcement = Enforcement::Observe;
        assert_eq!(duty(&watched, None), None);
    }
}
