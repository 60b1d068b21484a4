use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::IntoResponse,
};
use evergreen_api::{Detection, ProblemKind, Severity};
use parking_lot::Mutex;

use super::*;
use crate::{
    clock::Moment,
    conditions::{ConditionBook, Sighting},
};

/// A tiny API server: one Node, NodeHealths, Events; notes every write.
#[derive(Default)]
struct Cluster {
    node: Value,
    objects: HashMap<String, Value>,
    writes: Vec<(Method, String, Value)>,
    failing: bool,
    drops_annotations: bool,
}

type SharedCluster = Arc<Mutex<Cluster>>;

fn answer(status: StatusCode, value: &Value) -> axum::response::Response {
    (status, [("content-type", "application/json")], value.to_string()).into_response()
}

fn failure(status: StatusCode, reason: &str) -> axum::response::Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": status.as_u16()});
    answer(status, &body)
}

async fn handle(
    State(cluster): State<SharedCluster>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Result<axum::response::Response, Infallible> {
    let mut cluster = cluster.lock();
    if cluster.failing {
        return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"));
    }
    let path = uri.path().to_owned();
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if method != Method::GET {
        cluster.writes.push((method.clone(), path.clone(), value.clone()));
    }
    Ok(match (&method, path.as_str()) {
        (&Method::GET, "/api/v1/nodes/n") => answer(StatusCode::OK, &cluster.node),
        (&Method::PATCH, "/api/v1/nodes/n/status" | "/api/v1/nodes/n") => {
            if let Some(annotations) = value.pointer("/metadata/annotations")
                && !(cluster.drops_annotations && path.ends_with("status"))
            {
                cluster.node["metadata"]["annotations"] = annotations.clone();
            }
            if let Some(conditions) = value.pointer("/status/conditions") {
                cluster.node["status"]["conditions"] = conditions.clone();
            }
            answer(StatusCode::OK, &cluster.node)
        }
        (&Method::PATCH, path) if path.contains("/nodehealths/") => match cluster.objects.get_mut("health") {
            Some(health) => {
                health["status"] = value["status"].clone();
                answer(StatusCode::OK, health)
            }
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        },
        (&Method::POST, path) => {
            let key =
                if path.contains("nodehealths") { "health".into() } else { value["metadata"]["name"].to_string() };
            match cluster.objects.entry(key) {
                Entry::Occupied(_) => failure(StatusCode::CONFLICT, "AlreadyExists"),
                Entry::Vacant(place) => answer(StatusCode::CREATED, place.insert(value)),
            }
        }
        _ => failure(StatusCode::NOT_FOUND, "NotFound"),
    })
}

struct Bench {
    cluster: SharedCluster,
    publisher: Publisher,
    adopted: mpsc::Receiver<Adopted>,
    book: ConditionBook,
}

fn bench() -> Bench {
    let cluster: SharedCluster = Arc::default();
    cluster.lock().node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"conditions": []}});
    let app = Router::new().fallback(handle).with_state(Arc::clone(&cluster));
    let client = Client::new(app, "default");
    let (sender, adopted) = mpsc::channel(8);
    let incidents = evergreen_telemetry::IncidentTracer::unexported();
    let publisher = Publisher::new(client, "n".into(), "dc-a".into(), incidents, Arc::default(), sender);
    Bench { cluster, publisher, adopted, book: ConditionBook::new("boot") }
}

impl Bench {
    fn see(&mut self, kind: ProblemKind, count: u64, condition: bool) {
        let detection = Detection {
            kind,
            severity: Severity::Degraded,
            crash_type: None,
            summary: "it is bad".into(),
            first_line: "the line".into(),
            evidence: vec!["the line".into()],
            count,
            at: String::new(),
        };
        let sighting = Sighting {
            report: 1,
            detection,
            rule: "r".into(),
            clear_after: Some(Duration::from_secs(1)),
            condition,
            about: kind.into(),
            reason: None,
            watched: false,
        };
        self.book.observe(sighting, &Moment::now());
        self.book.set_trace(kind, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    }

    async fn sync(&mut self) -> Result<(), PublishError> {
        self.publisher.sync(&Desired::from_book(&self.book)).await
    }

    fn writes_to(&self, part: &str) -> usize {
        self.cluster.lock().writes.iter().filter(|(_, path, _)| path.contains(part)).count()
    }
}

#[tokio::test]
async fn a_problem_becomes_condition_annotation_health_and_event() {
    let mut bench = bench();
    bench.see(ProblemKind::KernelOops, 1, true);
    bench.sync().await.unwrap();
    let cluster = bench.cluster.lock();
    let condition = &cluster.node["status"]["conditions"][0];
    assert_eq!((condition["type"].as_str(), condition["status"].as_str()), (Some("KernelOops"), Some("True")));
    assert!(condition["message"].as_str().unwrap().contains("evidence: the line"));
    assert!(cluster.node["metadata"]["annotations"]["evergreen.dev/traceparent.KernelOops"].is_string());
    assert_eq!(cluster.objects["health"]["status"]["problems"][0]["kind"], "KernelOops");
    let event = cluster.objects.values().find(|object| object["reason"] == "KernelOopsDetected").unwrap();
    assert_eq!(event["regarding"]["name"], "n");
    assert!(event["metadata"]["annotations"]["evergreen.dev/traceparent"].is_string());
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() {
    let mut bench = bench();
    bench.see(ProblemKind::KernelOops, 1, true);
    bench.sync().await.unwrap();
    let before = bench.cluster.lock().writes.len();
    bench.sync().await.unwrap();
    assert_eq!(bench.cluster.lock().writes.len(), before);
}

#[tokio::test]
async fn a_problem_that_is_only_told_is_no_condition() {
    let mut bench = bench();
    bench.see(ProblemKind::OutOfMemory, 1, false);
    bench.sync().await.unwrap();
    assert_eq!(bench.writes_to("/api/v1/nodes"), 0);
    assert_eq!(bench.writes_to("/events"), 1);
    assert_eq!(bench.cluster.lock().objects["health"]["status"]["problems"][0]["kind"], "OutOfMemory");
}

#[tokio::test]
async fn the_end_of_a_problem_is_written_too() {
    let mut bench = bench();
    bench.see(ProblemKind::HungTask, 1, true);
    bench.sync().await.unwrap();
    let mut later = Moment::now();
    later.boot_ms += 60_000;
    bench.book.expire(&later);
    bench.sync().await.unwrap();
    let cluster = bench.cluster.lock();
    assert_eq!(cluster.node["status"]["conditions"][0]["status"], "False");
    assert!(cluster.objects.values().any(|object| object["reason"] == "HungTaskCleared"));
    assert_eq!(cluster.objects["health"]["status"]["verdict"], "ok");
}

#[tokio::test]
async fn while_the_api_server_is_away_only_the_latest_state_waits() {
    let mut bench = bench();
    bench.cluster.lock().failing = true;
    bench.see(ProblemKind::HungTask, 1, true);
    assert!(bench.sync().await.is_err());
    bench.see(ProblemKind::KernelOops, 1, true);
    assert!(bench.sync().await.is_err());
    bench.cluster.lock().failing = false;
    bench.sync().await.unwrap();
    assert_eq!(bench.writes_to("/api/v1/nodes/n/status"), 1);
    assert_eq!(bench.cluster.lock().node["status"]["conditions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn annotations_get_their_own_write_where_the_status_does_not_take_them() {
    let mut bench = bench();
    bench.cluster.lock().drops_annotations = true;
    bench.see(ProblemKind::KernelOops, 1, true);
    bench.sync().await.unwrap();
    assert!(bench.cluster.lock().node["metadata"]["annotations"]["evergreen.dev/traceparent.KernelOops"].is_string());
}

#[tokio::test]
async fn a_condition_of_an_earlier_agent_is_found_and_a_foreign_one_is_left_alone() {
    let mut bench = bench();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "x", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": "2026-01-01T00:00:00Z"});
    bench.cluster.lock().node["metadata"]["annotations"] = json!({"evergreen.dev/traceparent.HungTask": "00-a"});
    bench.cluster.lock().node["status"]["conditions"] =
        json!([condition("HungTask"), condition("KernelDeadlock"), condition("Ready")]);
    bench.sync().await.unwrap();
    assert_eq!(bench.adopted.try_recv().unwrap().about, ProblemKind::HungTask);
    assert!(bench.adopted.try_recv().is_err());
    assert_eq!(bench.writes_to("/api/v1/nodes"), 0);
}

#[test]
fn pauses_grow_and_stay_bounded() {
    for failures in 1..200 {
        let pause = backoff(failures);
        assert!(pause >= BACKOFF.0 / 2 && pause <= BACKOFF.1, "{failures}: {pause:?}");
    }
}
