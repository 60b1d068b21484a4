//! The demo as a person starts it, with real processes, and what it leaves behind.

use std::{path::Path, process::Command, time::Duration};

use evergreen_tests::programs::{Process, program};
use serde_json::Value;

/// The demo promises 90 s; a machine that is busy with other tests gets more before it counts as stuck.
const BOUND: Duration = Duration::from_secs(240);

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_story_of_the_demo_ends_well_and_its_report_stays() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let mut command = Command::new(program("evergreen"));
    command.arg("demo").arg("--out").arg(&out).current_dir(dir.path());
    for variable in ["KUBECONFIG", "OTEL_EXPORTER_OTLP_ENDPOINT", "RUST_LOG"] {
        command.env_remove(variable);
    }
    let mut demo = Process::start("demo", command, dir.path()).unwrap();
    let status = demo.wait(BOUND).expect("the demo ends by itself");
    assert_eq!(status.code(), Some(0), "{}", demo.log_tail());

    let summary: Value = serde_json::from_str(&read(&out.join("summary.json"))).unwrap();
    assert_eq!(summary["ok"], true, "{summary:#}");
    let stories = summary["stories"].as_array().unwrap();
    assert!(stories.len() >= 2, "{summary:#}");
    for story in stories {
        assert_eq!(story["ok"], true, "{story:#}");
        if let Some(trace) = story["trace_id"].as_str() {
            assert!(trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()), "{story:#}");
        }
    }
    assert!(stories.iter().filter(|story| story["trace_id"].is_string()).count() >= 2, "{summary:#}");
    assert!(summary["energy"]["kwh"].as_f64().or_else(|| summary["energy"]["kwh"].as_str()?.parse().ok()) > Some(0.0));
    for story in stories.iter().filter(|story| story["error_window_ms"].is_number()) {
        assert!(story["error_window_ms"].as_f64().unwrap() < 30_000.0, "clients were without service: {story:#}");
    }
    let page = read(&out.join("report.html"));
    assert!(page.starts_with("<!doctype html>") || page.starts_with("<!DOCTYPE html>"));
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "the report asks another host");
    serde_json::from_str::<Value>(&read(&out.join("report.json"))).unwrap();
}
