//! Lives of pods and Jobs: crash loops, back-off, schedules with time zones, what goes after a while.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::time::Duration;

use evergreen_twin::{NodeSpec, Twin};
use serde_json::{Value, json};

fn twin(epoch: &str) -> Twin {
    let twin = Twin::builder("dc-a").epoch(epoch.parse().unwrap()).held().node(NodeSpec::new("n1")).build();
    twin.advance(Duration::from_secs(5));
    twin
}

fn advance(twin: &Twin, seconds: u64) {
    twin.advance(Duration::from_secs(seconds));
}

fn pod(twin: &Twin, name: &str, policy: &str, annotations: Value) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "a:1"}]}});
    twin.api().create_object(&pod).unwrap();
}

fn status(twin: &Twin, name: &str) -> Value {
    twin.api().read("", "pods", "default", name).unwrap_or_default()["status"].take()
}

fn container(twin: &Twin, name: &str) -> (i64, String) {
    let status = status(twin, name);
    let own = &status["containerStatuses"][0];
    let state = own["state"]["waiting"]["reason"]
        .as_str()
        .map_or_else(|| own["state"].as_object().unwrap().keys().next().unwrap().clone(), str::to_owned);
    (own["restartCount"].as_i64().unwrap(), state)
}

#[test]
fn a_crashing_container_is_started_again_at_once_and_then_ever_later() {
    let twin = twin("2026-01-01T00:00:00Z");
    pod(&twin, "p", "Always", json!({"twin.evergreen.dev/crash-after": "20s"}));
    advance(&twin, 4);
    assert_eq!(container(&twin, "p"), (0, "running".into()));
    // It runs at 2 s, crashes at 22 s, runs again at once, crashes at 42 s, and then waits for 10 s.
    advance(&twin, 20);
    assert_eq!(container(&twin, "p"), (1, "running".into()));
    advance(&twin, 20);
    assert_eq!(container(&twin, "p"), (1, "CrashLoopBackOff".into()));
    assert_eq!(status(&twin, "p")["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(status(&twin, "p")["phase"], "Running");
    advance(&twin, 10);
    assert_eq!(container(&twin, "p"), (2, "running".into()));
    advance(&twin, 20);
    assert_eq!(container(&twin, "p"), (2, "CrashLoopBackOff".into()));
    advance(&twin, 3600);
    // After 22, 42, 72, 112, 172, 272, 452, 772 s and then every 320 s.
    let (restarts, _) = container(&twin, "p");
    assert!((15..=17).contains(&restarts), "{restarts}");
}

#[test]
fn a_pod_that_is_never_restarted_fails_and_its_job_gives_up_after_its_limit() {
    let twin = twin("2026-01-01T00:00:00Z");
    pod(&twin, "p", "Never", json!({"twin.evergreen.dev/crash-after": "20s", "twin.evergreen.dev/exit-code": "137"}));
    advance(&twin, 30);
    assert_eq!(status(&twin, "p")["phase"], "Failed");
    assert_eq!(status(&twin, "p")["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "default"},
        "spec": {"backoffLimit": 2, "ttlSecondsAfterFinished": 600, "template": {
            "metadata": {"annotations": {"twin.evergreen.dev/exit-code": "3", "twin.evergreen.dev/run-for": "10s"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "a:1"}]}}}});
    twin.api().create_object(&job).unwrap();
    advance(&twin, 120);
    let job = twin.api().read("batch", "jobs", "default", "j").unwrap();
    assert_eq!(job["status"]["failed"], 3);
    assert_eq!(job["status"]["conditions"][0]["reason"], "BackoffLimitExceeded");
    advance(&twin, 700);
    assert!(twin.api().read("batch", "jobs", "default", "j").is_none(), "it was kept for ten minutes");
    assert_eq!(twin.api().read_all("", "pods", Some("default")).len(), 1, "and its pods went with it");
}

#[test]
fn a_cron_job_starts_a_job_at_each_time_in_its_own_zone_and_keeps_three() {
    let twin = twin("2026-01-01T00:00:00Z");
    let cron = |name: &str, spec: Value| {
        let mut object = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
        object["spec"]["jobTemplate"] = json!({"spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "a:1"}]}}}});
        if name == "slow" {
            object["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["annotations"] =
                json!({"twin.evergreen.dev/run-for": "90s"});
        }
        twin.api().create_object(&object).unwrap();
    };
    cron("minutely", json!({"schedule": "* * * * *"}));
    cron("shanghai", json!({"schedule": "5 8 * * *", "timeZone": "Asia/Shanghai"}));
    cron("slow", json!({"schedule": "* * * * *", "concurrencyPolicy": "Forbid"}));
    cron("off", json!({"schedule": "* * * * *", "suspend": true}));
    advance(&twin, 600);
    let jobs = |prefix: &str| -> Vec<String> {
        let names = twin.api().read_all("batch", "jobs", Some("default"));
        let names = names.iter().filter_map(|j| j["metadata"]["name"].as_str());
        names.filter(|n| n.starts_with(prefix)).map(str::to_owned).collect()
    };
    assert_eq!(jobs("minutely").len(), 4, "three that are kept and the one of now: {:?}", jobs("minutely"));
    assert_eq!(jobs("shanghai"), ["shanghai-29453765"], "at five past midnight UTC");
    assert!(jobs("off").is_empty());
    let status = |name: &str| twin.api().read("batch", "cronjobs", "default", name).unwrap()["status"].clone();
    assert_eq!(status("shanghai")["lastScheduleTime"], "2026-01-01T00:05:00Z");
    assert_eq!(status("minutely")["lastScheduleTime"], "2026-01-01T00:10:00Z");
    assert!(status("slow")["active"].as_array().is_none_or(|a| a.len() == 1), "never two at once");
    assert!(jobs("slow").len() <= 4);
}

#[test]
fn an_api_server_that_is_restored_from_a_backup_knows_nothing_of_what_came_after() {
    let twin = twin("2026-01-01T00:00:00Z");
    pod(&twin, "before", "Always", json!({}));
    advance(&twin, 30);
    let (backup, digest) = (twin.fork(), twin.api().store().digest());
    pod(&twin, "after", "Always", json!({}));
    advance(&twin, 30);
    assert_ne!(twin.api().store().digest(), digest);
    twin.restore(&backup);
    assert_eq!(twin.api().store().digest(), digest);
    assert!(status(&twin, "after").is_null() && status(&twin, "before")["phase"] == "Running");
    advance(&twin, 30);
    assert_eq!(status(&twin, "before")["phase"], "Running");
}

#[test]
fn nodes_without_a_host_follow_a_curve_of_load_and_power() {
    let twin = twin("2026-01-01T00:00:00Z");
    advance(&twin, 3600);
    let joules = twin.computed_joules();
    assert!((396_000.0..500_000.0).contains(&joules), "an idle server for an hour: {joules} J");
    let usage = twin.api().metrics("nodes", "", "n1", "").unwrap();
    assert!(usage["usage"]["cpu"].as_str().unwrap().ends_with('n'));
}
