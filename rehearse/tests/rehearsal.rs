//! Rehearsals on the demo's fleet: what is told, that it is the same every time, and what spoils it.

use std::{path::Path, time::Duration};

use evergreen_rehearse::{Lang, Plan, Report, Verdict, check, demo, fleet::Fleet, loss::Ask, rehearse, report};
use serde_json::{Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn tried(snapshot: &mut evergreen_rehearse::Snapshot, asks: &[&str]) -> Report {
    let left_out = check::check(snapshot);
    let fleet = Fleet::of(snapshot);
    let losses = asks
        .iter()
        .flat_map(|ask| ask.parse::<Ask>().expect("a snapshot").resolve(&fleet).expect("a loss of this fleet"))
        .collect();
    let plan = Plan { losses, delay: Duration::ZERO, parallel: 2 };
    rehearse(snapshot, &fleet, left_out, &plan, &|_| {})
}

fn golden(name: &str, text: &str) {
    let path = Path::new(GOLDEN).join(name);
    if std::env::var_os("EVERGREEN_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(GOLDEN).expect("a readable answer");
        std::fs::write(&path, text).expect("a readable answer");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(known, text, "{} differs; look at it, then EVERGREEN_WRITE_GOLDEN=1", path.display());
}

/// What the twin and the controller say of themselves changes with them, not with rehearsals.
fn own_words(report: &mut Report) -> String {
    report.sureness.deviations.clear();
    report::terminal(report, Lang::En)
}

#[test]
fn a_lost_zone_and_a_lost_data_center_are_told_as_in_the_golden_report_and_the_same_every_time() {
    let mut snapshot = demo::snapshot().unwrap();
    let asks = ["zone=bj-1", "site=beijing-b", "node=guiyang-2", "service=bank/mobile-query@beijing-a"];
    let mut report = tried(&mut snapshot, &asks);
    let again = tried(&mut snapshot, &asks);
    assert_eq!(report::json(&report).unwrap(), report::json(&again).unwrap());
    assert_eq!(report::html(&report, Lang::Zh), report::html(&again, Lang::Zh));
    assert_eq!(report.verdict, Verdict::Degraded);
    golden("demo.txt", &own_words(&mut report));
}

#[test]
fn a_page_asks_nobody_for_anything_and_is_there_in_both_languages() {
    let mut snapshot = demo::snapshot().unwrap();
    let report = tried(&mut snapshot, &["site=beijing-a"]);
    assert_eq!(report.verdict, Verdict::Lost);
    for (lang, title) in [(Lang::En, "Rehearsal of failures"), (Lang::Zh, "故障演练")] {
        let page = report::html(&report, lang);
        assert!(page.contains(title) && page.ends_with("</html>\n"));
        for foreign in ["http://", "https://", "<script", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}

#[test]
fn room_that_is_not_there_is_told_with_the_reason_of_the_scheduler() {
    let mut snapshot = demo::snapshot().unwrap();
    // Guiyang's remaining zone is as good as full.
    for site in &mut snapshot.sites {
        for node in site.objects.get_mut("nodes").into_iter().flatten().filter(|_| site.name == "guiyang") {
            node["status"]["allocatable"]["cpu"] = json!("7");
        }
    }
    let report = tried(&mut snapshot, &["zone=gy-1"]);
    let loss = &report.losses[0];
    let pending = loss.pending.iter().find(|p| p.workload == "Deployment bank/account-query").expect("no room");
    assert!(pending.reason.contains("Insufficient cpu"), "{}", pending.reason);
    let service = loss.services.iter().find(|s| s.service == "bank/account-query").unwrap();
    assert_eq!(service.verdict, Verdict::Degraded);
    let remedy = service.remedy.as_ref().unwrap();
    assert_eq!((remedy.site.as_deref(), remedy.cpu_millis), (Some("guiyang"), u64::from(remedy.replicas) * 4000));
    assert!(remedy.what.en.starts_with("room for"), "{}", remedy.what.en);
}

#[test]
fn without_a_majority_nothing_is_moved() {
    let mut snapshot = demo::snapshot().unwrap();
    snapshot.sites.retain(|site| site.name != "guiyang");
    for site in &mut snapshot.sites {
        let known = site.objects.get_mut("datacenters.evergreen.dev").unwrap();
        known.retain(|object| object["metadata"]["name"] != "guiyang");
    }
    let report = tried(&mut snapshot, &["site=beijing-b"]);
    let service = report.losses[0].services.iter().find(|s| s.service == "bank/mobile-query").unwrap();
    assert!(service.moves.is_empty());
    assert_eq!(service.sites[1], ["beijing-a"]);
    assert_eq!(service.verdict, Verdict::Degraded);
    assert!(service.remedy.as_ref().unwrap().what.en.contains("majority"));
}

#[test]
fn broken_objects_are_left_out_and_make_the_answer_less_sure() {
    let mut snapshot = demo::snapshot().unwrap();
    assert_eq!(tried(&mut snapshot, &["node=guiyang-1"]).sureness.level, "high");
    let broken = json!({"kind": "Pod", "metadata": {"name": "broken", "namespace": "bank", "uid": "x"}});
    snapshot.sites[0].objects.get_mut("pods").unwrap().push(broken);
    snapshot.sites[0].objects.insert("gadgets.example".into(), vec![Value::Null]);
    let report = tried(&mut snapshot, &["node=guiyang-1"]);
    assert_eq!(report.sureness.level, "low");
    let told: Vec<&str> = report.sureness.left_out.iter().map(|found| found.object.as_str()).collect();
    assert_eq!(told, ["Pod bank/broken", "gadgets.example (1)"]);
}

#[test]
fn every_node_is_tried_and_those_like_another_are_named() {
    let mut snapshot = demo::snapshot().unwrap();
    let report = tried(&mut snapshot, &["node"]);
    let named: usize = report.losses.iter().map(|loss| 1 + loss.same.len()).sum();
    assert_eq!((named, report.tried["node"]), (18, 18));
    assert!(report.losses.len() < 18);
}
