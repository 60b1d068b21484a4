//! kill -9 of the real process: everything it acknowledged is there when it comes back.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use common::*;
use evergreen_api::telemetry::metric;
use evergreen_plane::clock::now_ms;

struct Process {
    child: Child,
    grpc: SocketAddr,
    web: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_evergreen-plane"))
            .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--web-listen", "127.0.0.1:0"])
            .args(["--log-format", "json", "--data-dir"])
            .arg(directory)
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = loop {
            let line = lines.next().expect("the plane ended before it listened").unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                break line;
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        let address = |key: &str| said[key].as_str().unwrap().parse().unwrap();
        Self { child, grpc: address("grpc"), web: address("web") }
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Kills of the short version; EVERGREEN_CRASHES asks for more.
const KILLS: i64 = 6;
/// Points, spans and log records of one request each.
const POINTS: i64 = 50;
const SPANS: i64 = 20;

/// What was acknowledged so far: requests of each signal.
#[derive(Default)]
struct Acknowledged {
    points: AtomicI64,
    spans: AtomicI64,
    logs: AtomicI64,
}

/// Sends one request after another until there is no answer or it is told to stop, and counts the answers.
async fn load(grpc: SocketAddr, start_ms: i64, acknowledged: Arc<Acknowledged>, stop: Arc<AtomicBool>) {
    let (mut metrics_door, mut traces, mut records) =
        (metrics_client(grpc).await, trace_client(grpc).await, logs_client(grpc).await);
    while !stop.load(Ordering::Relaxed) {
        let i = acknowledged.points.load(Ordering::Relaxed);
        let points = (0..POINTS).map(|k| point(start_ms + i * POINTS + k, (i * POINTS + k) as f64, &[])).collect();
        if metrics_door.export(metrics("dc-a", "a1", vec![gauge(metric::HOST_POWER, points)])).await.is_err() {
            return;
        }
        acknowledged.points.fetch_add(1, Ordering::Relaxed);
        let i = acknowledged.spans.load(Ordering::Relaxed);
        let sent = (0..SPANS).map(|k| {
            let mut span = span_of(1, 0, "work", start_ms + i, 1, vec![]);
            span.span_id = (i * SPANS + k + 1).to_be_bytes().to_vec();
            span
        });
        if traces.export(spans("load", "dc-a", "a1", sent.collect())).await.is_err() {
            return;
        }
        acknowledged.spans.fetch_add(1, Ordering::Relaxed);
        let i = acknowledged.logs.load(Ordering::Relaxed);
        if records.export(logs("dc-a", start_ms + i, &format!("record {i}"), Some(9))).await.is_err() {
            return;
        }
        acknowledged.logs.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_across_kill_9() {
    let kills = std::env::var("EVERGREEN_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let directory = tempfile::tempdir().unwrap();
    let start_ms = now_ms() - 3_000_000;
    let acknowledged = Arc::new(Acknowledged::default());
    for round in 0..kills {
        let process = Process::start(directory.path());
        let stop = Arc::new(AtomicBool::new(false));
        let sender = tokio::spawn(load(process.grpc, start_ms, acknowledged.clone(), stop.clone()));
        let before = acknowledged.points.load(Ordering::Relaxed);
        // At another moment of the group commit each time.
        while acknowledged.points.load(Ordering::Relaxed) < before + 5 + round % 7 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(std::time::Duration::from_micros((round as u64 * 379) % 4_000)).await;
        process.kill();
        stop.store(true, Ordering::Relaxed);
        sender.await.unwrap();
    }
    let process = Process::start(directory.path());
    let kept = get(process.web, "/api/v1/metrics/series?name=hw.host.power&site=dc-a").await.json();
    process.kill();
    let times: Vec<i64> =
        kept["series"][0]["points"].as_array().unwrap().iter().map(|point| point[0].as_i64().unwrap()).collect();
    // A batch may be on disk whose answer the kill cut off; it comes again and is there once.
    let of = |count: &AtomicI64, each: i64| (count.load(Ordering::Relaxed) * each, kills * each);
    let (points, unanswered) = of(&acknowledged.points, POINTS);
    let expected: Vec<i64> = (0..times.len() as i64).map(|k| start_ms + k).collect();
    assert_eq!(times, expected, "without a hole and once");
    assert!((points..=points + unanswered).contains(&(times.len() as i64)), "{} points for {points}", times.len());
    let database = rusqlite::Connection::open(directory.path().join("plane.db")).unwrap();
    let count = |table: &str| {
        database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let (spans, logs) = (of(&acknowledged.spans, SPANS), of(&acknowledged.logs, 1));
    assert!((spans.0..=spans.0 + spans.1).contains(&count("spans")), "{} spans for {}", count("spans"), spans.0);
    assert!((logs.0..=logs.0 + logs.1).contains(&count("logs")), "{} log records for {}", count("logs"), logs.0);
    println!("{kills} kills: {points} points, {} spans, {} log records acknowledged, none lost", spans.0, logs.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_under_load_is_sound_and_has_everything_acknowledged_before() {
    let directory = tempfile::tempdir().unwrap();
    let (data, copy) = (directory.path().join("data"), directory.path().join("restored"));
    std::fs::create_dir_all(&copy).unwrap();
    let start_ms = now_ms() - 3_000_000;
    let run = |args: &[&str], folder: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evergreen-plane"));
        let output = command.args(args).arg("--data-dir").arg(folder).arg("--json").output().unwrap();
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default())
    };
    let process = Process::start(&data);
    let (acknowledged, stop) = (Arc::new(Acknowledged::default()), Arc::new(AtomicBool::new(false)));
    let sender = tokio::spawn(load(process.grpc, start_ms, acknowledged.clone(), stop.clone()));
    while acknowledged.points.load(Ordering::Relaxed) < 40 {
        tokio::task::yield_now().await;
    }
    let before = acknowledged.points.load(Ordering::Relaxed) * POINTS;
    let file = copy.join("plane.db").to_string_lossy().into_owned();
    assert_eq!(run(&["backup", "--to", &file], &data).0, Some(0));
    assert_eq!(run(&["backup", "--to", &file], &data).0, Some(3), "it goes over nothing");
    stop.store(true, Ordering::Relaxed);
    sender.await.unwrap();
    assert_eq!(run(&["check"], &data).0, Some(0), "also while the plane runs");
    process.kill();
    let (code, found) = run(&["check"], &copy);
    assert_eq!(code, Some(0), "{found}");
    let restored = Process::start(&copy);
    let kept = get(restored.web, "/api/v1/metrics/series?name=hw.host.power").await.json();
    restored.kill();
    let points = kept["series"][0]["points"].as_array().unwrap().len() as i64;
    assert!(points >= before, "{points} points in the copy, {before} acknowledged before it");
    // The last byte of every chunk, or of the journal's lines if nothing was sealed yet.
    let database = rusqlite::Connection::open(copy.join("plane.db")).unwrap();
    let cut = |table: &str, column: &str| {
        let sql = format!("UPDATE {table} SET {column} = substr({column}, 1, length({column}) - 1)");
        database.execute(&sql, []).unwrap()
    };
    assert!(cut("chunks", "data") + cut("journal", "points") > 0);
    drop(database);
    let (code, found) = run(&["check"], &copy);
    assert_eq!(code, Some(1), "{found}");
    assert!(found["problems"][0].as_str().unwrap().contains("chunk"), "{found}");
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_with_exit_code_3() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path());
    let second = Command::new(env!("CARGO_BIN_EXE_evergreen-plane"))
        .args([
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
            "--web-listen",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(directory.path())
        .output()
        .unwrap();
    first.kill();
    assert_eq!(second.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"), "{}", String::from_utf8_lossy(&second.stderr));
}

#[test]
fn wrong_use_exits_with_2_and_names_the_flag() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_evergreen-plane")).args(args).output().unwrap();
    for args in [["--max-size", "a lot"], ["--retention-raw", "5m"]] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(args[0]));
    }
}
