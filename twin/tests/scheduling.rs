//! Where pods go: spread, affinity, volumes, priority and preemption, as kube-scheduler documents them.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::collections::BTreeMap;
use std::time::Duration;

use evergreen_twin::{NodeSpec, Twin};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Nodes by zone, each of so many cores.
fn twin(zones: &[(&str, usize)], cores: u32) -> Twin {
    let mut builder = Twin::builder("dc-a").epoch(Timestamp::from_second(1_767_225_600).unwrap()).held();
    for (zone, count) in zones {
        for n in 0..*count {
            let node = NodeSpec::new(&format!("{zone}-{n}")).zone(zone).capacity(cores, 64 << 30);
            builder = builder.node(node.label("topology.kubernetes.io/zone", zone));
        }
    }
    let twin = builder.build();
    advance(&twin, 5);
    twin
}

fn advance(twin: &Twin, seconds: u64) {
    twin.advance(Duration::from_secs(seconds));
}

fn pod(twin: &Twin, name: &str, app: &str, spec: Value) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}}, "spec": spec});
    if pod["spec"]["containers"].is_null() {
        pod["spec"]["containers"] = json!([{"name": "c", "image": "a:1"}]);
    }
    twin.api().create_object(&pod).unwrap();
}

fn read(twin: &Twin, name: &str) -> Value {
    twin.api().read("", "pods", "default", name).unwrap_or_default()
}

fn node_of(twin: &Twin, name: &str) -> Option<String> {
    read(twin, name)["spec"]["nodeName"].as_str().map(str::to_owned)
}

fn by_zone(twin: &Twin) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in twin.api().read_all("", "pods", Some("default")) {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("nowhere-x");
        *counts.entry(node.rsplit_once('-').unwrap().0.to_owned()).or_default() += 1;
    }
    counts
}

fn message(twin: &Twin, name: &str) -> String {
    let pod = read(twin, name);
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let scheduled = conditions.iter().find(|c| c["type"] == "PodScheduled").cloned().unwrap_or_default();
    scheduled["message"].as_str().unwrap_or_default().to_owned()
}

fn spread(when: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "shop"}}}]})
}

fn sized(cpu: &str) -> Value {
    json!([{"name": "c", "image": "a:1", "resources": {"requests": {"cpu": cpu}}}])
}

#[test]
fn a_hard_spread_keeps_the_skew_and_waits_rather_than_break_it() {
    let twin = twin(&[("a", 2), ("b", 1)], 32);
    for n in 0..6 {
        pod(&twin, &format!("p{n}"), "shop", spread("DoNotSchedule"));
    }
    advance(&twin, 30);
    assert_eq!(by_zone(&twin), BTreeMap::from([("a".into(), 3), ("b".into(), 3)]));
    let cordon = json!({"unschedulable": true});
    let context = evergreen_twin::apiserver::write::WriteContext::default();
    let nodes = twin.api().registry().get("", "v1", "nodes").unwrap();
    let set = |old: &Value| {
        Ok({
            let mut new = old.clone();
            new["spec"]["unschedulable"] = cordon["unschedulable"].clone();
            new
        })
    };
    twin.api().update(&nodes, "", "b-0", &context, set).unwrap();
    pod(&twin, "one-more", "shop", spread("DoNotSchedule"));
    pod(&twin, "too-many", "shop", spread("DoNotSchedule"));
    advance(&twin, 30);
    assert_eq!(by_zone(&twin).get("a"), Some(&4));
    assert_eq!(
        message(&twin, "too-many"),
        "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints."
    );
}

#[test]
fn a_soft_spread_is_kept_while_it_can_be() {
    let twin = twin(&[("a", 3), ("b", 1)], 1);
    for n in 0..8 {
        let mut spec = spread("ScheduleAnyway");
        spec["containers"] = sized("400m");
        pod(&twin, &format!("p{n}"), "shop", spec);
    }
    advance(&twin, 30);
    assert_eq!(by_zone(&twin), BTreeMap::from([("a".into(), 6), ("b".into(), 2)]), "b has room for two only");
}

#[test]
fn affinity_draws_together_and_anti_affinity_keeps_apart_both_ways() {
    let twin = twin(&[("a", 2), ("b", 2)], 32);
    let term = |app: &str, key: &str| json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}]);
    let (zone, host) = ("topology.kubernetes.io/zone", "kubernetes.io/hostname");
    let near = |app: &str| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app, zone)}}});
    let far = |app: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app, host)}}});
    pod(&twin, "lonely", "cache", near("db"));
    advance(&twin, 5);
    assert_eq!(message(&twin, "lonely"), "0/4 nodes are available: 4 node(s) didn't match pod affinity rules.");
    pod(&twin, "first", "db", near("db"));
    advance(&twin, 10);
    let zone_of = |name: &str| node_of(&twin, name).map(|n| n[..1].to_owned());
    assert!(zone_of("first").is_some(), "the first of its kind is its own company");
    assert_eq!(zone_of("lonely"), zone_of("first"));
    for n in 0..5 {
        pod(&twin, &format!("far{n}"), "far", far("far"));
    }
    advance(&twin, 30);
    let hosts: std::collections::BTreeSet<_> = (0..5).filter_map(|n| node_of(&twin, &format!("far{n}"))).collect();
    assert_eq!(hosts.len(), 4);
    pod(&twin, "shy", "shy", far("plain"));
    advance(&twin, 5);
    let shy = node_of(&twin, "shy").unwrap();
    pod(&twin, "plain", "plain", json!({"nodeSelector": {"kubernetes.io/hostname": shy}}));
    advance(&twin, 5);
    let why = message(&twin, "plain");
    assert!(why.contains("1 node(s) didn't satisfy existing pods anti-affinity rules"), "{why}");
}

#[test]
fn a_volume_holds_its_pod_in_its_zone() {
    let twin = twin(&[("a", 2), ("b", 2)], 32);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "v", "labels": {"topology.kubernetes.io/zone": "b"}},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "v"}});
    twin.api().create_object(&volume).unwrap();
    twin.api().create_object(&claim).unwrap();
    for n in 0..3 {
        let spec = json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]});
        pod(&twin, &format!("p{n}"), "db", spec);
    }
    advance(&twin, 30);
    assert_eq!(by_zone(&twin), BTreeMap::from([("b".into(), 3)]));
}

#[test]
fn a_pod_of_higher_priority_makes_room_at_the_least_price() {
    let twin = twin(&[("a", 2)], 2);
    for (name, value) in [("low", 10), ("mid", 100), ("high", 1000)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
        twin.api().create_object(&class).unwrap();
    }
    let of = |class: &str, node: &str| {
        json!({"priorityClassName": class, "containers": sized("1"), "terminationGracePeriodSeconds": 30,
        "nodeSelector": if node.is_empty() { json!({}) } else { json!({"kubernetes.io/hostname": node}) }})
    };
    pod(&twin, "mid-0", "x", of("mid", "a-0"));
    pod(&twin, "mid-1", "x", of("mid", "a-0"));
    pod(&twin, "mid-2", "x", of("mid", "a-1"));
    pod(&twin, "low-3", "x", of("low", "a-1"));
    advance(&twin, 30);
    pod(&twin, "no-better", "x", of("low", ""));
    advance(&twin, 5);
    assert_eq!(node_of(&twin, "no-better"), None);
    pod(&twin, "urgent", "x", of("high", ""));
    // Pods stop within a second of being told to.
    advance(&twin, 10);
    assert_eq!(node_of(&twin, "urgent").as_deref(), Some("a-1"));
    assert_eq!(read(&twin, "urgent")["status"]["nominatedNodeName"], "a-1");
    assert!(read(&twin, "low-3").is_null(), "the lowest went");
    for name in ["mid-0", "mid-1", "mid-2"] {
        assert!(node_of(&twin, name).is_some(), "{name} stayed");
    }
    let mut patient = of("high", "");
    patient["preemptionPolicy"] = json!("Never");
    pod(&twin, "patient", "x", patient);
    advance(&twin, 10);
    assert_eq!(node_of(&twin, "patient"), None, "it waits its turn");
}
