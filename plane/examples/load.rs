//! Loads a plane, or a VictoriaMetrics with the same points, and prints what was taken per second:
//! `load points|spans|import|fleet ADDRESS NODES STEPS [SENDERS]`, ADDRESS being host:port of OTLP over HTTP or of VictoriaMetrics.
//!
//! Requests are made before the clock starts, so that the sender costs next to nothing. A request is what an agent
//! sends: 100 series of a node, one point each; or 256 spans of 8 attributes. The first step, which makes the series
//! known, is told apart from the rest.

use std::{
    io::Write,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use evergreen_api::telemetry::{attribute, metric};
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;

const SERIES: u64 = 100;
const SPANS: u64 = 256;
const STEP_MS: i64 = 10_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| args.get(index).and_then(|text| text.parse::<u64>().ok());
    let (Some(what), Some(address), Some(nodes), Some(steps)) = (args.first(), args.get(1), number(2), number(3))
    else {
        eprintln!("load points|spans|import|fleet ADDRESS NODES STEPS [SENDERS]");
        return ExitCode::from(2);
    };
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let begin = now_ms - steps as i64 * STEP_MS;
    let (path, each): (&str, u64) = match what.as_str() {
        "points" => ("/v1/metrics", SERIES),
        "import" => ("/api/v1/import/prometheus", SERIES),
        "fleet" => ("/v1/metrics", 4),
        _ => ("/v1/traces", SPANS),
    };
    let body = |step: u64, node: u64| match what.as_str() {
        "points" => points(begin + step as i64 * STEP_MS, node).encode_to_vec(),
        "fleet" => fleet(begin + (step as i64 + 1) * STEP_MS, node).encode_to_vec(),
        "import" => text(begin + step as i64 * STEP_MS, node).into_bytes(),
        _ => spans(begin + step as i64 * STEP_MS, node, step).encode_to_vec(),
    };
    let of_step = |step: u64| (0..nodes).map(|node| gzip(&body(step, node))).collect::<Vec<Bytes>>();
    let first = of_step(0);
    let rest: Vec<Bytes> = (1..steps).flat_map(of_step).collect();
    let senders = number(4).unwrap_or(32) as usize;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::from(3) };
    for (name, bodies) in [("first", first), ("rest", rest)] {
        let count = bodies.len() as u64 * each;
        match runtime.block_on(send(format!("http://{address}{path}"), bodies, senders, what == "import")) {
            Ok((seconds, again)) => {
                println!("{name}\t{count}\t{seconds:.3}\t{:.0}\t{again}", count as f64 / seconds);
            }
            Err(error) => {
                eprintln!("load: {error}");
                return ExitCode::from(1);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Seconds, and how often a sender was told to come again.
async fn send(url: String, bodies: Vec<Bytes>, senders: usize, is_text: bool) -> Result<(f64, usize), String> {
    let (next, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let bodies = Arc::new(bodies);
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..senders {
        let (next, again, bodies, url) = (next.clone(), again.clone(), bodies.clone(), url.clone());
        tasks.spawn(async move {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                loop {
                    let request = hyper::Request::post(&url)
                        .header("content-type", if is_text { "text/plain" } else { "application/x-protobuf" })
                        .header("content-encoding", "gzip")
                        .body(Full::from(body.clone()))
                        .map_err(|error| error.to_string())?;
                    let answer = client.request(request).await.map_err(|error| error.to_string())?;
                    let status = answer.status();
                    let said = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
                    match status.as_u16() {
                        200 | 204 => break,
                        429 | 503 => {
                            again.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        _ => return Err(format!("{status}: {}", String::from_utf8_lossy(&said))),
                    }
                }
            }
            Ok::<(), String>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok((begun.elapsed().as_secs_f64(), again.load(Ordering::Relaxed)))
}

fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.expect("writing to memory does not fail").into()
}

/// A number that nobody can foresee, the same in every run.
fn noise(a: u64, b: u64) -> f64 {
    let mixed = (a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((mixed >> 40) % 100_000) as f64 / 1_000.0
}

/// Ten metrics of ten parts each: half of them counters. Name, part, value.
fn readings(time_ms: i64, node: u64) -> impl Iterator<Item = (u64, u64, bool, f64)> {
    (0..SERIES).map(move |i| {
        let (metric, part) = (i / 10, i % 10);
        let is_counter = metric < 5;
        let moved = noise(node * SERIES + i, time_ms as u64);
        // A counter of microjoules or bytes grows by about its rate.
        let value = if is_counter { ((time_ms / STEP_MS % 1_000_000) as f64) * 1_000.0 + moved } else { moved };
        (metric, part, is_counter, value)
    })
}

fn key(name: &str, value: String) -> KeyValue {
    KeyValue {
        key: name.into(),
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
        ..Default::default()
    }
}

fn resource(node: u64) -> Option<Resource> {
    let attributes = vec![
        key("service.name", "bench-agent".into()),
        key("service.version", "1.2.3".into()),
        key("evergreen.site", format!("dc-{}", node % 3)),
        key("k8s.node.name", format!("node-{node:05}")),
        key("host.name", format!("node-{node:05}")),
    ];
    Some(Resource { attributes, ..Default::default() })
}

fn points(time_ms: i64, node: u64) -> ExportMetricsServiceRequest {
    let mut metrics: Vec<Metric> = (0..10)
        .map(|i| Metric { name: format!("bench.node.metric_{i}"), unit: "By".into(), ..Default::default() })
        .collect();
    for (metric, part, is_counter, value) in readings(time_ms, node) {
        let point = NumberDataPoint {
            time_unix_nano: time_ms as u64 * 1_000_000,
            start_time_unix_nano: if is_counter { 1_700_000_000_000_000_000 } else { 0 },
            attributes: vec![key("device", format!("part{part}")), key("direction", "receive".into())],
            value: Some(number_data_point::Value::AsDouble(value)),
            ..Default::default()
        };
        let data = metrics[metric as usize].data.get_or_insert_with(|| {
            if is_counter {
                Data::Sum(Sum { aggregation_temporality: 2, is_monotonic: true, ..Default::default() })
            } else {
                Data::Gauge(Gauge::default())
            }
        });
        match data {
            Data::Sum(sum) => sum.data_points.push(point),
            Data::Gauge(gauge) => gauge.data_points.push(point),
            _ => {}
        }
    }
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource(node),
            scope_metrics: vec![ScopeMetrics { metrics, ..Default::default() }],
            ..Default::default()
        }],
    }
}

/// What the fleet page is made of: power and energy of a node, and what idling takes of it.
fn fleet(time_ms: i64, node: u64) -> ExportMetricsServiceRequest {
    let reading = |value: f64, labels: &[(&str, &str)]| NumberDataPoint {
        time_unix_nano: time_ms as u64 * 1_000_000,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        attributes: labels.iter().map(|(name, value)| key(name, (*value).to_owned())).collect(),
        value: Some(number_data_point::Value::AsDouble(value)),
        ..Default::default()
    };
    let seconds = time_ms as f64 / 1_000.0 % 1e6;
    let watts = 80.0 + noise(node, 1);
    let measured = [(attribute::PROVENANCE, "measured"), (attribute::ENERGY_SOURCE, "powercap")];
    let gauge = |name: &str, point| Metric {
        name: name.into(),
        data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
        ..Default::default()
    };
    let counter = |name: &str, data_points| Metric {
        name: name.into(),
        unit: "J".into(),
        data: Some(Data::Sum(Sum { data_points, aggregation_temporality: 2, is_monotonic: true })),
        ..Default::default()
    };
    let parts = vec![
        reading(seconds * 40.0, &[(attribute::CONSUMER, "idle")]),
        reading(seconds * (watts - 40.0), &[(attribute::CONSUMER, "pods")]),
    ];
    let metrics = vec![
        gauge(metric::HOST_POWER, reading(watts, &measured)),
        counter(metric::HOST_ENERGY, vec![reading(seconds * watts, &measured)]),
        counter(metric::NODE_ENERGY, parts),
    ];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource(node),
            scope_metrics: vec![ScopeMetrics { metrics, ..Default::default() }],
            ..Default::default()
        }],
    }
}

/// The same points in the text form of Prometheus, with times.
fn text(time_ms: i64, node: u64) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (metric, part, _, value) in readings(time_ms, node) {
        let _ = writeln!(
            text,
            "bench_node_metric_{metric}{{service_name=\"bench-agent\",evergreen_site=\"dc-{}\",k8s_node_name=\"node-{node:05}\",host_name=\"node-{node:05}\",device=\"part{part}\",direction=\"receive\"}} {value} {time_ms}",
            node % 3
        );
    }
    text
}

fn spans(time_ms: i64, node: u64, step: u64) -> ExportTraceServiceRequest {
    let spans = (0..SPANS).map(|i| {
        let id = (step << 40) | (node << 16) | (i + 1);
        let trace = (step << 40) | (node << 16) | (i / 8 + 1);
        Span {
            trace_id: [trace.to_be_bytes(), trace.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()].concat(),
            span_id: id.to_be_bytes().to_vec(),
            name: format!("GET /accounts/{}", i % 7),
            start_time_unix_nano: time_ms as u64 * 1_000_000 + i * 1_000,
            end_time_unix_nano: time_ms as u64 * 1_000_000 + i * 1_000 + 5_000_000,
            attributes: (0..8).map(|a| key(&format!("attribute.{a}"), format!("value {}", (id + a) % 97))).collect(),
            ..Default::default()
        }
    });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: resource(node),
            scope_spans: vec![ScopeSpans { spans: spans.collect(), ..Default::default() }],
            ..Default::default()
        }],
    }
}
