//! Real controllers on a real API server: a playbook that cordons and drains through evictions and a budget, a leader
//! that dies, and a run that is broken off in the middle.

use std::time::Duration;

use evergreen_api::{
    names,
    resources::{PlaybookRunStatus, RunPhase, StepOutcome},
};
use evergreen_tests::{
    controller::{self, leader, playbook, prepare, run_of, runs_for},
    kubernetes::{Cluster, cluster},
    node::SimulatedNode,
    rights::kubeconfig_of,
    wait::eventually,
    workload::Workload,
};
use kube::ResourceExt;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const PROBLEM: &str = "KernelOops";

/// Move the pods, wait until the problem is gone, give the node back.
fn move_and_return() -> Value {
    json!({
        "summary": "A kernel hit an oops: move the node's pods, wait, give it back.",
        "mode": "enforce",
        "match": [{"nodeCondition": {"type": PROBLEM}}],
        "guards": {"budget": {"maxUnavailable": 1, "minHealthy": "50%"}, "storm": {"maxUnhealthy": "50%"}},
        "steps": [
            {"cordon": {}},
            {"drain": {"timeout": "2m"}},
            {"wait": {"until": format!("!node.condition('{PROBLEM}')"), "timeout": "2m"}},
            {"uncordon": {}},
        ],
        "verify": {"that": "node.ready && !node.unschedulable", "for": "1s", "timeout": "30s"},
    })
}

/// Three nodes of one zone; the service starts on the first, so that its drain has to move everything.
async fn stage(cluster: &Cluster, name: &str) -> (Vec<SimulatedNode>, Workload) {
    let mut nodes = vec![SimulatedNode::create(&cluster.client, &format!("{name}-1"), "zone-1").await];
    cluster.namespace(name).await;
    let mut workload = Workload::create(&cluster.client, name, "web", 3, 2).await;
    workload.ready().await;
    assert_eq!(workload.pods_on(nodes[0].name()).await.expect("pods are listed"), 3);
    for number in 2..=3 {
        nodes.push(SimulatedNode::create(&cluster.client, &format!("{name}-{number}"), "zone-1").await);
    }
    workload.watch();
    (nodes, workload)
}

async fn clear(nodes: Vec<SimulatedNode>, workload: Workload) {
    workload.remove().await;
    for node in nodes {
        node.remove().await;
    }
}

fn actions(status: &PlaybookRunStatus) -> Vec<(&str, Option<StepOutcome>)> {
    status.log.iter().map(|record| (record.action.as_str(), record.outcome)).collect()
}

/// Each step was intended once, and what had to be done was done.
fn assert_done_once(status: &PlaybookRunStatus) {
    assert_eq!(status.phase, RunPhase::Succeeded, "{}", status.message);
    let names: Vec<&str> = status.log.iter().map(|record| record.action.as_str()).collect();
    assert_eq!(names, ["cordon", "drain", "wait", "uncordon", "verify"], "{:#?}", status.log);
    assert!(
        status.log.iter().all(|r| matches!(r.outcome, Some(StepOutcome::Done | StepOutcome::Skipped)) && !r.undo),
        "{:#?}",
        actions(status)
    );
}

#[tokio::test]
async fn a_playbook_drains_a_node_through_evictions_and_never_breaks_a_budget() {
    let Some(cluster) = cluster("cluster: cordon and drain").await else { return };
    prepare(&cluster).await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig_of("controller", &cluster, dir.path()).await;
    let (nodes, workload) = stage(&cluster, "drain").await;
    let mut controller = controller::start(&kubeconfig, "one", dir.path(), None);
    playbook(&cluster.client, "move-and-return", move_and_return()).await;
    leader(&cluster.client, |_| true).await;

    nodes[0].condition(PROBLEM, true, "Oops").await;
    let waiting = |status: &PlaybookRunStatus| status.log.last().is_some_and(|record| record.action == "wait");
    run_of(&cluster.client, nodes[0].name(), "the node is drained", MINUTE, waiting).await;
    let node = nodes[0].get().await.unwrap();
    assert_eq!(node.spec.as_ref().unwrap().unschedulable, Some(true));
    assert!(node.annotations().contains_key(names::ANNOTATION_CORDONED_BY));
    assert_eq!(workload.pods_on(nodes[0].name()).await.unwrap(), 0);
    assert!(workload.least_ready() >= 2, "only {} pods were ready at some moment", workload.least_ready());

    nodes[0].condition(PROBLEM, false, "Rebooted").await;
    let done = |status: &PlaybookRunStatus| status.phase.is_final();
    let status = run_of(&cluster.client, nodes[0].name(), "the run ends", MINUTE, done).await;
    assert_done_once(&status);
    let node = nodes[0].get().await.unwrap();
    assert_ne!(node.spec.as_ref().unwrap().unschedulable, Some(true));
    assert!(!node.annotations().contains_key(names::ANNOTATION_CORDONED_BY));

    controller.stop(Duration::from_secs(10)).expect("the controller stops on SIGTERM");
    clear(nodes, workload).await;
}

#[tokio::test]
async fn when_the_leader_is_killed_the_other_replica_heals() {
    let Some(cluster) = cluster("cluster: leader election").await else { return };
    prepare(&cluster).await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig_of("controller", &cluster, dir.path()).await;
    let (nodes, workload) = stage(&cluster, "election").await;
    let mut replicas = [
        ("one", controller::start(&kubeconfig, "one", dir.path(), None)),
        ("two", controller::start(&kubeconfig, "two", dir.path(), None)),
    ];
    playbook(&cluster.client, "move-and-return", move_and_return()).await;
    let first = leader(&cluster.client, |_| true).await;
    for (name, process) in &mut replicas {
        if *name == first {
            process.kill();
        } else {
            assert!(process.runs(), "the standby ended: {}", process.log_tail());
        }
    }
    let second = leader(&cluster.client, |holder| holder != first).await;
    assert_ne!(first, second);

    nodes[0].condition(PROBLEM, true, "Oops").await;
    let waiting = |status: &PlaybookRunStatus| status.log.last().is_some_and(|record| record.action == "wait");
    run_of(&cluster.client, nodes[0].name(), "the other replica drains", MINUTE, waiting).await;
    nodes[0].condition(PROBLEM, false, "Rebooted").await;
    let done = |status: &PlaybookRunStatus| status.phase.is_final();
    assert_done_once(&run_of(&cluster.client, nodes[0].name(), "the run ends", MINUTE, done).await);
    clear(nodes, workload).await;
}

#[tokio::test]
async fn a_run_that_is_broken_off_by_kill_9_goes_on_and_does_nothing_twice() {
    let Some(cluster) = cluster("cluster: kill -9 in the middle of a run").await else { return };
    prepare(&cluster).await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig_of("controller", &cluster, dir.path()).await;
    let (nodes, workload) = stage(&cluster, "resume").await;
    // Nothing may leave yet, so the drain is under way for as long as this test wants.
    workload.budget(3).await;
    let mut controller = controller::start(&kubeconfig, "one", dir.path(), None);
    playbook(&cluster.client, "move-and-return", move_and_return()).await;

    nodes[0].condition(PROBLEM, true, "Oops").await;
    let draining = |status: &PlaybookRunStatus| status.log.last().is_some_and(|record| record.action == "drain");
    let before = run_of(&cluster.client, nodes[0].name(), "the drain begins", MINUTE, draining).await;
    let cordoned = nodes[0].get().await.unwrap();
    controller.kill();
    assert_eq!(workload.pods_on(nodes[0].name()).await.unwrap(), 3, "the budget forbids every eviction");

    let mut controller = controller::start(&kubeconfig, "two", dir.path(), None);
    leader(&cluster.client, |holder| holder == "two").await;
    workload.budget(2).await;
    let waiting = |status: &PlaybookRunStatus| status.log.last().is_some_and(|record| record.action == "wait");
    run_of(&cluster.client, nodes[0].name(), "the drain goes on", MINUTE, waiting).await;
    // And once more, now between steps.
    controller.kill();
    let _third = controller::start(&kubeconfig, "three", dir.path(), None);
    nodes[0].condition(PROBLEM, false, "Rebooted").await;
    let done = |status: &PlaybookRunStatus| status.phase.is_final();
    let status = run_of(&cluster.client, nodes[0].name(), "the run ends", MINUTE, done).await;

    assert_done_once(&status);
    assert_eq!(runs_for(&cluster.client, nodes[0].name()).await.unwrap().len(), 1);
    assert_eq!(status.log[0], before.log[0], "the cordon was written anew");
    assert_eq!(status.log[1].intended_at, before.log[1].intended_at, "the drain was intended anew");
    let mark = |node: &k8s_openapi::api::core::v1::Node| node.annotations().get(names::ANNOTATION_CORDONED_BY).cloned();
    assert!(mark(&cordoned).is_some());
    assert!(workload.least_ready() >= 2, "only {} pods were ready at some moment", workload.least_ready());
    eventually("the node serves again", MINUTE, || async {
        let node = nodes[0].get().await?;
        if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
            Err("cordoned".into())
        } else {
            Ok(())
        }
    })
    .await;
    clear(nodes, workload).await;
}
