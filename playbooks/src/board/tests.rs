use evergreen_api::resources::PlaybookSpec;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn playbook(trigger: &str) -> Arc<CompiledPlaybook> {
    let text = format!("summary: test\nmatch:\n  - {trigger}\nsteps:\n  - notify: {{endpoint: oncall, text: hello}}\n");
    let spec: PlaybookSpec = crate::parse::read(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    Arc::new(CompiledPlaybook::new("p", spec).unwrap_or_else(|errors| panic!("{errors:#?}")))
}

fn event(count: u32, last_seen: i64) -> EventView {
    EventView {
        reason: "FailedAttachVolume".into(),
        type_: "Warning".into(),
        message: "timed out".into(),
        count,
        last_seen: at(last_seen),
        source: "attachdetach-controller".into(),
        about: Subject {
            kind: "Pod".into(),
            namespace: Some("shop".into()),
            name: "db-0".into(),
            uid: "u".into(),
            ..Subject::default()
        },
        uid: "e".into(),
    }
}

#[test]
fn an_event_is_raised_once_it_happened_often_enough_and_not_too_long_ago() {
    let playbooks = [playbook("event: {reasons: [FailedAttachVolume], kind: Pod, count: 3, within: 5m}")];
    let mut board = Board::default();
    assert!(!board.event(&playbooks, &event(2, 0), at(0)));
    assert!(board.event(&playbooks, &event(3, 1), at(1)));
    assert!(!board.event(&playbooks, &event(3, 1), at(2)), "seen again, nothing new");
    let signals = board.signals();
    assert_eq!((signals.len(), signals[0].raised_at, signals[0].once), (1, at(1), true));
    board.tick(&playbooks, at(1 + 300));
    assert!(board.signals().is_empty(), "no stale replay");
    assert!(!board.event(&playbooks, &event(9, 1), at(400)));
}

#[test]
fn an_alert_is_raised_while_it_fires_and_names_its_object() {
    let trigger = "{alert: {labels: {alertname: Crashing}, subject: {kind: Deployment, nameLabel: deployment}}, when: \"alert.labels['severity'] == 'page'\"}";
    let playbooks = [playbook(trigger)];
    let mut board = Board::default();
    let mut alert = AlertView { fingerprint: "f".into(), firing: true, ..AlertView::default() };
    for (name, value) in [("alertname", "Crashing"), ("namespace", "shop"), ("deployment", "checkout")] {
        alert.labels.insert(name.into(), value.into());
    }
    assert!(!board.alert(&playbooks, &alert, at(0)), "`when` does not hold");
    alert.labels.insert("severity".into(), "page".into());
    assert!(board.alert(&playbooks, &alert, at(1)));
    assert!(!board.alert(&playbooks, &alert, at(60)), "a repetition is nothing new");
    let signals = board.signals();
    assert_eq!(signals[0].subject.object().display(), "Deployment shop/checkout");
    assert_eq!(signals[0].raised_at, at(1));
    alert.firing = false;
    assert!(board.alert(&playbooks, &alert, at(61)));
    assert!(board.signals().is_empty());
}

#[test]
fn an_object_is_raised_while_it_matches() {
    let trigger =
        "{object: {apiVersion: v1, kind: PersistentVolumeClaim, for: 5m}, when: object.status.phase == 'Pending'}";
    let playbooks = [playbook(trigger)];
    let mut board = Board::default();
    let claim = |phase: &str| {
        let body = json!({"metadata": {"name": "data", "namespace": "shop", "uid": "u"}, "status": {"phase": phase}});
        ObjectView::new("v1", "PersistentVolumeClaim", body)
    };
    assert!(board.object(&playbooks, &claim("Pending"), at(0)));
    assert!(!board.object(&playbooks, &claim("Pending"), at(9)));
    assert_eq!(board.signals()[0].raised_at, at(0), "it is raised since it was first seen");
    assert!(board.object(&playbooks, &claim("Bound"), at(10)));
    assert!(board.object(&playbooks, &claim("Pending"), at(11)));
    assert_eq!(board.signals()[0].raised_at, at(11));
    assert!(board.object_gone("u"));
}

#[test]
fn a_time_is_raised_when_it_comes_and_not_long_after() {
    let playbooks = [playbook("schedule: {cron: \"0 3 * * *\", timeZone: UTC, within: 5m}")];
    let mut board = Board::default();
    let three: Timestamp = "2026-10-01T03:00:00Z".parse().unwrap();
    let before = three - jiff::SignedDuration::from_secs(60);
    assert_eq!(board.tick(&playbooks, before), Some(three));
    assert!(board.signals().is_empty());
    board.tick(&playbooks, three);
    assert_eq!(board.signals()[0].raised_at, three);
    board.tick(&playbooks, three + jiff::SignedDuration::from_secs(301));
    assert!(board.signals().is_empty());
}

#[test]
fn a_flood_is_bounded_and_counted() {
    let playbooks = [playbook("alert: {labels: {alertname: Crashing}}")];
    let mut board = Board::default();
    for i in 0..MAX_SIGNALS + 500 {
        let labels = BTreeMap::from([("alertname".to_owned(), "Crashing".to_owned())]);
        let alert = AlertView { fingerprint: i.to_string(), firing: true, labels, ..AlertView::default() };
        board.alert(&playbooks, &alert, at(0));
    }
    assert_eq!((board.signals().len(), board.dropped()), (MAX_SIGNALS, 500));
}
