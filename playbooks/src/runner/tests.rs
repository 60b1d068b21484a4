use std::collections::BTreeMap;

use evergreen_api::{HumanDuration, names, resources::*};
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::view::{ConditionView, WorkloadView};

const RUN: &str = "oops-abc-1";

fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn node() -> NodeView {
    let seen = |status: &str| ConditionView { status: status.into(), seen_since: start() };
    NodeView {
        name: "n1".into(),
        uid: "uid-n1".into(),
        boot_id: "b1".into(),
        unschedulable: false,
        cordoned_by: None,
        labels: BTreeMap::new(),
        conditions: [("Ready".to_owned(), seen("True")), ("KernelOops".to_owned(), seen("True"))].into(),
        pod_count: 2,
    }
}

fn pod(name: &str) -> PodView {
    PodView {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        node: "n1".into(),
        daemon_set: false,
        mirror: false,
        finished: false,
        terminating: false,
    }
}

fn step(set: impl FnOnce(&mut Step)) -> Step {
    let mut step = Step::default();
    set(&mut step);
    step
}

fn verify(that: &str, for_: u64, timeout: u64) -> Verify {
    Verify { that: that.into(), for_: HumanDuration::seconds(for_), timeout: HumanDuration::seconds(timeout) }
}

/// cordon, drain, wait for the condition to clear, restart, uncordon; verify.
fn program(rollback: Rollback) -> RunProgram {
    let plan = PlaybookSpec {
        summary: "test".into(),
        mode: PlaybookMode::Enforce,
        matches: vec![Trigger {
            node_condition: Some(NodeConditionTrigger {
                type_: "KernelOops".into(),
                status: "True".into(),
                for_: HumanDuration::default(),
            }),
            ..Trigger::default()
        }],
        guards: Guards::default(),
        steps: vec![
            step(|s| s.cordon = Some(Nothing {})),
            step(|s| s.drain = Some(DrainStep { timeout: HumanDuration::seconds(60) })),
            step(|s| {
                s.wait = Some(WaitStep {
                    until: "!node.condition('KernelOops')".into(),
                    timeout: HumanDuration::seconds(100),
                });
            }),
            step(|s| {
                s.restart = Some(RestartStep {
                    namespace: Some("shop".into()),
                    deployment: Some("checkout".into()),
                    timeout: HumanDuration::seconds(60),
                    ..RestartStep::default()
                });
            }),
            step(|s| s.uncordon = Some(Nothing {})),
        ],
        verify: Some(verify("node.ready && !node.unschedulable", 5, 60)),
        on_failure: Vec::new(),
        rollback,
    };
    let spec = PlaybookRunSpec {
        playbook: "oops".into(),
        plan,
        subject: node().subject(),
        trigger: "KernelOops=True".into(),
        attempt: 1,
        traceparent: None,
        node: Some("n1".into()),
        workload: None,
        approvals: 0,
        requested_by: None,
        chain: Vec::new(),
        before: node().to_fields(),
    };
    RunProgram::new(RUN, spec).unwrap()
}

fn shown(deployment: &WorkloadView) -> ObjectView {
    let mut annotations = json!({});
    if let Some(key) = &deployment.restarted_by {
        annotations[names::ANNOTATION_RESTARTED_BY] = key.clone().into();
    }
    let body = json!({
        "metadata": {
            "name": "checkout", "namespace": "shop", "uid": deployment.uid, "generation": deployment.generation,
            "resourceVersion": "1"
        },
        "spec": {"replicas": deployment.wanted, "template": {"metadata": {"annotations": annotations}}},
        "status": {
            "observedGeneration": deployment.observed_generation, "replicas": deployment.total,
            "updatedReplicas": deployment.updated, "availableReplicas": deployment.available
        }
    });
    ObjectView::new("apps/v1", "Deployment", body)
}

/// A small world with an API server: versions, preconditions, pods that end after a while, and a driver that may crash.
struct Simulation {
    program: RunProgram,
    now: Timestamp,
    node: Option<NodeView>,
    node_version: u64,
    pods: Vec<(PodView, Option<Timestamp>)>,
    stuck: bool,
    deployment: WorkloadView,
    rolled_out_at: Option<Timestamp>,
    clears_at: Option<Timestamp>,
    /// What is persisted; survives crashes.
    status: PlaybookRunStatus,
    /// What the process remembers; lost in a crash.
    memory: Memory,
    seen: World,
    seen_version: u64,
    seen_deployment: Option<WorkloadView>,
    /// Effects that really happened, by kind.
    effects: BTreeMap<String, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    CrashBefore,
    CrashAfter,
    /// The effect landed and the answer was lost.
    AnswerLost,
    /// The view is an old one.
    Stale,
}

impl Simulation {
    fn new(rollback: Rollback) -> Self {
        Self {
            program: program(rollback),
            now: start(),
            node: Some(node()),
            node_version: 1,
            pods: vec![(pod("a"), None), (pod("b"), None)],
            stuck: false,
            deployment: WorkloadView {
                uid: "uid-checkout".into(),
                generation: 1,
                observed_generation: 1,
                wanted: 2,
                total: 2,
                updated: 2,
                available: 2,
                restarted_by: None,
            },
            rolled_out_at: None,
            clears_at: Some(start() + SignedDuration::from_secs(20)),
            status: PlaybookRunStatus::default(),
            memory: Memory::default(),
            seen: World::default(),
            seen_version: 0,
            seen_deployment: None,
            effects: BTreeMap::new(),
        }
    }

    fn effect(&mut self, name: impl Into<String>) {
        *self.effects.entry(name.into()).or_default() += 1;
    }

    fn count(&self, name: &str) -> u32 {
        self.effects.get(name).copied().unwrap_or(0)
    }

    fn world_moves_on(&mut self) {
        self.now += SignedDuration::from_millis(500);
        let now = self.now;
        self.pods.retain(|(_, ends)| ends.is_none_or(|ends| ends > now));
        if self.clears_at.is_some_and(|at| at <= now) {
            if let Some(node) = &mut self.node {
                node.conditions.get_mut("KernelOops").unwrap().status = "False".into();
            }
            self.node_version += 1;
            self.clears_at = None;
        }
        if self.rolled_out_at.is_some_and(|at| at <= now) {
            self.deployment.updated = 2;
            self.deployment.observed_generation = self.deployment.generation;
            self.rolled_out_at = None;
        }
    }

    fn look(&mut self) {
        self.seen.node.clone_from(&self.node);
        self.seen_version = self.node_version;
        self.seen.pods = self.pods.iter().map(|(pod, _)| pod.clone()).collect();
        self.seen.pods_confirmed = false;
        self.seen.objects.clear();
    }

    fn crash(&mut self) {
        self.memory = Memory::default();
        self.seen = World::default();
    }

    fn act(&mut self, act: &Act) -> Result<(), (bool, String)> {
        match act {
            Act::SetSchedulable { unschedulable, cordoned_by } => {
                if self.seen_version != self.node_version {
                    return Err((false, "conflict".into()));
                }
                let Some(node) = &mut self.node else { return Err((true, "not found".into())) };
                node.unschedulable = *unschedulable;
                node.cordoned_by.clone_from(cordoned_by);
                self.node_version += 1;
                self.effect(if *unschedulable { "cordon" } else { "uncordon" });
            }
            Act::Evict { pods } => {
                for pod in pods {
                    if self.stuck {
                        self.memory.note_refused(&pod.uid, "disruption budget".into(), None, self.now);
                        continue;
                    }
                    let ends = self.now + SignedDuration::from_secs(2);
                    let mut evicted = false;
                    for (there, end) in self.pods.iter_mut().filter(|(there, _)| there.uid == pod.uid) {
                        evicted = end.is_none();
                        end.get_or_insert(ends);
                        there.terminating = true;
                    }
                    if evicted {
                        self.effect(format!("evict {}", pod.name));
                    }
                    self.memory.note_evicted(&pod.uid);
                }
            }
            Act::Merge { patch, .. } => {
                if self.seen_deployment.as_ref() != Some(&self.deployment) {
                    return Err((false, "conflict".into()));
                }
                let key = &patch["spec"]["template"]["metadata"]["annotations"][names::ANNOTATION_RESTARTED_BY];
                self.deployment.restarted_by = key.as_str().map(ToOwned::to_owned);
                self.deployment.generation += 1;
                self.deployment.updated = 0;
                self.rolled_out_at = Some(self.now + SignedDuration::from_secs(3));
                self.effect("restart");
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    /// One question and its answer, with a fault. Returns whether the run is over.
    fn turn(&mut self, fault: Fault) -> bool {
        self.world_moves_on();
        if fault != Fault::Stale || self.seen.node.is_none() {
            self.look();
        }
        for _ in 0..3 {
            match next(&self.program, &self.status, &self.seen, &self.memory, self.now) {
                Action::Rest => return true,
                Action::Look(Look::Pods) => {
                    self.seen.pods = self.pods.iter().map(|(pod, _)| pod.clone()).collect();
                    self.seen.pods_confirmed = true;
                }
                Action::Look(Look::Object(name)) => {
                    self.seen_deployment = Some(self.deployment.clone());
                    let object = shown(&self.deployment);
                    self.seen.objects.insert(name, Some(object));
                }
                Action::Look(other) => panic!("{other:?}"),
                Action::Wait { holds, until, .. } => {
                    assert!(until > self.now, "it must not spin");
                    self.memory.note_hold(holds, self.now);
                    return false;
                }
                Action::Record(change) => {
                    if fault == Fault::CrashBefore {
                        self.crash();
                        return false;
                    }
                    self.status = apply(&self.status, self.program.spec(), &change, self.now);
                    if matches!(change, Change::Settle { .. }) {
                        self.memory = Memory::default();
                    }
                    if matches!(fault, Fault::CrashAfter | Fault::AnswerLost) {
                        self.crash();
                    }
                    return false;
                }
                Action::Perform(act) => {
                    if fault == Fault::CrashBefore {
                        self.crash();
                        return false;
                    }
                    let result = self.act(&act);
                    if let (Fault::AnswerLost, Act::Evict { pods }) = (fault, &act) {
                        self.memory = Memory::default();
                        pods.iter().for_each(|pod| self.memory.note_refused(&pod.uid, "?".into(), None, self.now));
                        return false;
                    }
                    match (fault, result) {
                        (Fault::CrashAfter, _) => self.crash(),
                        (Fault::AnswerLost, _) => self.memory.note_failure(false, "time-out".into(), self.now),
                        (_, Ok(())) => self.memory.note_success(),
                        (_, Err((permanent, why))) => self.memory.note_failure(permanent, why, self.now),
                    }
                    return false;
                }
            }
        }
        panic!("it looks again and again");
    }

    fn run(&mut self) -> RunPhase {
        for _ in 0..2_000 {
            if self.turn(Fault::None) {
                return self.status.phase;
            }
        }
        panic!("it never ends: {:#?}", self.status);
    }

    fn outcomes(&self) -> Vec<(String, Option<StepOutcome>)> {
        self.status.log.iter().map(|r| (r.action.clone(), r.outcome)).collect()
    }
}

#[test]
fn a_run_goes_through_all_steps_and_heals() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    assert_eq!(simulation.run(), RunPhase::Succeeded);
    let done = |action: &str| (action.to_owned(), Some(StepOutcome::Done));
    let actions = ["cordon", "drain", "wait", "restart", "uncordon", "verify"];
    assert_eq!(simulation.outcomes(), actions.map(done));
    assert!(simulation.effects.values().all(|count| *count == 1), "{:?}", simulation.effects);
    assert_eq!(simulation.status.log[0].pre_image["unschedulable"], false);
    assert!(!simulation.node.unwrap().unschedulable);
}

#[test]
fn every_act_is_preceded_by_its_intent_in_the_log() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    for _ in 0..500 {
        let effects = simulation.effects.clone();
        let over = simulation.turn(Fault::None);
        if simulation.effects != effects {
            let open = simulation.status.log.last().expect("an intent");
            assert!(open.outcome.is_none(), "{open:?}");
        }
        if over {
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn a_failed_drain_is_rolled_back_from_the_pre_image() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    simulation.stuck = true;
    assert_eq!(simulation.run(), RunPhase::RolledBack);
    let node = simulation.node.as_ref().unwrap();
    assert!(!node.unschedulable && node.cordoned_by.is_none());
    assert!(simulation.status.message.contains("disruption budget"), "{}", simulation.status.message);
    let last = simulation.status.log.last().unwrap();
    assert!(last.undo && last.index == 0 && last.outcome == Some(StepOutcome::Done));
}

#[test]
fn a_playbook_that_never_rolls_back_leaves_the_node_cordoned_for_a_person() {
    let mut simulation = Simulation::new(Rollback::Never);
    simulation.stuck = true;
    assert_eq!(simulation.run(), RunPhase::Failed);
    assert!(simulation.node.as_ref().unwrap().unschedulable);
    assert!(simulation.status.message.contains("left as it is"));
}

#[test]
fn a_node_that_a_person_cordoned_stays_cordoned() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    simulation.node.as_mut().unwrap().unschedulable = true;
    simulation.program.spec.plan.verify = None;
    assert_eq!(simulation.run(), RunPhase::Succeeded);
    assert_eq!(simulation.status.log[0].outcome, Some(StepOutcome::Skipped));
    assert_eq!(simulation.status.log[4].outcome, Some(StepOutcome::Skipped));
    assert!(simulation.node.as_ref().unwrap().unschedulable);
    assert_eq!(simulation.count("cordon") + simulation.count("uncordon"), 0);
}

#[test]
fn a_node_that_an_earlier_run_left_cordoned_is_taken_over_and_given_back() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    let node = simulation.node.as_mut().unwrap();
    (node.unschedulable, node.cordoned_by) = (true, Some("oops-abc-0".into()));
    assert_eq!(simulation.run(), RunPhase::Succeeded);
    assert!(!simulation.node.as_ref().unwrap().unschedulable);
    let mut failing = Simulation::new(Rollback::Automatic);
    let node = failing.node.as_mut().unwrap();
    (node.unschedulable, node.cordoned_by) = (true, Some("oops-abc-0".into()));
    failing.stuck = true;
    assert_eq!(failing.run(), RunPhase::RolledBack);
    assert_eq!(failing.node.as_ref().unwrap().cordoned_by.as_deref(), Some("oops-abc-0"));
}

#[test]
fn a_node_that_goes_away_fails_the_run_and_leaves_nothing_to_undo() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    for _ in 0..6 {
        simulation.turn(Fault::None);
    }
    simulation.node = None;
    assert_eq!(simulation.run(), RunPhase::RolledBack);
    assert_eq!(simulation.status.log.last().unwrap().outcome, Some(StepOutcome::Skipped));
}

#[test]
fn a_restart_by_someone_else_in_between_is_ambiguous_and_not_repeated() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    while simulation.status.log.last().is_none_or(|r| r.action != "restart") {
        simulation.turn(Fault::None);
    }
    simulation.deployment.restarted_by = Some("someone else".into());
    assert_eq!(simulation.run(), RunPhase::RolledBack);
    assert_eq!(simulation.status.log[3].outcome, Some(StepOutcome::Ambiguous));
    assert_eq!(simulation.count("restart"), 0);
}

#[test]
fn an_act_that_is_forbidden_fails_at_once() {
    let mut simulation = Simulation::new(Rollback::Never);
    simulation.turn(Fault::None);
    simulation.memory.note_failure(true, "nodes is forbidden".into(), simulation.now);
    assert!(!simulation.turn(Fault::None));
    assert_eq!(simulation.run(), RunPhase::Failed);
    assert!(simulation.status.message.contains("forbidden"));
}

#[test]
fn observing_says_what_would_have_been_done_and_does_nothing() {
    let mut simulation = Simulation::new(Rollback::Automatic);
    simulation.program.spec.plan.mode = PlaybookMode::Observe;
    assert_eq!(simulation.run(), RunPhase::Observed);
    assert!(simulation.effects.is_empty());
    assert!(simulation.status.message.contains("would have done: cordon, drain, wait, restart, uncordon, verify"));
}

#[test]
fn a_hold_that_breaks_begins_again() {
    let program = program(Rollback::Automatic);
    let record = StepRecord {
        index: 5,
        action: "verify".into(),
        undo: false,
        key: "k".into(),
        intended_at: start().to_string(),
        pre_image: Default::default(),
        outcome: None,
        finished_at: None,
        message: String::new(),
    };
    let status = PlaybookRunStatus { phase: RunPhase::Verifying, log: vec![record], ..Default::default() };
    let (mut memory, mut world) = (Memory::default(), World { node: Some(node()), ..World::default() });
    let mut ask = |world: &World, seconds: i64| {
        let now = start() + SignedDuration::from_secs(seconds);
        let action = next(&program, &status, world, &memory, now);
        if let Action::Wait { holds, .. } = action {
            memory.note_hold(holds, now);
        }
        action
    };
    assert!(matches!(ask(&world, 0), Action::Wait { holds: true, .. }));
    world.node.as_mut().unwrap().unschedulable = true;
    assert!(matches!(ask(&world, 4), Action::Wait { holds: false, .. }));
    world.node.as_mut().unwrap().unschedulable = false;
    assert!(matches!(ask(&world, 5), Action::Wait { holds: true, .. }));
    assert!(matches!(ask(&world, 9), Action::Wait { holds: true, .. }));
    assert!(matches!(ask(&world, 10), Action::Record(Change::Settle { outcome: StepOutcome::Done, .. })));
}

#[test]
fn refused_evictions_wait_as_long_as_the_server_says() {
    let mut memory = Memory::default();
    let now = start();
    memory.note_refused("a", "budget".into(), Some(std::time::Duration::from_secs(7)), now);
    assert!(!memory.eviction_due("a", now + SignedDuration::from_secs(6)));
    assert!(memory.eviction_due("a", now + SignedDuration::from_secs(7)));
    for _ in 0..10 {
        memory.note_refused("b", "budget".into(), None, now);
    }
    assert_eq!(memory.eviction_retry("b"), Some(now + SignedDuration::from_secs(5)));
}

#[test]
fn drains_leave_alone_what_would_not_go_or_would_come_back() {
    let mut pods = vec![pod("app"), pod("daemon"), pod("static"), pod("done")];
    (pods[1].daemon_set, pods[2].mirror, pods[3].finished) = (true, true, true);
    assert_eq!(evictable(&pods).map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["app"]);
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::CrashBefore),
        1 => Just(Fault::CrashAfter),
        1 => Just(Fault::AnswerLost),
        1 => Just(Fault::Stale),
    ]
}

/// Few by default; `make test-storms` asks for 10,000.
fn crashes() -> u32 {
    std::env::var("EVERGREEN_STORMS").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crashes(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_crashes_every_effect_happens_exactly_once(faults in prop::collection::vec(fault(), 0..60)) {
        let mut simulation = Simulation::new(Rollback::Automatic);
        for fault in faults {
            simulation.turn(fault);
        }
        let phase = simulation.run();
        prop_assert_eq!(phase, RunPhase::Succeeded, "{:#?}", simulation.status);
        for effect in ["cordon", "uncordon", "restart", "evict a", "evict b"] {
            prop_assert_eq!(simulation.count(effect), 1, "{}", effect);
        }
        prop_assert_eq!(simulation.status.log.len(), 6);
    }

    #[test]
    fn whatever_crashes_a_roll_back_restores_what_was_there(
        faults in prop::collection::vec(fault(), 0..60),
        cordoned in any::<bool>(),
        stuck_from in 0_usize..40,
    ) {
        let mut simulation = Simulation::new(Rollback::Automatic);
        simulation.clears_at = None;
        simulation.node.as_mut().unwrap().unschedulable = cordoned;
        for (turn, fault) in faults.into_iter().enumerate() {
            simulation.stuck |= turn >= stuck_from;
            simulation.turn(fault);
        }
        prop_assert_eq!(simulation.run(), RunPhase::RolledBack);
        let node = simulation.node.as_ref().unwrap();
        prop_assert_eq!((node.unschedulable, node.cordoned_by.as_deref()), (cordoned, None));
        let expected = u32::from(!cordoned);
        prop_assert_eq!((simulation.count("cordon"), simulation.count("uncordon")), (expected, expected));
    }
}

/// The same without chance: a crash before and after each single turn of a whole run.
#[test]
fn a_crash_at_every_single_boundary_is_resumed() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::AnswerLost, Fault::Stale] {
        for at in 0..80 {
            let mut simulation = Simulation::new(Rollback::Automatic);
            for _ in 0..at {
                simulation.turn(Fault::None);
            }
            simulation.turn(fault);
            assert_eq!(simulation.run(), RunPhase::Succeeded, "{fault:?} at {at}");
            assert!(
                simulation.effects.values().all(|count| *count == 1),
                "{fault:?} at {at}: {:?}",
                simulation.effects
            );
        }
    }
}
