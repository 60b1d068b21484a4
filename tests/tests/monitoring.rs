//! What the chart gives to a Prometheus and a Grafana that are there already: alert rules that promtool tests, dashboards
//! whose queries Prometheus understands, and nothing that asks for a metric which nobody exports.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use evergreen_tests::{chart, programs, root, skip::skipped};
use serde_yaml::Value;

fn folder() -> PathBuf {
    chart::folder().join("monitoring")
}

fn promtool(check: &str) -> Option<PathBuf> {
    let promtool = programs::tool("promtool");
    if promtool.is_none() {
        skipped(check, "no promtool; `apt-get install prometheus` has it");
    }
    promtool
}

fn run(promtool: &Path, arguments: &[&str], at: &Path) {
    let answer =
        Command::new(promtool).args(arguments).current_dir(at).output().expect("a readable file of the right shape");
    let said = [answer.stdout, answer.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(answer.status.success(), "promtool {arguments:?}: {said}");
}

fn alerts() -> Vec<(String, String)> {
    let rules: Value = serde_yaml::from_str(
        &std::fs::read_to_string(folder().join("alerts.yaml")).expect("a readable file of the right shape"),
    )
    .expect("a readable file of the right shape");
    let groups = rules["groups"].as_sequence().expect("a readable file of the right shape").iter();
    let rules = groups.flat_map(|group| group["rules"].as_sequence().expect("a readable file of the right shape"));
    rules.map(|rule| (text(&rule["alert"]), text(&rule["expr"]))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// File and query of every panel.
fn queries() -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder().join("dashboards"))
        .expect("a readable file of the right shape")
        .map(|entry| entry.expect("a readable file of the right shape").path());
    let mut found = Vec::new();
    for file in files {
        let name = file.file_stem().expect("a readable file of the right shape").to_string_lossy().into_owned();
        let board: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("a readable file of the right shape"))
                .expect("a readable file of the right shape");
        assert_eq!(board["uid"], format!("evergreen-{name}"), "a stable address");
        for panel in board["panels"].as_array().expect("a readable file of the right shape") {
            for target in panel["targets"].as_array().expect("a readable file of the right shape") {
                found.push((
                    name.clone(),
                    target["expr"].as_str().expect("a readable file of the right shape").replace("$site", ".*"),
                ));
            }
        }
    }
    found
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    let Some(promtool) = promtool("monitoring: alert rules") else { return };
    run(&promtool, &["check", "rules", "alerts.yaml"], &folder());
    run(&promtool, &["test", "rules", "alerts.test.yaml"], &root().join("tests/promtool"));
    let tests = std::fs::read_to_string(root().join("tests/promtool/alerts.test.yaml")).unwrap();
    for (alert, _) in alerts() {
        let family =
            tests.contains(&alert) || alert.starts_with("EvergreenNodeProblem") || alert.starts_with("EvergreenPlane");
        assert!(family, "{alert} has no test");
    }
}

#[test]
fn queries_of_dashboards_are_understood_by_prometheus() {
    let Some(promtool) = promtool("monitoring: dashboards") else { return };
    let rules: Vec<serde_json::Value> = queries()
        .iter()
        .enumerate()
        .map(|(index, (board, expr))| serde_json::json!({"record": format!("{board}:{index}"), "expr": expr}))
        .collect();
    assert!(rules.len() > 30, "only {} queries found", rules.len());
    let dir = tempfile::tempdir().unwrap();
    let file = serde_json::json!({"groups": [{"name": "dashboards", "rules": rules}]});
    std::fs::write(dir.path().join("rules.yaml"), file.to_string()).unwrap();
    run(&promtool, &["check", "rules", "rules.yaml"], dir.path());
}

/// Names of metrics in the sources, as Prometheus spells them but for the suffix of unit and kind.
fn exported() -> BTreeSet<String> {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for path in
            std::fs::read_dir(dir).expect("a readable source").map(|entry| entry.expect("a readable source").path())
        {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let source = std::fs::read_to_string(&path).expect("a readable source");
                let literals = source.split('"');
                let names = literals.filter(|name| {
                    name.contains(['.', '_'])
                        && name.bytes().all(|b| b.is_ascii_lowercase() || b"._0123456789".contains(&b))
                });
                found.extend(names.map(|name| name.replace('.', "_")));
            }
        }
    }
    let mut found = BTreeSet::from(["target_info".to_owned()]);
    for room in ["api", "agent", "controller", "plane", "telemetry"] {
        walk(&root().join(room).join("src"), &mut found);
    }
    found
}

/// What comes behind a name for its unit and kind.
const SUFFIXES: [&str; 8] = ["", "_total", "_joules_total", "_watts", "_seconds", "_seconds_total", "_ratio", "_bytes"];

#[test]
fn nothing_is_asked_for_that_nobody_exports() {
    let exported = exported();
    let known = |metric: &str| {
        let lease = metric.strip_suffix("_milliseconds").is_some_and(|name| exported.contains(name));
        lease || SUFFIXES.iter().any(|end| metric.strip_suffix(end).is_some_and(|name| exported.contains(name)))
    };
    let mut metrics = 0;
    // A metric is a word that no `=`, no `(` and no list of labels makes something else.
    let labels = regex::Regex::new(r#"\{[^}]*\}|(by|on|group_left|unless on) ?\([^)]*\)|"[^"]*"|\[[^\]]*\]"#).unwrap();
    for (place, expr) in alerts().into_iter().chain(queries()) {
        let bare = labels.replace_all(&expr, " ").into_owned();
        for word in bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.contains('_')) {
            if ["min_over_time", "max_over_time", "group_left"].contains(&word) {
                continue;
            }
            metrics += 1;
            assert!(known(word), "{place}: {word} is exported by nobody");
        }
    }
    assert!(metrics > 40, "only {metrics} metrics found in the expressions");
}

#[test]
fn monitors_rules_and_dashboards_are_made_when_they_are_wanted() {
    let Some(helm) = programs::tool("helm") else {
        return skipped("monitoring: chart", "no helm on the PATH or in target/tools (make setup)");
    };
    let on = ["podMonitors", "rules", "dashboards"].map(|what| format!("monitoring.{what}.enabled=true")).join(",");
    let kinds = |arguments: &[&str]| -> BTreeSet<String> {
        let manifest = chart::template(&helm, arguments).expect("the chart renders");
        chart::objects(&manifest)
            .iter()
            .map(|object| format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"])))
            .collect()
    };
    let without = kinds(&[]);
    let with = kinds(&["--set", &on]);
    let made: Vec<&String> = with.difference(&without).collect();
    assert_eq!(made.iter().filter(|name| name.starts_with("PodMonitor ")).count(), 3, "{made:?}");
    assert_eq!(made.iter().filter(|name| name.starts_with("PrometheusRule ")).count(), 1, "{made:?}");
    assert_eq!(made.iter().filter(|name| name.starts_with("ConfigMap ")).count(), 6, "{made:?}");
    assert!(with.is_superset(&without));
}
