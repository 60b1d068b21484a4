//! Forks, virtual time and snapshots: what a rehearsal stands on.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::time::Duration;

use evergreen_twin::{NodeSpec, Timing, Twin};
use jiff::Timestamp;
use serde_json::{Value, json};

fn twin(nodes: usize) -> Twin {
    let mut builder = Twin::builder("dc-a").epoch(Timestamp::from_second(1_767_225_600).unwrap()).held();
    for n in 0..nodes {
        builder = builder.node(NodeSpec::new(&format!("n{n}")).zone(if n % 2 == 0 { "z1" } else { "z2" }));
    }
    builder.build()
}

fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image,
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}}}})
}

fn ready(twin: &Twin) -> usize {
    let pods = twin.api().read_all("", "pods", None);
    pods.iter().filter(|p| p["status"]["conditions"].to_string().contains(r#""type":"Ready","status":"True""#)).count()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn time_passes_only_when_it_is_told_to_and_brings_everything_that_falls_due() {
    let twin = twin(4);
    twin.api().create_object(&deployment("shop", 6, "shop:1")).unwrap();
    let begin = twin.api().clock().now();
    assert_eq!(ready(&twin), 0);
    twin.advance(seconds(60));
    assert_eq!(twin.api().clock().now().duration_since(begin), jiff::SignedDuration::from_secs(60));
    assert_eq!(ready(&twin), 6);
}

#[test]
fn a_fork_goes_its_own_way_and_the_same_doings_give_the_same_future() {
    let original = twin(6);
    original.api().create_object(&deployment("shop", 12, "shop:1")).unwrap();
    original.advance(seconds(60));
    let before = original.api().store().digest();
    let futures: Vec<u64> = (0..2)
        .map(|_| {
            let fork = original.fork();
            assert_eq!(fork.api().store().digest(), before);
            fork.stop_node("n1");
            fork.advance(seconds(30));
            assert_eq!(ready(&fork), 12, "nobody knows yet");
            fork.advance(seconds(40));
            assert_eq!(ready(&fork), 10);
            fork.advance(seconds(320));
            assert_eq!(ready(&fork), 12, "moved after tolerationSeconds");
            assert!(
                fork.api().read_all("", "pods", None).iter().filter(|p| p["spec"]["nodeName"] == "n1").count() == 2
            );
            fork.api().store().digest()
        })
        .collect();
    assert_eq!(futures[0], futures[1]);
    assert_ne!(futures[0], before);
    assert_eq!(original.api().store().digest(), before, "the original has seen nothing of it");
    original.advance(seconds(400));
    assert_eq!(ready(&original), 12);
}

#[test]
fn a_snapshot_is_taken_in_as_it_is_and_lives_on_when_time_passes() {
    let source = twin(3);
    source.api().create_object(&deployment("shop", 5, "shop:1")).unwrap();
    source.advance(seconds(60));
    let mut snapshot = Vec::new();
    for (group, plural) in
        [("", "namespaces"), ("", "nodes"), ("", "pods"), ("apps", "replicasets"), ("apps", "deployments")]
    {
        snapshot.extend(source.api().read_all(group, plural, None));
    }
    let count = snapshot.len();
    snapshot.push(json!({"apiVersion": "v1", "kind": "Gadget", "metadata": {"name": "g"}}));
    snapshot.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default"}}));
    snapshot.push(snapshot[count - 1].clone());
    let copy = Twin::builder("copy").epoch(source.api().clock().now()).timing(Timing::kubernetes()).held().build();
    let loaded = copy.load(snapshot);
    assert_eq!(loaded.taken, count);
    let why: Vec<&str> = loaded.refused.iter().map(|r| r.why.as_str()).collect();
    let words = [
        "metadata.name: Required value",
        "it is in the snapshot twice",
        "no kind \"Gadget\" is served in version \"v1\"",
    ];
    assert_eq!(why, words, "those of unknown kinds come last");
    for plural in ["nodes", "pods"] {
        assert_eq!(copy.api().read_all("", plural, None), source.api().read_all("", plural, None));
    }
    copy.advance(seconds(120));
    assert_eq!(copy.api().read_all("", "pods", None), source.api().read_all("", "pods", None), "nothing to do");
    copy.stop_node("n0");
    copy.advance(seconds(400));
    assert_eq!(ready(&copy), 5);
}

#[test]
fn owners_that_were_not_part_of_a_snapshot_are_not_taken_for_dead() {
    let twin = twin(1);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop", "uid": "u-p",
            "resourceVersion": "900", "ownerReferences": [{"apiVersion": "x/v1", "kind": "Thing", "name": "t", "uid": "u-t", "controller": true}]},
        "spec": {"nodeName": "n0", "containers": [{"name": "c", "image": "a"}]}, "status": {"phase": "Pending"}});
    assert_eq!(twin.load([pod]).taken, 1);
    assert_eq!(twin.api().read("", "pods", "shop", "p").unwrap()["metadata"]["resourceVersion"], "900");
    twin.advance(seconds(60));
    let pod = twin.api().read("", "pods", "shop", "p").unwrap();
    assert_eq!((&pod["status"]["phase"], &pod["metadata"]["uid"]), (&json!("Running"), &json!("u-p")));
}

#[test]
fn leases_that_nobody_watches_are_written_when_somebody_reads_them() {
    let twin = twin(2);
    twin.advance(seconds(25));
    let version = twin.api().store().version();
    let renewed = |twin: &Twin| {
        twin.api().read("coordination.k8s.io", "leases", "kube-node-lease", "n0").unwrap()["spec"]["renewTime"].clone()
    };
    assert_eq!(renewed(&twin), "2026-01-01T00:00:20.000000Z");
    assert_eq!(twin.api().store().version(), version + 1);
    twin.advance(seconds(7200));
    assert_eq!(twin.api().store().version(), version + 1, "two quiet hours write nothing");
    assert_eq!(renewed(&twin), "2026-01-01T02:00:20.000000Z");
    twin.stop_node("n0");
    twin.advance(seconds(44));
    assert_eq!(renewed(&twin), "2026-01-01T02:00:20.000000Z");
    let state =
        |twin: &Twin| twin.api().read("", "nodes", "", "n0").unwrap()["status"]["conditions"][3]["status"].clone();
    assert_eq!(state(&twin), "True");
    twin.advance(seconds(5));
    assert_eq!(state(&twin), "Unknown", "50 s after the last renewal");
}
