//! What the planner promises, case by case and for whatever facts there may be.

use std::time::Duration;

use evergreen_api::resources::{
    Authority, CapacityAction, Decision as Policy, Enforcement, FailbackMode, OnTimeout, Stability,
};
use proptest::prelude::*;

use super::{
    testing::{active, alive, answer, holder, lost, request, single},
    *,
};
use crate::failover::facts::{
    AcceptedLoss, Approved, DataFacts, DataPosition, DependencyFacts, DrillMark, SiteFacts, WorkloadFacts,
};

fn lose(facts: &mut ServiceFacts, site: &str) {
    let known = facts.sites.get_mut(site).unwrap();
    let data = known.data.take();
    let last = match data {
        Some(DataFacts::Answer(at)) => Some(at),
        _ => None,
    };
    *known = SiteFacts { data: last.map(|at| DataFacts::Silent { why: "gone".into(), last: Some(at) }), ..lost() };
}

#[track_caller]
fn holds(facts: &ServiceFacts, why: &str) {
    let decision = plan(facts).expect("a decision");
    assert!(matches!(&decision.verdict, Verdict::Hold(text) if text.contains(why)), "{:?}", decision.verdict);
}

#[track_caller]
fn acts(facts: &ServiceFacts) -> Vec<String> {
    let decision = plan(facts).expect("a decision");
    assert_eq!(decision.verdict, Verdict::Act, "{decision:?}");
    decision.holders.into_iter().map(|holder| holder.site).collect()
}

#[test]
fn the_first_placement_takes_the_best_sites_that_can_serve() {
    let mut facts = active(&[]);
    lose(&mut facts, "b");
    assert_eq!(acts(&facts), ["a", "c"]);
    assert!(plan(&facts).unwrap().rejected[0].starts_with("b:"));
    facts.entry_stable_for = Duration::from_secs(3);
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Wait(_)), "sites that start are given a moment");
}

#[test]
fn nothing_is_wanted_while_the_preferred_sites_hold_it() {
    assert_eq!(plan(&active(&["a", "b"])), None);
    assert_eq!(plan(&single("account", &["a"])), None);
}

#[test]
fn a_lost_site_is_replaced_by_the_best_other_one() {
    let mut facts = active(&["a", "b"]);
    lose(&mut facts, "b");
    let decision = plan(&facts).unwrap();
    assert_eq!((decision.cause, decision.actor), (Cause::SiteLost("b".into()), Actor::Coordinator));
    assert_eq!(acts(&facts), ["a", "c"]);
}

#[test]
fn the_last_holder_is_never_removed() {
    let mut facts = active(&["a"]);
    ["a", "b", "c"].iter().for_each(|site| lose(&mut facts, site));
    assert_eq!(plan(&facts), None);
}

#[test]
fn a_returned_site_enters_first_and_only_then_the_stand_in_leaves() {
    let mut facts = active(&["a", "c"]);
    facts.sites.insert("b".into(), alive(3)("b"));
    let enter = plan(&facts).unwrap();
    assert_eq!(enter.cause, Cause::Failback("b".into()));
    facts.entry.holders = enter.holders;
    assert_eq!(facts.entry.holders, [holder("a", 1), holder("b", 3), holder("c", 1)]);
    let leave = plan(&facts).unwrap();
    assert_eq!(leave.actor, Actor::Leaver("c".into()));
    assert_eq!(leave.holders, [holder("a", 1), holder("b", 3)]);
}

#[test]
fn a_returned_site_waits_out_its_soak_the_hold_down_and_its_steps() {
    let mut facts = active(&["a", "c"]);
    facts.sites.get_mut("b").unwrap().fresh_for = Duration::from_secs(4);
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Wait(why) if why.contains("healthy for 5s")));
    let mut recent = active(&["a", "c"]);
    recent.entry_stable_for = Duration::from_secs(4);
    assert!(matches!(plan(&recent).unwrap().verdict, Verdict::Wait(why) if why.contains("holdDown")));
    let mut steps = active(&["a", "b", "c"]);
    steps.spec.failback.mode = FailbackMode::Gradual;
    steps.entered_for.insert("b".into(), Duration::from_secs(14));
    assert!(matches!(plan(&steps).unwrap().verdict, Verdict::Wait(why) if why.contains("3 steps")));
    steps.entered_for.insert("b".into(), Duration::from_secs(15));
    assert_eq!(acts(&steps), ["a", "b"]);
}

#[test]
fn a_holder_that_cannot_be_read_for_a_moment_loses_nothing() {
    let mut unread = active(&["a", "b"]);
    unread.sites.get_mut("b").unwrap().ready = None;
    assert_eq!(plan(&unread), None);
    let mut unready = active(&["a", "b", "c"]);
    unready.sites.get_mut("b").unwrap().ready = Some(0);
    assert_eq!(plan(&unready), None, "nobody leaves before the ones that stay can serve");
}

#[test]
fn a_restarted_site_is_named_again_under_its_new_epoch_also_while_paused() {
    for mut facts in [active(&["a", "b"]), single("account", &["b"])] {
        facts.sites.insert("b".into(), SiteFacts { data: facts.sites["b"].data.clone(), ..alive(4)("b") });
        facts.consent.paused = Some("fleet, by li: storage is being moved".into());
        let decision = plan(&facts).unwrap();
        assert_eq!((&decision.cause, &decision.verdict), (&Cause::Restarted("b".into()), &Verdict::Act));
        assert!(decision.holders.contains(&holder("b", 4)));
    }
}

#[test]
fn a_site_without_ready_replicas_is_no_candidate() {
    let mut short = active(&["a", "b"]);
    lose(&mut short, "b");
    short.sites.get_mut("c").unwrap().ready = Some(0);
    assert_eq!(acts(&short), ["a"], "one holder stays, nobody unready is added");
    assert!(plan(&short).unwrap().rejected.iter().any(|r| r.contains("0 of at least 1")));
}

#[test]
fn observing_and_advising_do_nothing_not_even_what_is_asked() {
    for (enforcement, why) in [(Enforcement::Observe, "observe"), (Enforcement::Advise, "advise")] {
        let mut facts = single("account", &["a"]);
        facts.spec.enforcement = enforcement;
        facts.consent.request = Some(request(Some("b")));
        holds(&facts, why);
        facts.consent.request = None;
        lose(&mut facts, "a");
        holds(&facts, why);
    }
}

#[test]
fn a_single_writer_moves_as_a_whole_and_the_holder_itself_leaves_if_it_can() {
    let mut facts = single("account", &["a"]);
    lose(&mut facts, "a");
    assert_eq!(acts(&facts), ["b"]);
    assert_eq!(plan(&facts).unwrap().actor, Actor::Coordinator);
    let back = single("account", &["b"]);
    assert_eq!(acts(&back), ["a"]);
    assert_eq!(plan(&back).unwrap().actor, Actor::Leaver("b".into()));
}

#[test]
fn a_single_writer_takes_the_best_site_that_has_the_data() {
    let mut facts = single("account", &["a"]);
    lose(&mut facts, "a");
    facts.sites.get_mut("b").unwrap().data = Some(DataFacts::Answer(answer(9)));
    assert_eq!(acts(&facts), ["c"]);
    assert!(plan(&facts).unwrap().rejected.iter().any(|why| why.starts_with("b: data gate")));
    facts.sites.get_mut("c").unwrap().data = Some(DataFacts::Silent { why: "no answer within 3s".into(), last: None });
    holds(&facts, "data gate");
}

#[test]
fn a_named_loss_takes_two_people_also_where_moves_are_automatic() {
    let mut facts = single("account", &["a"]);
    lose(&mut facts, "a");
    facts.sites.get_mut("b").unwrap().data = Some(DataFacts::Answer(answer(9)));
    let accept = AcceptedLoss::UpTo(Duration::from_secs(10));
    facts.consent.request = Some(MoveRequest { accept_loss: Some(accept), ..request(Some("b")) });
    let proposal = plan(&facts).unwrap().proposal.expect("a proposal");
    assert!(proposal.summary.contains("a loss of up to 10.000 s"), "{}", proposal.summary);
    facts.consent.approvals.insert(Approved { proposal: proposal.id.clone(), by: "zhang".into() });
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Propose(_)), "who asks cannot approve");
    facts.consent.approvals.insert(Approved { proposal: proposal.id, by: "li".into() });
    assert_eq!(acts(&facts), ["b"]);
    assert!(plan(&facts).unwrap().notes[0].contains("accepted"));
}

use crate::failover::facts::MoveRequest;

#[test]
fn unplanned_moves_of_steady_services_wait_for_approval_and_agile_ones_do_not() {
    let mut facts = active(&["a", "b"]);
    facts.spec.decision.unplanned = None;
    lose(&mut facts, "b");
    let proposed = plan(&facts).unwrap();
    assert!(matches!(proposed.verdict, Verdict::Propose(_)));
    facts.stability = Stability::Agile;
    assert_eq!(acts(&facts), ["a", "c"]);
}

#[test]
fn approvals_count_different_people_for_exactly_this_proposal() {
    let mut facts = active(&["a", "b"]);
    facts.spec.decision.unplanned = Some(Policy::Approve);
    facts.spec.decision.approval.people = 2;
    lose(&mut facts, "b");
    let id = plan(&facts).unwrap().proposal.unwrap().id;
    let approve = |facts: &mut ServiceFacts, id: &str, by: &str| {
        facts.consent.approvals.insert(Approved { proposal: id.to_owned(), by: by.to_owned() });
    };
    approve(&mut facts, &id, "li");
    approve(&mut facts, "another proposal", "wang");
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Propose(_)));
    approve(&mut facts, &id, "wang");
    acts(&facts);
    facts.entry.version = 2;
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Propose(_)), "approvals are void when the map changed");
}

#[test]
fn at_the_time_out_nothing_moves_unless_the_service_says_so() {
    let mut facts = active(&["a", "b"]);
    facts.spec.decision.unplanned = Some(Policy::Approve);
    lose(&mut facts, "b");
    let id = plan(&facts).unwrap().proposal.unwrap().id;
    facts.consent.open_for.insert(id, Duration::from_secs(900));
    holds(&facts, "nobody approved");
    facts.spec.decision.approval.on_timeout = OnTimeout::Proceed;
    acts(&facts);
}

#[test]
fn manual_means_that_a_person_asks_and_break_glass_asks_nobody_else() {
    let mut facts = single("account", &["a"]);
    facts.spec.decision.unplanned = Some(Policy::Manual);
    lose(&mut facts, "a");
    holds(&facts, "unplanned is manual");
    facts.consent.request = Some(request(None));
    assert_eq!(acts(&facts), ["b"]);
    facts.spec.decision.unplanned = Some(Policy::Approve);
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Propose(_)));
    facts.consent.request.as_mut().unwrap().break_glass = true;
    assert_eq!(acts(&facts), ["b"]);
    facts.sites.get_mut("b").unwrap().data = Some(DataFacts::Answer(answer(9)));
    facts.consent.request.as_mut().unwrap().to = Some("b".into());
    holds(&facts, "data gate");
}

#[test]
fn the_key_of_drills_moves_no_steady_service_without_two_people_s_approvals() {
    let drilled = |approved_by: &[&str]| {
        let mut facts = single("compute", &["a"]);
        facts.spec.decision.planned = Policy::Manual;
        let drill = DrillMark {
            name: "weekly".into(),
            ticket: "t".into(),
            hold: false,
            traceparent: None,
            approved_by: approved_by.iter().map(|by| (*by).to_owned()).collect(),
        };
        facts.consent.request = Some(MoveRequest { drill: Some(drill), ..request(Some("b")) });
        facts
    };
    for (people, have) in [(&[][..], "0 of 2"), (&["li", "li"], "1 of 2")] {
        let verdict = plan(&drilled(people)).unwrap().verdict;
        assert!(matches!(&verdict, Verdict::Propose(why) if why.contains(have)), "{verdict:?}");
    }
    assert_eq!(acts(&drilled(&["li", "wang"])), ["b"]);
    let mut agile = drilled(&[]);
    agile.stability = Stability::Agile;
    assert_eq!(acts(&agile), ["b"]);
}

#[test]
fn the_kill_switch_stops_what_is_automatic_and_what_is_asked() {
    for mut facts in [active(&["a", "b"]), single("account", &["a"])] {
        let site = if facts.spec.mode.single_writer() { "a" } else { "b" };
        lose(&mut facts, site);
        facts.consent.paused = Some("site dc-a, by li: storage is being moved".into());
        holds(&facts, "paused: site dc-a");
        facts.consent.request = Some(MoveRequest { break_glass: true, ..request(None) });
        holds(&facts, "paused");
    }
}

#[test]
fn the_database_is_followed_and_never_raced() {
    let mut facts = single("account", &["a"]);
    facts.spec.authority = Authority::Database;
    lose(&mut facts, "a");
    holds(&facts, "has to elect a leader");
    facts.sites.get_mut("c").unwrap().data = Some(DataFacts::Answer(DataPosition { leads: true, ..answer(0) }));
    assert_eq!(acts(&facts), ["c"], "b would be the better site, but the database leads at c");
    let mut asked = single("account", &["a"]);
    asked.spec.authority = Authority::Database;
    asked.consent.request = Some(request(Some("b")));
    assert_eq!(plan(&asked), None, "the group goes where the database leads, not where a person wishes");
}

#[test]
fn with_the_authority_of_a_person_nothing_moves_unasked() {
    let mut facts = single("account", &["a"]);
    facts.spec.authority = Authority::Person;
    facts.spec.decision.unplanned = Some(Policy::Manual);
    lose(&mut facts, "a");
    holds(&facts, "authority is person");
}

#[test]
fn what_a_service_depends_on_moves_first() {
    let mut facts = single("compute", &["a"]);
    lose(&mut facts, "a");
    let sites = ["a".to_owned(), "b".to_owned()].into();
    facts.dependencies = vec![DependencyFacts { name: "n/db".into(), sites, ..DependencyFacts::default() }];
    assert!(
        matches!(plan(&facts).unwrap().verdict, Verdict::Wait(why) if why.contains("n/db, which has to serve at b"))
    );
    facts.dependencies[0].serves_at.insert("b".into());
    assert_eq!(acts(&facts), ["b"]);
    facts.dependencies = vec![DependencyFacts { name: "n/gone".into(), ..DependencyFacts::default() }];
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Wait(why) if why.contains("no service here")));
}

#[test]
fn a_dependency_in_the_same_group_moves_along_and_is_not_waited_for() {
    let mut facts = single("compute", &["a"]);
    lose(&mut facts, "a");
    let sites = ["a".to_owned(), "b".to_owned()].into();
    let other = DependencyFacts { name: "n/db".into(), sites, ..DependencyFacts::default() };
    facts.dependencies = vec![DependencyFacts { same_group: true, ..other }];
    assert_eq!(acts(&facts), ["b"], "it is held where this one is held: neither could ever be there first");
}

#[test]
fn dependency_cycles_are_held_and_named() {
    let depends = |name: &str, on: &str| {
        let mut facts = active(&["a", "b"]);
        lose(&mut facts, "b");
        (facts.name, facts.group) = (name.into(), name.into());
        facts.dependencies = vec![DependencyFacts { name: on.into(), ..DependencyFacts::default() }];
        facts
    };
    let mut all = [depends("x", "y"), depends("y", "z"), depends("z", "y")];
    let decisions = plan_all(&mut all);
    let held = |index: usize| match &decisions[index].as_ref().unwrap().verdict {
        Verdict::Hold(why) | Verdict::Wait(why) => why.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(held(1), "dependency cycle: y -> z -> y");
    assert_eq!(held(2), "dependency cycle: y -> z -> y");
    assert!(!held(0).contains("cycle"));
}

#[test]
fn planned_moves_are_held_for_want_of_room_and_unplanned_ones_are_made_and_told() {
    let mut facts = single("compute", &["b"]);
    facts.spec.capacity_gate.action = CapacityAction::HoldPlanned;
    for site in facts.sites.values_mut() {
        site.workload = Some(WorkloadFacts { wanted: 1, ..WorkloadFacts::default() });
    }
    facts.sites.get_mut("b").unwrap().workload.as_mut().unwrap().wanted = 4;
    holds(&facts, "capacity gate: a has 1 of 4 replicas");
    facts.consent.request = Some(MoveRequest { accept_shortage: true, ..request(Some("a")) });
    assert_eq!(acts(&facts), ["a"]);
    facts.consent.request = None;
    lose(&mut facts, "b");
    facts.sites.get_mut("b").unwrap().workload = Some(WorkloadFacts { wanted: 4, ..WorkloadFacts::default() });
    assert_eq!(acts(&facts), ["a"]);
    assert!(plan(&facts).unwrap().notes[0].contains("too little room"));
}

#[test]
fn a_single_writer_moves_at_most_once_within_its_hold_down() {
    let mut facts = single("compute", &["a"]);
    facts.moved_for = Some(Duration::from_secs(599));
    lose(&mut facts, "a");
    assert!(matches!(plan(&facts).unwrap().verdict, Verdict::Wait(why) if why.contains("holdDown (10m)")));
    facts.consent.request = Some(request(None));
    assert_eq!(acts(&facts), ["b"], "a person does not have to wait");
}

#[test]
fn drift_and_another_profile_hold() {
    let mut facts = active(&["a", "b"]);
    lose(&mut facts, "b");
    facts.same_spec_at = 1;
    holds(&facts, "SpecDrift");
    facts.same_spec_at = 2;
    facts.spec.profile = Some(evergreen_api::resources::TimingProfile::Fast);
    holds(&facts, "timing profile");
}

#[test]
fn services_of_one_group_that_contradict_are_held_and_others_move_together() {
    let mut all = [active(&["a", "b"]), active(&["a", "b"])];
    all.iter_mut().for_each(|facts| lose(facts, "b"));
    all[1].name = "n/other".into();
    all[1].sites.get_mut("c").unwrap().ready = Some(0);
    for decision in plan_all(&mut all.clone()) {
        assert_eq!(decision.unwrap().holders, [holder("a", 1)], "c cannot serve one of the two");
    }
    all[1].spec.min_active = 1;
    for decision in plan_all(&mut all) {
        assert!(matches!(decision.unwrap().verdict, Verdict::Hold(why) if why.contains("share a group but differ")));
    }
}

/// Facts of a group in any state: who holds, who is fresh under which epoch, who is ready, what people said.
fn any_facts() -> impl Strategy<Value = ServiceFacts> {
    let site = (0_u8..4, 0_u32..3, 0_u64..20, any::<bool>(), 0_u64..3);
    let holders = proptest::sample::subsequence(vec!["a", "b", "c"], 0..=3);
    let said = (0_u8..4, any::<bool>(), any::<bool>(), 0_u8..3, 0_u64..1_200);
    (any::<bool>(), holders, [site.clone(), site.clone(), site], said).prop_map(|(one, holders, sites, said)| {
        let holders = if one { holders.into_iter().take(1).collect() } else { holders };
        let mut facts = if one { single("account", &holders) } else { active(&holders) };
        for (name, (state, ready, lag, complete, epoch)) in ["a", "b", "c"].into_iter().zip(sites) {
            let known = facts.sites.get_mut(name).unwrap();
            let data = known.data.take().map(|_| match state {
                3 => DataFacts::Silent { why: "hangs".into(), last: None },
                _ => DataFacts::Answer(DataPosition { complete, position: Some(100), ..answer(lag / 10) }),
            });
            *known = if state == 0 { lost() } else { alive(1 + epoch / 2)(name) };
            known.data = data;
            known.unfresh_for = Duration::from_secs(if state == 0 { 1 + lag } else { 0 });
            known.ready = (state != 1).then_some(ready);
        }
        let (who, paused, loss, policy, moved) = said;
        facts.consent.request = (who > 0).then(|| request(["", "a", "b", "c"].get(usize::from(who)).copied()));
        if let Some(request) = facts.consent.request.as_mut().filter(|_| loss) {
            request.accept_loss = Some(AcceptedLoss::Unknown);
        }
        facts.consent.paused = paused.then(|| "test".into());
        facts.spec.decision.unplanned = Some([Policy::Manual, Policy::Approve, Policy::Auto][usize::from(policy)]);
        facts.moved_for = Some(Duration::from_secs(moved));
        facts
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn for_whatever_facts_the_promises_hold(facts in any_facts()) {
        let Some(decision) = plan(&facts) else { return Ok(()) };
        let single = facts.spec.mode.single_writer();
        prop_assert_eq!(plan(&facts), Some(decision.clone()), "the same facts give the same plan");
        let text = serde_json::to_string(&facts).unwrap();
        let read: ServiceFacts = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(
            serde_json::to_string(&plan(&read)).unwrap(), serde_json::to_string(&decision).unwrap(),
            "recorded facts give the same plan, bit by bit"
        );
        if decision.verdict != Verdict::Act {
            return Ok(());
        }
        prop_assert!(!decision.holders.is_empty(), "the last holder is never removed");
        prop_assert!(!single || decision.holders.len() == 1, "a single writer is single");
        prop_assert!(decision.leaving().count() <= 1, "one site at a time");
        for entering in decision.entering() {
            prop_assert!(facts.can_serve(&entering.site), "whoever comes in can serve");
            prop_assert_eq!(facts.fresh(&entering.site), Some(entering), "under its current incarnation");
        }
        if let Actor::Leaver(site) = &decision.actor {
            prop_assert!(facts.fresh(site).is_some(), "only a living site can leave by itself");
        }
        if !matches!(decision.cause, Cause::Restarted(_)) {
            prop_assert!(facts.consent.paused.is_none(), "nothing moves while paused");
        }
        if single && decision.entering().count() > 0 && decision.cause != Cause::FirstPlacement {
            let site = &facts.sites[&decision.holders[0].site];
            // A request for something else accepts nothing here.
            let request = facts.consent.request.as_ref().filter(|_| decision.request.is_some());
            let accepted = request.is_some_and(|r| r.accept_loss.is_some());
            let answered = matches!(&site.data, Some(DataFacts::Answer(at)) if at.lag.is_zero());
            prop_assert!(answered || accepted, "no move without the data, unless a loss is accepted");
            prop_assert!(!accepted || decision.proposal.is_some_and(|p| !p.approved_by.is_empty()), "two people");
        }
    }

    #[test]
    fn automatic_moves_take_from_one_lost_site_only(all in proptest::collection::vec(any_facts(), 1..8)) {
        let mut all = all;
        // All groups see the same sites.
        let fresh: Vec<_> = all[0].sites.iter().map(|(n, s)| (n.clone(), s.fresh.clone(), s.unfresh_for)).collect();
        for (index, facts) in all.iter_mut().enumerate() {
            (facts.name, facts.group) = (format!("n/{index}"), format!("g{index}"));
            for (name, holder, unfresh_for) in &fresh {
                let known = facts.sites.get_mut(name).unwrap();
                (known.fresh, known.unfresh_for) = (holder.clone(), *unfresh_for);
            }
        }
        let decisions = plan_all(&mut all);
        let taken: std::collections::BTreeSet<String> = decisions
            .iter()
            .flatten()
            .filter(|decision| decision.verdict == Verdict::Act)
            .filter_map(|decision| match &decision.cause { Cause::SiteLost(site) => Some(site.clone()), _ => None })
            .collect();
        prop_assert!(taken.len() <= 1, "{:?}", taken);
        for (facts, decision) in all.iter().zip(&decisions) {
            prop_assert_eq!(&plan(facts), decision, "each decision can be made again from its own facts");
        }
    }
}
