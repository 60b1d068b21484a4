//! Producers that the plane does not know: OpenTelemetry's own SDKs, over every transport, and a collector as a hop.
//! `make test-producers` installs them; without them the checks are skipped and counted.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use evergreen_tests::{
    plane::Ports,
    programs::{self, Process, free_port},
    root,
    skip::skipped,
    wait::eventually,
};
use serde_json::Value;

const HALF_A_MINUTE: Duration = Duration::from_secs(30);
const TOKEN: &str = "a-token-of-the-producers";

/// Runs a producer and answers what it says it sent.
fn produce(command: &mut Command) -> Value {
    let output = command.output().expect("the producer starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The value of the only point of a series with this name, and with this `le` if one is given.
fn value(series: &Value, service: &str, le: Option<&str>) -> Result<f64, String> {
    let all = series["series"].as_array().ok_or("no series")?;
    let wanted = |one: &&Value| {
        one["labels"]["service.name"] == service && le.is_none_or(|le| one["labels"]["le"].as_str() == Some(le))
    };
    let one = all.iter().find(wanted).ok_or_else(|| format!("none of {service} with {le:?} in {series}"))?;
    one["points"][0][1].as_f64().ok_or_else(|| format!("no point in {one}"))
}

/// Whether the plane has all of what a producer sent, name of whose metrics begins with `prefix`.
async fn has(ports: &Ports, prefix: &str, sent: &Value) -> Result<(), String> {
    let service = sent["service"].as_str().ok_or("no service")?;
    let (count, sum) = (sent["count"].as_f64().ok_or("no count")?, sent["sum"].as_f64().ok_or("no sum")?);
    let series = async |name: &str| ports.ask(&format!("/api/v1/metrics/series?name={prefix}.{name}")).await;
    for (name, le, expected) in [
        ("counter", None, 5.0),
        ("updown", None, -3.0),
        ("gauge", None, 1.5),
        ("explicit.count", None, count),
        ("explicit.sum", None, sum),
        // Of 0, 0.5, 1, 3, 70 and 9000; the SDKs' own bounds.
        ("explicit.bucket", Some("5"), 4.0),
        ("explicit.bucket", Some("+Inf"), count),
        ("exponential.count", None, count),
        ("exponential.sum", None, sum),
        ("exponential.bucket", Some("0"), 1.0),
        ("exponential.bucket", Some("+Inf"), count),
    ] {
        let found = value(&series(name).await?, service, le)?;
        if found != expected {
            return Err(format!("{prefix}.{name} {le:?} of {service} is {found}, not {expected}"));
        }
    }
    let trace = sent["trace_id"].as_str().ok_or("no trace")?;
    let spans = ports.ask(&format!("/api/v1/traces/{trace}")).await?;
    let spans = spans["spans"].as_array().ok_or("no spans")?;
    let named = |name: &str| spans.iter().find(|span| span["name"] == name).ok_or_else(|| format!("no span {name}"));
    let (outer, inner) = (named("outer")?, named("inner")?);
    if inner["parent"] != outer["span_id"] && inner["parent_span_id"] != outer["span_id"] {
        return Err(format!("{inner} is not below {outer}"));
    }
    if outer["attributes"]["bank"] != "绿" {
        return Err(format!("the attribute of {outer}"));
    }
    Ok(())
}

async fn arrives(ports: &Ports, prefix: &str, sent: &Value) {
    eventually("what the producer sent", HALF_A_MINUTE, || has(ports, prefix, sent)).await;
}

async fn logs(ports: &Ports) -> u64 {
    let url = format!("http://127.0.0.1:{}/metrics", ports.web);
    let (_, text) = evergreen_tests::http::get(&url).await.expect("the plane's own metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("evergreen_plane_logs_total ")).expect("a counter");
    line.parse().expect("a number")
}

async fn plane(dir: &Path) -> (Ports, Process) {
    let tokens = dir.join("tokens");
    std::fs::write(&tokens, TOKEN).expect("a writable folder");
    let ports = Ports::free();
    let process = ports.plane(dir, &["--otlp-token-file", &tokens.to_string_lossy()]).await;
    (ports, process)
}

fn installed(variable: &str, check: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skipped(check, "not installed; make test-producers installs and runs it");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_over_grpc_and_http() {
    let Some(python) = installed("EVERGREEN_PYTHON_PRODUCER", "plane: OpenTelemetry's Python SDK") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (ports, _plane) = plane(dir.path()).await;
    let script = root().join("tests/producers/python_sdk.py");
    for (sent, (protocol, at)) in
        [("grpc", format!("127.0.0.1:{}", ports.grpc)), ("http", format!("http://127.0.0.1:{}", ports.http))]
            .into_iter()
            .enumerate()
    {
        let said = produce(Command::new(&python).arg(&script).args([protocol, &at, TOKEN]));
        arrives(&ports, "py", &said).await;
        assert_eq!(logs(&ports).await, sent as u64 + 1, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_sdk_over_grpc_protobuf_and_json() {
    let check = "plane: OpenTelemetry's Node SDK";
    let Some(packages) = installed("EVERGREEN_NODE_PRODUCER", check) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (ports, _plane) = plane(dir.path()).await;
    let script = root().join("tests/producers/node_sdk.mjs");
    let http = format!("http://127.0.0.1:{}", ports.http);
    for (sent, (protocol, at)) in
        [("grpc", ports.endpoint()), ("proto", http.clone()), ("json", http)].into_iter().enumerate()
    {
        let mut command = Command::new("node");
        command.env("EVERGREEN_NODE_PRODUCER", &packages).arg(&script).args([protocol, &at, TOKEN]);
        let said = produce(&mut command);
        arrives(&ports, "node", &said).await;
        assert_eq!(logs(&ports).await, sent as u64 + 1, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_as_a_hop() {
    let check = "plane: a collector as a hop";
    let Some(python) = installed("EVERGREEN_PYTHON_PRODUCER", check) else { return };
    let Some(rotel) = programs::tool("rotel") else {
        skipped(check, "no rotel on the PATH or in target/tools (make setup)");
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let (ports, _plane) = plane(dir.path()).await;
    let (grpc, http) = (free_port(), free_port());
    let mut command = Command::new(rotel);
    command.arg("start").args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")]);
    command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}"), "--exporter", "otlp"]);
    command.args(["--otlp-exporter-protocol", "grpc", "--otlp-exporter-endpoint", &ports.endpoint()]);
    command.args(["--otlp-exporter-custom-headers", &format!("authorization=Bearer {TOKEN}")]);
    command.arg("--pid-file").arg(dir.path().join("rotel.pid"));
    let _collector = Process::start("rotel", command, dir.path()).expect("the collector starts");
    eventually("the collector listens", HALF_A_MINUTE, || async move {
        tokio::net::TcpStream::connect(("127.0.0.1", grpc)).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let script = root().join("tests/producers/python_sdk.py");
    let said = produce(Command::new(&python).arg(&script).args(["grpc", &format!("127.0.0.1:{grpc}")]));
    arrives(&ports, "py", &said).await;
}
