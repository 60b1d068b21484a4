//! Rules of drills, one test each.

use std::{collections::BTreeSet, time::Duration};

use evergreen_api::resources::{DrillPhase, DrillResult};
use serde_json::json;

use super::{
    facts::{DrillFacts, DrillServiceFacts, ProbeFacts, TicketFacts},
    planner::{Next, next},
};

fn set(sites: &[&str]) -> BTreeSet<String> {
    sites.iter().map(|site| (*site).to_owned()).collect()
}

fn service(holders: &[&str]) -> DrillServiceFacts {
    DrillServiceFacts {
        holders: set(holders),
        before: set(&["a", "b"]),
        sites: set(&["a", "b", "c"]),
        min_active: 2,
        enforced: true,
        ..DrillServiceFacts::default()
    }
}

/// An agile service at a and b, drilled away from a, with its ticket open.
fn facts(phase: DrillPhase) -> DrillFacts {
    let spec = json!({"site": "a", "mode": "switchover", "holdFor": "10m", "moveWithin": "1m",
        "objectives": {"rto": "10s", "rpo": "5s", "maxErrorPercent": 20}, "probe": {"url": "http://pay.example/"},
        "schedule": {"cron": "0 2 * * *", "timeZone": "UTC"}});
    DrillFacts {
        spec: serde_json::from_value(spec).unwrap(),
        phase,
        in_phase_for: Duration::from_secs(1),
        now: "2026-11-23T03:00:00Z".parse().unwrap(),
        since: "2026-11-23T02:30:00Z".parse().unwrap(),
        ticket: Some(TicketFacts { by: Some("li".into()), open_for: Duration::ZERO, approved_by: BTreeSet::new() }),
        asked_by: None,
        abort: None,
        deleted: false,
        begun: true,
        services: [("shop/pay".to_owned(), service(&["a", "b"]))].into(),
        tolerance: 1,
        incident: None,
        other_drill: None,
        stopped: None,
        probe: ProbeFacts::default(),
        breaking_off: false,
    }
}

fn ends(facts: &DrillFacts, result: DrillResult, word: &str) {
    match next(facts) {
        Next::End(found, why) if found == result && why.contains(word) => {}
        other => panic!("{result:?} with `{word}` was expected, not {other:?}"),
    }
}

fn stays(facts: &DrillFacts, word: &str) {
    match next(facts) {
        Next::Stay(why) if why.contains(word) => {}
        other => panic!("to stay with `{word}` was expected, not {other:?}"),
    }
}

#[test]
fn cron_opens_the_ticket_and_a_suspended_drill_opens_none() {
    let mut facts = facts(DrillPhase::Idle);
    stays(&facts, "waits for its time");
    facts.since = "2026-11-23T01:30:00Z".parse().unwrap();
    assert_eq!(next(&facts), Next::OpenTicket(None));
    facts.spec.suspend = true;
    stays(&facts, "suspended");
    facts.asked_by = Some("li".into());
    assert_eq!(next(&facts), Next::OpenTicket(Some("li".into())));
}

#[test]
fn an_agile_service_begins_by_itself_a_steady_one_with_two_others() {
    let mut facts = facts(DrillPhase::Waiting);
    assert_eq!(next(&facts), Next::Claim);
    facts.services.get_mut("shop/pay").unwrap().steady = true;
    stays(&facts, "spec.windows");
    facts.spec.windows = serde_json::from_value(json!([{"from": "02:00", "to": "04:00"}])).unwrap();
    stays(&facts, "0 of 2");
    facts.ticket.as_mut().unwrap().approved_by = set(&["li", "wang"]);
    stays(&facts, "1 of 2");
    facts.ticket.as_mut().unwrap().approved_by = set(&["li", "wang", "zhao"]);
    assert_eq!(next(&facts), Next::Claim);
}

#[test]
fn none_is_made_at_tolerance_zero() {
    let mut facts = facts(DrillPhase::Waiting);
    facts.tolerance = 0;
    ends(&facts, DrillResult::Refused, "tolerance is zero");
}

#[test]
fn a_ticket_waits_for_incidents_other_drills_and_stops() {
    let base = facts(DrillPhase::Waiting);
    stays(&DrillFacts { incident: Some("dc-b is lost".into()), ..base.clone() }, "real incident");
    stays(&DrillFacts { other_drill: Some("drill-b".into()), ..base.clone() }, "one site at a time");
    stays(&DrillFacts { stopped: Some("by wang".into()), ..base.clone() }, "stopped");
    let mut old = base;
    old.ticket.as_mut().unwrap().open_for = Duration::from_secs(86_400);
    ends(&old, DrillResult::Refused, "nobody could start it");
}

#[test]
fn it_starts_only_in_a_window_that_is_long_enough() {
    let mut facts = facts(DrillPhase::Waiting);
    facts.spec.windows = serde_json::from_value(json!([{"from": "02:00", "to": "03:12"}])).unwrap();
    assert_eq!(next(&facts), Next::Claim);
    facts.spec.windows = serde_json::from_value(json!([{"from": "02:00", "to": "03:11"}])).unwrap();
    stays(&facts, "11 min are left");
}

#[test]
fn what_cannot_be_moved_is_refused_or_waited_for() {
    let mut facts = facts(DrillPhase::Waiting);
    facts.services.get_mut("shop/pay").unwrap().closed = Some("no room".into());
    stays(&facts, "no room");
    facts.services.get_mut("shop/pay").unwrap().enforced = false;
    ends(&facts, DrillResult::Refused, "not enforced");
    facts.services.clear();
    ends(&facts, DrillResult::Refused, "no service");
}

#[test]
fn a_data_lag_beyond_the_objective_holds_the_start_and_breaks_the_hold() {
    let mut waiting = facts(DrillPhase::Waiting);
    waiting.services.get_mut("shop/pay").unwrap().lag = Some(Duration::from_secs(6));
    stays(&waiting, "6000 ms behind");
    let mut holding = facts(DrillPhase::Holding);
    holding
        .services
        .insert("shop/pay".into(), DrillServiceFacts { lag: Some(Duration::from_secs(6)), ..service(&["b", "c"]) });
    assert!(matches!(next(&holding), Next::Abort(_)));
}

#[test]
fn it_moves_holds_and_comes_back() {
    let mut facts = facts(DrillPhase::Moving);
    stays(&facts, "shop/pay");
    facts.services.insert("shop/pay".into(), service(&["b", "c"]));
    assert_eq!(next(&facts), Next::Hold);
    facts.phase = DrillPhase::Holding;
    stays(&facts, "held");
    facts.in_phase_for = Duration::from_secs(600);
    assert_eq!(next(&facts), Next::Return);
    facts.phase = DrillPhase::Returning;
    facts.in_phase_for = Duration::from_secs(3);
    stays(&facts, "come back");
    facts.services.insert("shop/pay".into(), service(&["a", "b"]));
    ends(&facts, DrillResult::Passed, "came back");
    facts.probe.without_service = Duration::from_secs(11);
    ends(&facts, DrillResult::Failed, "11000 ms");
    facts.breaking_off = true;
    ends(&facts, DrillResult::Aborted, "broken off");
}

#[test]
fn a_breach_aborts_and_moving_for_too_long_does() {
    for phase in [DrillPhase::Moving, DrillPhase::Holding] {
        let mut facts = facts(phase);
        facts.services.insert("shop/pay".into(), service(&["b", "c"]));
        facts.probe.error_ratio = Some(0.21);
        assert!(matches!(next(&facts), Next::Abort(why) if why.contains("21 %")));
        facts.probe = ProbeFacts { error_ratio: Some(0.2), without_service: Duration::from_millis(10_001) };
        assert!(matches!(next(&facts), Next::Abort(why) if why.contains("10001 ms")));
    }
    let mut slow = facts(DrillPhase::Moving);
    slow.in_phase_for = Duration::from_secs(60);
    assert!(matches!(next(&slow), Next::Abort(_)));
}

#[test]
fn a_real_incident_or_a_stop_ends_it_wherever_it_is() {
    for phase in [DrillPhase::Moving, DrillPhase::Holding, DrillPhase::Returning] {
        let lost = DrillFacts { incident: Some("dc-b is lost".into()), ..facts(phase) };
        ends(&lost, DrillResult::Interrupted, "dc-b is lost");
        ends(&DrillFacts { stopped: Some("by wang".into()), ..facts(phase) }, DrillResult::Interrupted, "wang");
    }
}

#[test]
fn the_same_facts_give_the_same_decision() {
    let facts = facts(DrillPhase::Moving);
    assert_eq!(next(&facts), next(&facts.clone()));
}

#[test]
fn of_two_that_claim_nobody_begins_before_the_other_withdrew() {
    let mut facts = facts(DrillPhase::Moving);
    facts.begun = false;
    assert_eq!(next(&facts), Next::Begin);
    facts.other_drill = Some("dc-b/weekly".into());
    assert!(matches!(next(&facts), Next::Withdraw(why) if why.contains("one site at a time")));
    facts.begun = true;
    stays(&facts, "shop/pay");
}

#[test]
fn a_person_or_the_end_of_its_spec_brings_services_back() {
    for phase in [DrillPhase::Moving, DrillPhase::Holding] {
        let mut facts = facts(phase);
        facts.abort = Some("li: too busy a day".into());
        assert_eq!(next(&facts), Next::Abort("li: too busy a day".into()));
        facts.abort = None;
        facts.deleted = true;
        assert_eq!(next(&facts), Next::Abort("the spec is deleted".into()));
        facts.phase = DrillPhase::Waiting;
        ends(&facts, DrillResult::Refused, "deleted");
    }
}

#[test]
fn it_does_not_end_while_a_move_that_it_asked_for_is_being_carried_out() {
    let mut facts = facts(DrillPhase::Returning);
    facts.breaking_off = true;
    stays(&facts, "under way");
    facts.in_phase_for = Duration::from_secs(3);
    facts.services.get_mut("shop/pay").unwrap().moving = true;
    stays(&facts, "come back");
    facts.services.get_mut("shop/pay").unwrap().moving = false;
    ends(&facts, DrillResult::Aborted, "broken off");
}

#[test]
fn facts_that_were_recorded_give_the_same_decision() {
    for phase in [DrillPhase::Idle, DrillPhase::Waiting, DrillPhase::Moving, DrillPhase::Holding] {
        let facts = facts(phase);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(next(&serde_json::from_str(&text).unwrap()), next(&facts));
    }
}
