use std::collections::BTreeMap;

use evergreen_api::{HumanDuration, names, resources::*};
use proptest::prelude::*;

use super::*;
use crate::view::ConditionView;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn node(name: &str, zone: &str, problems: &[&str]) -> NodeView {
    let seen = |status: &str| ConditionView { status: status.into(), seen_since: at(0) };
    let mut conditions = BTreeMap::from([("Ready".to_owned(), seen("True"))]);
    conditions.extend(problems.iter().map(|problem| ((*problem).to_owned(), seen("True"))));
    NodeView {
        name: name.into(),
        uid: format!("uid-{name}"),
        boot_id: "boot".into(),
        unschedulable: false,
        cordoned_by: None,
        labels: [(names::LABEL_ZONE.to_owned(), zone.to_owned())].into(),
        conditions,
        pod_count: 5,
    }
}

fn spec(condition: &str) -> PlaybookSpec {
    PlaybookSpec {
        summary: "test".into(),
        mode: PlaybookMode::Enforce,
        matches: vec![Trigger {
            node_condition: Some(NodeConditionTrigger {
                type_: condition.into(),
                status: "True".into(),
                for_: HumanDuration::default(),
            }),
            ..Trigger::default()
        }],
        guards: Guards::default(),
        steps: vec![Step { cordon: Some(Nothing {}), ..Step::default() }],
        verify: None,
        on_failure: Vec::new(),
        rollback: Rollback::Automatic,
    }
}

fn playbook(name: &str, spec: PlaybookSpec) -> Arc<CompiledPlaybook> {
    Arc::new(CompiledPlaybook::new(name, spec).unwrap())
}

fn facts(nodes: Vec<NodeView>, playbooks: Vec<Arc<CompiledPlaybook>>) -> Facts {
    Facts { nodes: nodes.into_iter().map(Arc::new).collect(), playbooks, ..Facts::default() }
}

fn run(playbook: &str, node: &NodeView, attempt: u32, phase: RunPhase, created: i64, finished: Option<i64>) -> RunView {
    RunView {
        name: run_name(playbook, &node.subject(), attempt),
        playbook: playbook.into(),
        subject: node.subject(),
        node: Some(node.name.clone()),
        attempt,
        acts: true,
        destructive: false,
        phase,
        created_at: at(created),
        finished_at: finished.map(at),
        chain: Vec::new(),
        asks: None,
        requested_by: None,
    }
}

fn three_nodes() -> Vec<NodeView> {
    vec![node("n1", "z", &["KernelOops"]), node("n2", "z", &[]), node("n3", "z", &[])]
}

#[track_caller]
fn blocked(plan: &Plan, says: &str) {
    assert!(plan.starts.is_empty(), "{:?}", plan.starts);
    assert!(plan.blocked.iter().any(|blocked| blocked.reason.contains(says)), "`{says}` in {:?}", plan.blocked);
}

#[test]
fn a_raised_condition_starts_a_run_and_says_why() {
    let plan = plan(&facts(three_nodes(), vec![playbook("oops", spec("KernelOops"))]), at(1));
    let [start] = &plan.starts[..] else { panic!("{plan:?}") };
    assert_eq!((start.subject.name.as_str(), start.attempt), ("n1", 1));
    assert_eq!(start.trigger, "KernelOops=True");
    assert!(start.reasons.iter().any(|reason| reason.contains("1 of at most 1 out of service in zone z")), "{start:?}");
}

#[test]
fn a_healthy_fleet_starts_nothing() {
    let plan = plan(&facts(vec![node("n1", "z", &[])], vec![playbook("oops", spec("KernelOops"))]), at(1));
    assert!(plan.starts.is_empty() && plan.blocked.is_empty() && plan.recheck_at.is_none());
}

#[test]
fn the_condition_must_have_been_seen_for_long_enough() {
    let mut patient = spec("KernelOops");
    patient.matches[0].node_condition.as_mut().unwrap().for_ = HumanDuration::seconds(30);
    let facts = facts(three_nodes(), vec![playbook("oops", patient)]);
    let early = plan(&facts, at(29));
    blocked(&early, "not been seen for 30s");
    assert_eq!(early.recheck_at, Some(at(30)));
    assert_eq!(plan(&facts, at(30)).starts.len(), 1);
}

#[test]
fn when_narrows_a_trigger() {
    let mut narrow = spec("KernelOops");
    narrow.matches[0].when = Some("node.metadata.labels['pool'] != 'quarantine'".into());
    let mut nodes = three_nodes();
    let book = playbook("oops", narrow);
    assert_eq!(plan(&facts(nodes.clone(), vec![Arc::clone(&book)]), at(1)).starts.len(), 1);
    nodes[0].labels.insert("pool".into(), "quarantine".into());
    assert!(plan(&facts(nodes, vec![book]), at(1)).starts.is_empty());
}

#[test]
fn an_object_has_one_run_at_a_time_whichever_playbook() {
    let mut facts = facts(three_nodes(), vec![playbook("a", spec("KernelOops")), playbook("b", spec("KernelOops"))]);
    let first = plan(&facts, at(1));
    assert_eq!(first.starts.iter().map(|s| s.playbook.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(first.starts[0].rejected[0].starts_with("b: playbook a was chosen"), "{:?}", first.starts[0].rejected);
    facts.runs.push(run("other", &facts.nodes[0], 1, RunPhase::Verifying, 0, None));
    blocked(&plan(&facts, at(1)), "is under way for this node");
}

#[test]
fn the_budget_counts_runs_of_all_playbooks_and_nodes_that_are_out_anyway() {
    let ill = |name| node(name, "z", &["KernelOops"]);
    let well = |name| node(name, "z", &[]);
    let mut nodes = vec![ill("n1"), well("n2"), well("n3"), well("n4"), well("n5")];
    let book = playbook("oops", spec("KernelOops"));
    let mut busy = facts(nodes.clone(), vec![Arc::clone(&book)]);
    busy.runs.push(run("other", &nodes[1], 1, RunPhase::Running, 0, None));
    blocked(&plan(&busy, at(1)), "1 of 5 nodes of zone z are out of service");
    nodes[2].unschedulable = true;
    blocked(&plan(&facts(nodes.clone(), vec![Arc::clone(&book)]), at(1)), "1 of 5 nodes of zone z are out of service");
    nodes[2].labels.insert(names::LABEL_ZONE.into(), "other".into());
    assert_eq!(plan(&facts(nodes, vec![book]), at(1)).starts.len(), 1);
}

#[test]
fn the_last_healthy_share_of_a_domain_is_never_touched() {
    let nodes = vec![node("n1", "z", &["KernelOops"]), node("n2", "other", &[]), node("n3", "other", &[])];
    blocked(
        &plan(&facts(nodes, vec![playbook("oops", spec("KernelOops"))]), at(1)),
        "0 of 1 nodes of zone z would be healthy",
    );
}

#[test]
fn cooldown_and_attempts_bound_how_often_an_object_is_tried() {
    let mut facts = facts(three_nodes(), vec![playbook("oops", spec("KernelOops"))]);
    let subject = (*facts.nodes[0]).clone();
    facts.runs.push(run("oops", &subject, 1, RunPhase::Failed, 0, Some(100)));
    let cooling = plan(&facts, at(200));
    blocked(&cooling, "cooldown: 30m");
    assert_eq!(cooling.recheck_at, Some(at(1_900)));
    let second = plan(&facts, at(1_900));
    assert_eq!(second.starts[0].attempt, 2);
    facts.runs.push(run("oops", &subject, 2, RunPhase::Failed, 1_900, Some(2_000)));
    blocked(&plan(&facts, at(10_000)), "quarantine: 2 of 2 attempts within 1d");
    assert_eq!(plan(&facts, at(86_400)).starts[0].attempt, 3);
}

#[test]
fn a_clock_ahead_of_ours_does_not_stretch_the_cooldown() {
    let mut facts = facts(three_nodes(), vec![playbook("oops", spec("KernelOops"))]);
    let subject = (*facts.nodes[0]).clone();
    facts.runs.push(run("oops", &subject, 1, RunPhase::Failed, 0, Some(1_000_000)));
    assert_eq!(plan(&facts, at(10)).recheck_at, Some(at(10 + 1_800)));
}

#[test]
fn a_storm_stops_everything() {
    let nodes = (0..10).map(|i| node(&format!("n{i}"), &format!("z{i}"), if i < 5 { &["KernelOops"] } else { &[] }));
    blocked(&plan(&facts(nodes.collect(), vec![playbook("oops", spec("KernelOops"))]), at(1)), "storm: 5 of 10");
}

#[test]
fn silence_of_most_nodes_means_a_cut_network_and_nothing_is_done() {
    let mut nodes: Vec<NodeView> = (0..10).map(|i| node(&format!("n{i}"), "z", &[])).collect();
    for node in &mut nodes[..6] {
        node.conditions.get_mut("Ready").unwrap().status = "Unknown".into();
    }
    let mut lost = spec("Ready");
    lost.matches[0].node_condition.as_mut().unwrap().status = "Unknown".into();
    lost.guards.storm.max_unhealthy = Amount::Percent(100);
    blocked(&plan(&facts(nodes, vec![playbook("lost", lost)]), at(1)), "cut network");
}

#[test]
fn a_run_that_cannot_be_read_stops_everything() {
    let mut facts = facts(three_nodes(), vec![playbook("oops", spec("KernelOops"))]);
    facts.unreadable_runs.push("oops-1".into());
    blocked(&plan(&facts, at(1)), "run oops-1 cannot be read");
}

#[test]
fn observing_takes_no_budget_and_does_not_count_against_acting() {
    let mut observing = spec("KernelOops");
    observing.mode = PlaybookMode::Observe;
    let books = vec![
        playbook("a-observes", observing.clone()),
        playbook("b-acts", spec("KernelOops")),
        playbook("c-observes", observing),
    ];
    let mut facts = facts(three_nodes(), books);
    assert_eq!(plan(&facts, at(1)).starts.len(), 3);
    let mut seen = run("b-acts", &facts.nodes[0], 1, RunPhase::Observed, 0, Some(0));
    seen.acts = false;
    facts.runs.push(seen);
    let acting = plan(&facts, at(1));
    assert_eq!(acting.starts.iter().find(|s| s.playbook.name == "b-acts").map(|s| s.attempt), Some(2));
}

#[test]
fn names_of_runs_are_short_enough_and_tell_attempts_and_nodes_apart() {
    let (one, two) = (node("n1", "z", &[]).subject(), node("n2", "z", &[]).subject());
    let longest = "p".repeat(50);
    assert!(run_name(&longest, &one, u32::MAX).len() <= 253);
    assert_ne!(run_name("p", &one, 1), run_name("p", &two, 1));
    assert_ne!(run_name("p", &one, 1), run_name("p", &one, 2));
}

/// A fleet in trouble, playbooks with differing budgets, runs in all phases.
fn storm() -> impl Strategy<Value = Facts> {
    let nodes = prop::collection::vec((0_u8..4, 0_u8..8, any::<bool>(), 0_u8..6), 1..40);
    let books = prop::collection::vec((0_u8..3, 1_u32..4, 0_u8..100, any::<bool>(), any::<bool>(), 1_u8..=100), 1..4);
    let runs = prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4, 0_u8..8), 0..12);
    (nodes, books, runs).prop_map(|(nodes, books, runs)| {
        const KINDS: [&str; 3] = ["KernelOops", "SoftLockup", "FilesystemReadOnly"];
        let nodes: Vec<NodeView> = nodes
            .into_iter()
            .enumerate()
            .map(|(index, (zone, problem, unschedulable, ready))| {
                let problems = KINDS.get(usize::from(problem)).copied();
                let mut node = node(&format!("n{index:02}"), &format!("z{zone}"), problems.as_slice());
                node.unschedulable = unschedulable && problem > 4;
                if ready == 0 {
                    node.conditions.get_mut("Ready").unwrap().status = "False".into();
                }
                node
            })
            .collect();
        let books = books.into_iter().enumerate().map(|(index, (kind, count, healthy, percent, site, storm))| {
            let mut spec = spec(KINDS[usize::from(kind)]);
            spec.guards.budget = Budget {
                per: if site { FailureDomain::DataCenter } else { FailureDomain::Zone },
                max_unavailable: if percent { Amount::Percent(count as u8 * 10) } else { Amount::Count(count) },
                min_healthy: Amount::Percent(healthy),
            };
            spec.guards.storm.max_unhealthy = Amount::Percent(storm);
            playbook(&format!("book{index}"), spec)
        });
        let mut facts = facts(nodes, books.collect());
        for (index, (node, phase, attempt)) in runs.into_iter().enumerate() {
            const PHASES: [RunPhase; 4] =
                [RunPhase::Pending, RunPhase::Running, RunPhase::RollingBack, RunPhase::Failed];
            let node = Arc::clone(node.get(&facts.nodes));
            let phase = PHASES[usize::from(phase)];
            let finished = phase.is_final().then_some(-86_400);
            facts.runs.push(run(&format!("old{index}"), &node, u32::from(attempt), phase, -90_000, finished));
        }
        facts
    })
}

/// Counts afresh, from the facts and the plan alone, what the planner promised.
fn breaches(facts: &Facts, plan: &Plan) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut started: Vec<&Start> = Vec::new();
    for start in &plan.starts {
        let budget = &start.playbook.spec.guards.budget;
        let busy = |node: &NodeView| {
            facts.runs.iter().any(|run| run.is_active() && run.subject.uid == node.uid)
                || started.iter().any(|earlier| earlier.subject.uid == node.uid)
        };
        if busy(start.node.as_ref().unwrap()) {
            breaches.push(format!("{} has two runs", start.subject.name));
        }
        let zone = |node: &NodeView| node.labels.get(names::LABEL_ZONE).cloned();
        let members: Vec<&Arc<NodeView>> = facts
            .nodes
            .iter()
            .filter(|node| budget.per == FailureDomain::DataCenter || zone(node) == zone(start.node.as_ref().unwrap()))
            .collect();
        let out = |node: &NodeView| node.unschedulable || !node.ready() || busy(node) || node.uid == start.subject.uid;
        let gone = members.iter().filter(|node| out(node)).count();
        if gone > budget.max_unavailable.of_at_least_one(members.len()) {
            breaches.push(format!("{gone} of {} are out for {}", members.len(), start.run));
        }
        let ill = |node: &NodeView| facts.playbooks.iter().any(|book| book.is_for(node));
        let healthy = members.iter().filter(|node| !out(node) && !ill(node)).count();
        if healthy < budget.min_healthy.of_rounded_up(members.len()) {
            breaches.push(format!("{healthy} of {} are healthy for {}", members.len(), start.run));
        }
        started.push(start);
    }
    breaches
}

/// Few by default; `make test-storms` asks for 10,000.
fn storms() -> u32 {
    std::env::var("EVERGREEN_STORMS").ok().and_then(|count| count.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: storms(), ..ProptestConfig::default() })]

    #[test]
    fn no_storm_breaks_a_budget(facts in storm()) {
        let first = plan(&facts, at(10));
        prop_assert_eq!(breaches(&facts, &first), Vec::<String>::new());
        let again = plan(&facts, at(10));
        prop_assert_eq!(
            first.starts.iter().map(|s| &s.run).collect::<Vec<_>>(),
            again.starts.iter().map(|s| &s.run).collect::<Vec<_>>()
        );
        // What was started counts in the next plan: nothing is started twice.
        let mut next = facts.clone();
        next.runs.extend(first.starts.iter().map(|start| start.view(at(10))));
        prop_assert!(plan(&next, at(11)).starts.iter().all(|s| !first.starts.iter().any(|f| f.run == s.run)));
    }
}

/// A playbook that budgets and storms do not hold back.
fn lifted() -> PlaybookSpec {
    let mut spec = spec("KernelOops");
    spec.guards.budget =
        Budget { max_unavailable: Amount::Percent(100), min_healthy: Amount::Count(0), ..Budget::default() };
    spec.guards.storm.max_unhealthy = Amount::Percent(100);
    spec
}

fn rack(nodes: usize, seconds_apart: i64) -> Vec<NodeView> {
    let number = |number: usize| i64::try_from(number).unwrap();
    let node = |index: usize| {
        let problems: &[&str] = if index < nodes { &["KernelOops"] } else { &[] };
        let mut node = node(&format!("n{index:02}"), "z", problems);
        node.labels.insert(names::LABEL_RACK.to_owned(), "r1".to_owned());
        for condition in node.conditions.values_mut() {
            condition.seen_since = at(number(index) * seconds_apart);
        }
        node
    };
    (0..200).map(node).collect()
}

#[test]
fn a_rack_that_shows_one_symptom_is_one_incident_with_one_run_at_a_time() {
    let oops = playbook("oops", lifted());
    let mut facts = facts(rack(40, 1), vec![oops.clone()]);
    let first = plan(&facts, at(60));
    assert_eq!(first.starts.len(), 1, "not forty");
    assert_eq!(first.incidents.len(), 1);
    assert_eq!((first.incidents[0].nodes.len(), first.incidents[0].since), (40, at(0)));
    assert!(first.blocked.iter().all(|blocked| blocked.by == BlockedBy::Incident), "{:?}", first.blocked);
    let healed = node("n00", "z", &[]);
    facts.runs.push(run("oops", &healed, 1, RunPhase::Running, 60, None));
    assert!(plan(&facts, at(70)).starts.is_empty());
    // It is healed: the next of them starts.
    facts.runs[0] = run("oops", &healed, 1, RunPhase::Succeeded, 60, Some(80));
    facts.nodes[0] = Arc::new(NodeView { labels: facts.nodes[0].labels.clone(), ..healed });
    let next = plan(&facts, at(90));
    assert_eq!(next.starts.iter().map(|start| start.subject.name.as_str()).collect::<Vec<_>>(), ["n01"]);
    assert_eq!(next.incidents[0].nodes.len(), 39);
}

#[test]
fn a_run_of_an_incident_that_failed_is_not_repeated_on_every_node_of_the_rack() {
    let mut facts = facts(rack(5, 1), vec![playbook("oops", lifted())]);
    facts.runs.push(run("oops", &node("n00", "z", &[]), 1, RunPhase::RolledBack, 60, Some(80)));
    let after = plan(&facts, at(90));
    assert!(after.starts.is_empty());
    blocked(&after, "did not end well");
    assert!(after.recheck_at.is_some_and(|due| due <= at(80 + 3_600)));
    assert_eq!(plan(&facts, at(80 + 3_601)).starts.len(), 1);
}

#[test]
fn few_nodes_of_a_rack_or_symptoms_far_apart_are_no_incident() {
    let oops = playbook("oops", lifted());
    let two = plan(&facts(rack(2, 1), vec![oops.clone()]), at(60));
    assert_eq!((two.starts.len(), two.incidents.len()), (2, 0));
    let apart = plan(&facts(rack(3, 121), vec![oops.clone()]), at(600));
    assert_eq!((apart.starts.len(), apart.incidents.len()), (3, 0));
    let mut unlabelled = rack(5, 1);
    unlabelled.iter_mut().for_each(|node| drop(node.labels.remove(names::LABEL_RACK)));
    assert!(plan(&facts(unlabelled, vec![oops]), at(60)).incidents.is_empty(), "nobody said where they stand");
    let mut observing = lifted();
    observing.mode = PlaybookMode::Observe;
    assert_eq!(plan(&facts(rack(5, 1), vec![playbook("oops", observing)]), at(60)).starts.len(), 5);
}
