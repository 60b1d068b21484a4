//! The same counters in the embedded plane, in a real Prometheus and in a real VictoriaMetrics: the ledgers must be equal
//! to the microjoule (to four where VictoriaMetrics keeps fewer digits), with resets, silences, pods that come and go, and a period whose edges lie between samples.
//! Without the programs (Debian: prometheus, victoria-metrics) what needs them is skipped and counted.
#![allow(clippy::unwrap_used)]

use std::{
    fmt::Write,
    io::Write as _,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use evergreen_api::resources::{EnergyFacts, ReportScope};
use evergreen_plane::{
    Plane,
    args::{Retention, Settings},
};
use evergreen_report::{
    Days, Ledger,
    source::{Query, Source},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jiff::Timestamp;
use serde_json::json;

const STEP: i64 = 15_000;

/// One counter: its labels, and a value for each step at which it was there.
struct Counter {
    name: &'static str,
    node: &'static str,
    labels: Vec<(&'static str, &'static str)>,
    values: Vec<(i64, f64)>,
}

/// Three hours of two nodes, their pods, and a facility meter.
fn counters(begin: i64) -> Vec<Counter> {
    let steps = 3 * 240;
    let mut all = Vec::new();
    let mut counter = |name, node, labels: Vec<(&'static str, &'static str)>, value: &dyn Fn(i64) -> Option<f64>| {
        let values = (0..steps).filter_map(|step| Some((begin + step * STEP, value(step)?))).collect();
        all.push(Counter { name, node, labels, values });
    };
    let measured = ("evergreen.energy.provenance", "measured");
    let idle = ("evergreen.energy.consumer", "idle");
    // A reset in the middle: the sender lost its ledger.
    let watts = |step: i64| 1_234.567_891 * step as f64;
    counter("hw.host.energy", "n1", vec![measured], &|step| {
        Some(if step < 400 { 5e6 + watts(step) } else { watts(step - 400) + 0.25 })
    });
    counter("evergreen.node.energy", "n1", vec![idle, measured], &|step| Some(7e5 + 812.000_3 * step as f64));
    // Twenty minutes of silence.
    counter("hw.host.energy", "n2", vec![("evergreen.energy.provenance", "estimated")], &|step| {
        (!(300..380).contains(&step)).then_some(3e9 + 4_321.123_457 * step as f64)
    });
    let pod = |uid, name, namespace| {
        vec![("k8s.pod.uid", uid), ("k8s.pod.name", name), ("k8s.namespace.name", namespace), measured]
    };
    counter("k8s.pod.energy", "n1", pod("u1", "ledger-0", "core"), &|step| {
        (step % 4 == 0).then_some(100.5 + 33.3 * step as f64)
    });
    // One that begins on a node that is already there: it counts from zero.
    counter("k8s.pod.energy", "n1", pod("u2", "cart-7d9c6bdf5-x2v4k", "shop"), &|step| {
        (step % 4 == 0 && (280..600).contains(&step)).then(|| 2.125 * (step - 279) as f64)
    });
    counter("evergreen.facility.energy", "", vec![], &|step| (step % 20 == 0).then_some(9e12 + 9_000.0 * step as f64));
    all
}

fn otlp<'a>(counters: impl Iterator<Item = &'a Counter>, started: i64) -> serde_json::Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let resources = counters.map(|counter| {
        let mut of = vec![text("service.name", "evergreen-agent"), text("evergreen.site", "dc-a")];
        if !counter.node.is_empty() {
            of.push(text("k8s.node.name", counter.node));
        }
        let labels: Vec<_> = counter.labels.iter().map(|(key, value)| text(key, value)).collect();
        let points: Vec<_> = counter
            .values
            .iter()
            .map(|(ms, value)| {
                json!({"timeUnixNano": format!("{ms}000000"), "startTimeUnixNano": format!("{started}000000"),
                       "asDouble": value, "attributes": labels})
            })
            .collect();
        let sum = json!({"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": points});
        json!({"resource": {"attributes": of}, "scopeMetrics": [{"metrics": [{"name": counter.name, "unit": "J", "sum": sum}]}]})
    });
    json!({"resourceMetrics": resources.collect::<Vec<_>>()})
}

/// The same in the text of Prometheus: names and labels as an exporter of OpenTelemetry writes them, and what scraping adds.
fn text(counters: &[Counter], per_second: bool) -> String {
    let mut out = String::new();
    let mut names: Vec<&str> = counters.iter().map(|counter| counter.name).collect();
    names.dedup();
    for name in names {
        let flat = name.replace('.', "_");
        if per_second {
            let _ = writeln!(out, "# TYPE {flat}_joules counter");
        }
        for counter in counters.iter().filter(|counter| counter.name == name) {
            let mut labels = format!("job=\"evergreen\",site=\"dc-a\",instance=\"{}:9464\"", counter.node);
            if !counter.node.is_empty() {
                let _ = write!(labels, ",node=\"{}\"", counter.node);
            }
            for (key, value) in &counter.labels {
                let _ = write!(labels, ",{}=\"{value}\"", key.replace('.', "_"));
            }
            for (ms, value) in &counter.values {
                let time = if per_second { format!("{}", *ms as f64 / 1000.0) } else { ms.to_string() };
                let _ = writeln!(out, "{flat}_joules_total{{{labels}}} {value} {time}");
            }
        }
    }
    if per_second {
        out.push_str("# EOF\n");
    }
    out
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(program: &str, args: &[String], log: &Path) -> Option<Running> {
    let log = std::fs::File::create(log).unwrap();
    let child =
        Command::new(program).args(args).stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn();
    child.ok().map(Running)
}

fn skip(what: &str) {
    println!("SKIPPED: report sources: {what}");
    let Some(path) = std::env::var_os("EVERGREEN_SKIPPED").filter(|path| !path.is_empty()) else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "report sources: {what}").unwrap();
}

async fn post(url: &str, kind: &str, body: String) -> u16 {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = hyper::Request::post(url).header("content-type", kind).body(Full::from(body)).unwrap();
    let answer = client.request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(status < 300, "{url}: {status} {}", String::from_utf8_lossy(&body));
    status
}

async fn up(url: &str) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    for _ in 0..200 {
        if client.get(url.parse().unwrap()).await.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{url} did not come up in 20 s");
}

async fn ask(source: &Source, days: &Days, scope: &str) -> Ledger {
    let scope: ReportScope = scope.parse().unwrap();
    let (facts, namespaces) = (EnergyFacts::default(), []);
    let query = Query { days, scope: &scope, namespaces: &namespaces, facts: &facts, sums_only: false };
    source.ledger(&query).await.unwrap()
}

/// Everything a report reads of a ledger, for comparison.
fn said(ledger: &Ledger) -> String {
    let mut out = String::new();
    for (key, node) in &ledger.nodes {
        let _ = writeln!(
            out,
            "node {key:?} {:?} {:?} {:?} {:?} gap {}",
            node.parts,
            node.idle,
            node.days,
            node.seen,
            node.gap_ms()
        );
    }
    for (key, pods) in &ledger.namespaces {
        let _ = writeln!(out, "namespace {key:?} {:?} {:?}", pods.parts, pods.days);
    }
    for (key, parts) in &ledger.workloads {
        let _ = writeln!(out, "workload {key:?} {parts:?}");
    }
    for (key, meter) in &ledger.meters {
        let _ = writeln!(out, "meter {key:?} {:?}", meter.energy);
    }
    out
}

/// VictoriaMetrics keeps about fifteen significant digits of a sample: of 3e9 J, that is a few microjoules.
fn assert_near(found: &str, wanted: &str, microjoules: u128) {
    let split = |text: &str| -> Vec<String> { text.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect() };
    let (found, wanted) = (split(found), split(wanted));
    assert_eq!(found.len(), wanted.len(), "{found:?}\n{wanted:?}");
    for (a, b) in found.iter().zip(&wanted) {
        let near =
            a.parse::<u128>().ok().zip(b.parse::<u128>().ok()).is_some_and(|(a, b)| a.abs_diff(b) <= microjoules);
        assert!(a == b || near, "{a} is not {b}\n{found:?}\n{wanted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_and_victoria_metrics_say_what_the_plane_says() {
    let directory = tempfile::tempdir().unwrap();
    let now = Timestamp::now().as_millisecond() / 60_000 * 60_000;
    let begin = now - 5 * 3_600_000;
    let counters = counters(begin);
    let any = "127.0.0.1:0".parse().unwrap();
    let retention =
        Retention { max_bytes: 1 << 30, raw: Duration::from_secs(21_600), spans: Duration::from_secs(86_400) };
    let data_dir = directory.path().join("plane");
    let settings = Settings {
        grpc_listen: any,
        http_listen: any,
        web_listen: any,
        data_dir,
        retention,
        energy_facts: None,
        otlp_tokens: None,
        otlp_tls: None,
        access: None,
    };
    let plane = Plane::start(settings).await.unwrap();
    // The pod that begins later comes later: the plane knows its node by then.
    let later = counters.iter().position(|counter| counter.labels.contains(&("k8s.pod.uid", "u2"))).unwrap();
    for part in [[&counters[..later], &counters[later + 1..]], [&counters[later..=later], &[]]] {
        let batch = part.iter().flat_map(|counters| counters.iter());
        let body = otlp(batch, begin - 86_400_000).to_string();
        post(&format!("http://{}/v1/metrics", plane.http), "application/json", body).await;
    }
    let source = Source::Plane(format!("http://{}", plane.web));
    let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
    // Edges between samples, and days of a zone that is ahead.
    let days =
        Days::new(at(begin + 31 * 60_000 + 7_003), at(now - 2 * 3_600_000 - 20 * 60_000 + 1), "Asia/Kolkata").unwrap();
    let wanted = said(&ask(&source, &days, "fleet").await);
    let only_core = said(&ask(&source, &days, "namespace=core").await);
    assert!(wanted.contains("\"n2\"") && wanted.contains("\"cart\"") && wanted.contains("meter \"dc-a\""), "{wanted}");
    assert!(only_core.contains("core") && !only_core.contains("cart"), "{only_core}");

    let mut stores = Vec::new();
    let openmetrics = directory.path().join("samples.txt");
    std::fs::write(&openmetrics, text(&counters, true)).unwrap();
    let tsdb = directory.path().join("tsdb");
    let made = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&openmetrics, &tsdb])
        .output();
    match made {
        Ok(made) => {
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let config = directory.path().join("prometheus.yml");
            std::fs::write(&config, "global: {scrape_interval: 1h}\n").unwrap();
            let address = format!("127.0.0.1:{}", port());
            let args = [
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", tsdb.display()),
                format!("--web.listen-address={address}"),
            ];
            let running = start("prometheus", &args, &directory.path().join("prometheus.log")).unwrap();
            up(&format!("http://{address}/-/ready")).await;
            stores.push(("Prometheus", format!("http://{address}"), running));
        }
        Err(_) => skip("no prometheus and promtool (apt install prometheus)"),
    }
    let address = format!("127.0.0.1:{}", port());
    let args = [
        format!("-httpListenAddr={address}"),
        format!("-storageDataPath={}", directory.path().join("vm").display()),
        "-retentionPeriod=1".to_owned(),
    ];
    match start("victoria-metrics", &args, &directory.path().join("vm.log")) {
        Some(running) => {
            up(&format!("http://{address}/health")).await;
            post(&format!("http://{address}/api/v1/import/prometheus"), "text/plain", text(&counters, false)).await;
            post(&format!("http://{address}/internal/force_flush"), "text/plain", String::new()).await;
            stores.push(("VictoriaMetrics", format!("http://{address}"), running));
        }
        None => skip("no victoria-metrics (apt install victoria-metrics)"),
    }
    for (name, url, _running) in &stores {
        let source = Source::Prometheus(url.clone());
        let off = if *name == "Prometheus" { 0 } else { 4 };
        assert_near(&said(&ask(&source, &days, "fleet").await), &wanted, off);
        assert_near(&said(&ask(&source, &days, "namespace=core").await), &only_core, off);
        // A meter by its name, in its own unit, and by an expression.
        for meter in [
            "{metric: evergreen_facility_energy_joules_total, unit: J}",
            "{promql: sum(evergreen_facility_energy_joules_total), unit: J}",
        ] {
            let yaml = format!("sites: [{{dataCenter: dc-a, facilityMeter: {meter}}}]");
            let facts = evergreen_report::facts(&yaml).unwrap();
            let query =
                Query { days: &days, scope: &ReportScope::Fleet, namespaces: &[], facts: &facts, sums_only: false };
            let found = source.ledger(&query).await.unwrap();
            assert!(found.meters["dc-a"].energy.as_ref().unwrap().values().sum::<u128>() > 0, "{name} {meter}");
        }
        let facts = evergreen_report::facts("sites: [{dataCenter: dc-a, facilityMeter: {metric: no_such, unit: kWh}}]")
            .unwrap();
        let query = Query { days: &days, scope: &ReportScope::Fleet, namespaces: &[], facts: &facts, sums_only: false };
        assert!(source.ledger(&query).await.unwrap_err().to_string().contains("no samples"), "{name}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn a_source_that_is_not_there_or_is_none_is_named() {
    let days =
        Days::new("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap(), "UTC").unwrap();
    let facts = EnergyFacts::default();
    let query = Query { days: &days, scope: &ReportScope::Fleet, namespaces: &[], facts: &facts, sums_only: false };
    for source in ["plane=http://127.0.0.1:1", "prometheus=http://127.0.0.1:1"] {
        let source: Source = source.parse().unwrap();
        assert!(source.ledger(&query).await.unwrap_err().is_unreachable());
    }
    for source in ["plane=plane:8080", "prometheus=https://x", "plane="] {
        let source: Source = source.parse().unwrap();
        assert!(source.ledger(&query).await.unwrap_err().to_string().contains("is no URL"));
    }
    assert!("influx=http://x".parse::<Source>().unwrap_err().contains("prometheus=URL"));
}
