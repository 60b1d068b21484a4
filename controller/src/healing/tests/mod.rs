//! Healing against an API server in memory, with faults, in virtual time.

mod fake_api;
mod people;
mod racks;

use std::time::Duration;

use evergreen_playbooks::view::PodView;
use evergreen_telemetry::{LogFormat, SpoolConfig, Telemetry, TelemetryConfig};
use fake_api::{FakeApi, Fault};
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    HealingContext, HealingOptions,
    evict::{Answer, EvictionApi},
    run,
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// Virtual time; a run that takes longer hangs.
const LONG: Duration = Duration::from_secs(3_600);

fn node(name: &str, oops: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "labels": {"topology.kubernetes.io/zone": "z"},
            "annotations": {"evergreen.dev/traceparent.KernelOops": TRACE}
        },
        "spec": {},
        "status": {"conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "KernelOops", "status": oops}
        ]}
    })
}

fn pod(name: &str, node: &str, owner: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": owner, "name": "x", "uid": "x", "controller": true}]
        },
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running"}
    })
}

fn playbook(mode: &str, wait: &str) -> Value {
    json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "Playbook",
        "metadata": {"name": "oops", "generation": 1},
        "spec": {
            "summary": "test", "mode": mode,
            "match": [{"nodeCondition": {"type": "KernelOops"}}],
            "steps": [{"cordon": {}}, {"drain": {"timeout": "5m"}}, {"wait": {"until": wait, "timeout": "1m"}}, {"uncordon": {}}],
            "verify": {"that": "node.ready && !node.unschedulable", "for": "5s"}
        }
    })
}

/// Three nodes, one of them ill with two pods and a daemon on it.
fn data_center(mode: &str) -> FakeApi {
    let api = FakeApi::new();
    for (name, oops) in [("n1", "True"), ("n2", "False"), ("n3", "False")] {
        api.put("nodes", None, node(name, oops));
    }
    for (name, owner) in [("a", "ReplicaSet"), ("b", "ReplicaSet"), ("daemon", "DaemonSet")] {
        api.put("pods", Some("shop"), pod(name, "n1", owner));
    }
    api.put("playbooks", None, playbook(mode, "node.podCount == 1"));
    api
}

fn context(api: &FakeApi) -> HealingContext {
    let telemetry = Telemetry::start(&TelemetryConfig {
        service: "evergreen-controller",
        version: "test",
        site: "dc-a".into(),
        node: None,
        metric_interval: Duration::from_secs(60),
        log_format: LogFormat::Text,
        spool: SpoolConfig::default(),
    })
    .unwrap();
    HealingContext {
        client: api.client(),
        site: "dc-a".into(),
        incidents: telemetry.incidents(),
        meter: telemetry.meter(),
        began: jiff::Timestamp::now(),
        options: HealingOptions::default(),
    }
}

/// Heals until every run is over and there is at least one; the condition stays, so a cooldown follows.
async fn heal(api: &FakeApi) -> Value {
    let cancel = CancellationToken::new();
    let healing = tokio::spawn(run(context(api), cancel.clone()));
    let over = async {
        loop {
            let runs = api.list("playbookruns");
            if !runs.is_empty() && runs.iter().all(|run| !run["status"]["finishedAt"].is_null()) {
                // The last Event is written beside the run.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return runs[0].clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let run =
        tokio::time::timeout(LONG, over).await.unwrap_or_else(|_| panic!("stuck: {:#?}", api.list("playbookruns")));
    cancel.cancel();
    healing.await.unwrap().unwrap();
    run
}

fn effects(api: &FakeApi) -> Vec<(String, u32)> {
    api.effects().into_iter().collect()
}

fn each_once() -> Vec<(String, u32)> {
    ["cordon", "create run", "evict a", "evict b", "uncordon"].map(|effect| (effect.to_owned(), 1)).to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_condition_is_healed_and_every_intent_is_written_before_its_act() {
    let api = data_center("enforce");
    let run = heal(&api).await;
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    assert_eq!(run["spec"]["traceparent"], TRACE);
    assert_eq!(run["metadata"]["annotations"]["evergreen.dev/traceparent"], TRACE);
    assert_eq!(effects(&api), each_once());
    assert!(api.get("pods", Some("shop"), "daemon").is_some());
    let node = api.get("nodes", None, "n1").unwrap();
    assert!(
        node["spec"]["unschedulable"].is_null()
            && node["metadata"]["annotations"]["evergreen.dev/cordoned-by"].is_null()
    );
    let requests = api.requests();
    let position = |what: &str| requests.iter().position(|request| request.contains(what)).unwrap();
    assert!(position("playbookruns") < position("PUT"), "{requests:#?}");
    assert!(position("PUT") < position("PATCH /api/v1/nodes/n1"), "{requests:#?}");
    assert!(position("PATCH /api/v1/nodes/n1") < position("eviction"), "{requests:#?}");
    assert_eq!(event_reasons(&api), ["PlaybookStarted", "PlaybookSucceeded"]);
}

/// Sorted: their names are drawn.
fn event_reasons(api: &FakeApi) -> Vec<String> {
    let reason = |event: &Value| event["reason"].as_str().unwrap_or_default().to_owned();
    let mut reasons: Vec<String> = api.list("events").iter().map(reason).collect();
    reasons.sort();
    reasons
}

#[tokio::test(start_paused = true)]
async fn events_go_where_this_api_server_takes_them() {
    let api = data_center("enforce");
    let path = "/namespaces/default/events";
    api.fault(Fault { method: Method::POST, path, times: u32::MAX, code: 422, retry_after: None, lands: false });
    heal(&api).await;
    assert_eq!(event_reasons(&api), ["PlaybookStarted", "PlaybookSucceeded"]);
    assert_eq!(api.requests().iter().filter(|request| request.contains(path)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn observing_writes_down_what_would_have_been_done_and_touches_nothing() {
    let api = data_center("observe");
    let run = heal(&api).await;
    assert_eq!(run["status"]["phase"], "Observed");
    assert!(run["status"]["message"].as_str().unwrap().contains("would have done: cordon, drain"), "{run:#}");
    assert_eq!(effects(&api), [("create run".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_playbook_is_told_so_and_never_runs() {
    let api = FakeApi::new();
    api.put("nodes", None, node("n1", "True"));
    api.put("nodes", None, node("n2", "False"));
    api.put("playbooks", None, playbook("enforce", "nod.ready"));
    let mut unreadable = playbook("enforce", "node.ready");
    unreadable["metadata"]["name"] = "unreadable".into();
    unreadable["spec"]["guards"] = json!({"cooldown": "soon"});
    api.put("playbooks", None, unreadable);
    let cancel = CancellationToken::new();
    let healing = tokio::spawn(run(context(&api), cancel.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    cancel.cancel();
    healing.await.unwrap().unwrap();
    let condition = |name: &str| api.get("playbooks", None, name).unwrap()["status"]["conditions"][0].clone();
    let wrong = condition("oops");
    assert_eq!((&wrong["type"], &wrong["status"]), (&json!("Accepted"), &json!("False")));
    assert!(
        wrong["message"].as_str().unwrap().starts_with("spec.steps[2].wait.until: unknown variable `nod`"),
        "{wrong}"
    );
    assert_eq!(condition("unreadable")["reason"], "Unreadable");
    assert!(api.list("playbookruns").is_empty());
}

#[tokio::test(start_paused = true)]
async fn conflicts_on_a_busy_node_are_tried_again_and_cordon_once() {
    let api = data_center("enforce");
    let fault =
        |times, code| Fault { method: Method::PATCH, path: "/nodes/n1", times, code, retry_after: None, lands: false };
    api.fault(fault(5, 409));
    api.fault(fault(2, 500));
    assert_eq!(heal(&api).await["status"]["phase"], "Succeeded");
    assert_eq!(effects(&api), each_once());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_landed_without_an_answer_is_not_done_twice() {
    for path in ["/nodes/n1", "/playbookruns", "eviction"] {
        let api = data_center("enforce");
        for method in [Method::PATCH, Method::POST, Method::PUT] {
            api.fault(Fault { method, path, times: 1, code: 504, retry_after: None, lands: true });
        }
        assert_eq!(heal(&api).await["status"]["phase"], "Succeeded", "{path}");
        assert_eq!(effects(&api), each_once(), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disruption_budget_is_waited_for_as_long_as_it_says() {
    let api = data_center("enforce");
    let path = "/pods/a/eviction";
    api.fault(Fault { method: Method::POST, path, times: 3, code: 429, retry_after: Some(20), lands: false });
    let began = tokio::time::Instant::now();
    assert_eq!(heal(&api).await["status"]["phase"], "Succeeded");
    assert!(began.elapsed() >= Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(effects(&api), each_once());
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_never_opens_fails_the_drain_and_gives_the_node_back() {
    let api = data_center("enforce");
    let path = "/pods/a/eviction";
    api.fault(Fault { method: Method::POST, path, times: u32::MAX, code: 429, retry_after: None, lands: false });
    let run = heal(&api).await;
    assert_eq!(run["status"]["phase"], "RolledBack", "{run:#}");
    assert!(run["status"]["message"].as_str().unwrap().contains("shop/a (as the test asked)"), "{run:#}");
    assert!(api.get("nodes", None, "n1").unwrap()["spec"]["unschedulable"].is_null());
    assert!(api.get("pods", Some("shop"), "a").is_some());
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_is_forbidden_is_not_asked_for_again() {
    let api = data_center("enforce");
    let path = "/pods/a/eviction";
    api.fault(Fault { method: Method::POST, path, times: u32::MAX, code: 403, retry_after: None, lands: false });
    assert_eq!(heal(&api).await["status"]["phase"], "RolledBack");
    assert_eq!(api.requests().iter().filter(|request| request.contains("/pods/a/eviction")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_write_the_next_leader_finishes_and_nothing_happens_twice() {
    for lands in [false, true] {
        for at in 1..=24 {
            let api = data_center("enforce");
            let cancel = CancellationToken::new();
            api.kill_at_write(at, lands, cancel.clone());
            // Shorter than the cooldown: a run that is over before that write is not tried again.
            let first = tokio::time::timeout(Duration::from_secs(600), run(context(&api), cancel.clone())).await;
            assert!(first.is_ok() == cancel.is_cancelled(), "write {at}");
            api.kill_at_write(usize::MAX, lands, CancellationToken::new());
            let run = heal(&api).await;
            assert_eq!(run["status"]["phase"], "Succeeded", "killed at write {at}, lands {lands}: {run:#}");
            assert_eq!(effects(&api), each_once(), "killed at write {at}, lands {lands}");
        }
    }
}

fn view(name: &str, uid: &str) -> PodView {
    PodView {
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        node: "n1".into(),
        daemon_set: false,
        mirror: false,
        finished: false,
        terminating: false,
    }
}

#[tokio::test(start_paused = true)]
async fn old_api_servers_are_asked_with_the_old_eviction_and_discovery_happens_once() {
    for (listed, evictions) in [(Some("v1"), 2), (Some("v1beta1"), 2), (None, 2)] {
        let api = data_center("observe");
        api.evictions_are(listed);
        let eviction = EvictionApi::default();
        for name in ["a", "b"] {
            assert_eq!(eviction.evict(&api.client(), &view(name, &format!("uid-{name}"))).await, Answer::Accepted);
        }
        let requests = api.requests();
        assert_eq!(requests.iter().filter(|request| request.contains("eviction")).count(), evictions);
        assert_eq!(requests.len(), evictions + 1, "{requests:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_same_name_with_another_uid_is_left_alone() {
    let api = data_center("observe");
    let eviction = EvictionApi::default();
    assert_eq!(eviction.evict(&api.client(), &view("a", "uid-of-an-earlier-pod")).await, Answer::Gone);
    assert_eq!(eviction.evict(&api.client(), &view("gone", "uid-gone")).await, Answer::Gone);
    assert!(api.effects().is_empty());
}
