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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_across_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let start_ms = now_ms() - 600_000;
    let acknowledged = Arc::new(AtomicI64::new(0));
    for round in 0..4 {
        let process = Process::start(directory.path());
        let (stop, grpc) = (Arc::new(AtomicBool::new(false)), process.grpc);
        let sender = {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut client = metrics_client(grpc).await;
                while !stop.load(Ordering::Relaxed) {
                    let i = acknowledged.load(Ordering::Relaxed);
                    let points = (0..50).map(|k| point(start_ms + i * 50 + k, (i * 50 + k) as f64, &[])).collect();
                    if client.export(metrics("dc-a", "a1", vec![gauge(metric::HOST_POWER, points)])).await.is_err() {
                        return;
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let target = 20 * (round + 1);
        while acknowledged.load(Ordering::Relaxed) < target {
            tokio::task::yield_now().await;
        }
        process.kill();
        stop.store(true, Ordering::Relaxed);
        sender.await.unwrap();
    }
    let process = Process::start(directory.path());
    let answer = get(process.web, "/api/v1/metrics/series?name=hw.host.power&site=dc-a").await.json();
    let points = answer["series"][0]["points"].as_array().unwrap().len() as i64;
    let acknowledged = acknowledged.load(Ordering::Relaxed) * 50;
    process.kill();
    // A batch may be on disk whose answer the kill cut off; one that was answered may not be missing.
    assert!(points >= acknowledged, "{points} points for {acknowledged} acknowledged");
    assert!(points <= acknowledged + 50 * 4);
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
