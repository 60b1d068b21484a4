//! What the integration tests share: a plane on free loopback ports, senders that use the real OTLP clients, and a
//! client for the API.
#![allow(dead_code, clippy::unwrap_used)]

use std::{net::SocketAddr, path::Path, time::Duration};

use evergreen_api::telemetry::{attribute, metric, span};
use evergreen_plane::{
    Plane,
    args::{Retention, Settings},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use tonic::{codec::CompressionEncoding, transport::Channel};

pub fn settings(directory: &Path) -> Settings {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Settings {
        grpc_listen: any,
        http_listen: any,
        web_listen: any,
        otlp_tokens: None,
        otlp_tls: None,
        data_dir: directory.into(),
        energy_facts: None,
        access: None,
        retention: Retention {
            max_bytes: 1 << 30,
            raw: Duration::from_secs(6 * 3_600),
            spans: Duration::from_secs(30 * 86_400),
        },
    }
}

pub async fn plane(directory: &Path) -> Plane {
    Plane::start(settings(directory)).await.unwrap()
}

pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

pub async fn send(request: http::Request<Full<bytes::Bytes>>) -> Answer {
    let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = tokio::time::timeout(Duration::from_secs(20), client.request(request)).await.unwrap().unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    }
}

pub async fn get(at: SocketAddr, path: &str) -> Answer {
    send(http::Request::get(format!("http://{at}{path}")).body(Full::default()).unwrap()).await
}

pub async fn post(at: SocketAddr, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let mut request = http::Request::post(format!("http://{at}{path}"));
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    send(request.body(Full::from(body)).unwrap()).await
}

pub fn string(key: &str, value: &str) -> KeyValue {
    any(key, Value::StringValue(value.into()))
}

pub fn any(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn strings(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    pairs.iter().map(|(k, v)| string(k, v)).collect()
}

pub fn resource(service: &str, site: &str, node: &str) -> Option<Resource> {
    let mut attributes = strings(&[("service.name", service), (attribute::SITE, site)]);
    if !node.is_empty() {
        attributes.push(string(attribute::NODE, node));
    }
    Some(Resource { attributes, ..Default::default() })
}

pub fn point(time_ms: i64, value: f64, attributes: &[(&str, &str)]) -> NumberDataPoint {
    NumberDataPoint {
        time_unix_nano: time_ms as u64 * 1_000_000,
        start_time_unix_nano: 1_000_000,
        value: Some(number_data_point::Value::AsDouble(value)),
        attributes: strings(attributes),
        ..Default::default()
    }
}

pub fn gauge(name: &str, points: Vec<NumberDataPoint>) -> Metric {
    Metric { name: name.into(), data: Some(Data::Gauge(Gauge { data_points: points })), ..Default::default() }
}

pub fn counter(name: &str, points: Vec<NumberDataPoint>) -> Metric {
    let sum = Sum { data_points: points, aggregation_temporality: 2, is_monotonic: true };
    Metric { name: name.into(), unit: "J".into(), data: Some(Data::Sum(sum)), ..Default::default() }
}

pub fn metrics(site: &str, node: &str, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource("evergreen-agent", site, node),
            scope_metrics: vec![ScopeMetrics { metrics, ..Default::default() }],
            ..Default::default()
        }],
    }
}

/// Host energy of a node: one sample every ten seconds at 100 W, the last one at `now_ms`.
pub fn host_energy(site: &str, node: &str, now_ms: i64, samples: i64) -> ExportMetricsServiceRequest {
    let at = |i: i64| now_ms - (samples - 1 - i) * 10_000;
    let labels = [(attribute::PROVENANCE, "measured"), (attribute::ENERGY_SOURCE, "powercap")];
    let energy = (0..samples).map(|i| point(at(i), 5_000.0 + 1_000.0 * i as f64, &labels)).collect();
    let idle = (0..samples).map(|i| point(at(i), 400.0 * i as f64, &[(attribute::CONSUMER, "idle")])).collect();
    let power = (0..samples).map(|i| point(at(i), 100.0, &labels)).collect();
    metrics(
        site,
        node,
        vec![
            counter(metric::HOST_ENERGY, energy),
            counter(metric::NODE_ENERGY, idle),
            gauge(metric::HOST_POWER, power),
        ],
    )
}

pub fn span_of(id: u8, parent: u8, name: &str, start_ms: i64, length_ms: i64, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![9; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { vec![] } else { vec![parent; 8] },
        name: name.into(),
        start_time_unix_nano: start_ms as u64 * 1_000_000,
        end_time_unix_nano: (start_ms + length_ms) as u64 * 1_000_000,
        attributes,
        ..Default::default()
    }
}

pub fn spans(service: &str, site: &str, node: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: resource(service, site, node),
            scope_spans: vec![ScopeSpans { spans, ..Default::default() }],
            ..Default::default()
        }],
    }
}

pub fn root_span(start_ms: i64) -> Span {
    let attributes = vec![
        any(attribute::INCIDENT, Value::BoolValue(true)),
        string(attribute::INCIDENT_TITLE, "Hung task on a1"),
        string(attribute::PROBLEM_KIND, "HungTask"),
        string(attribute::PROBLEM_SEVERITY, "degraded"),
    ];
    span_of(1, 0, span::PROBLEM_DETECTED, start_ms, 3, attributes)
}

pub fn close_span(start_ms: i64, verdict: &str) -> Span {
    span_of(5, 1, span::INCIDENT_CLOSE, start_ms, 1, vec![string(attribute::INCIDENT_VERDICT, verdict)])
}

pub fn logs(site: &str, time_ms: i64, body: &str, trace: Option<u8>) -> ExportLogsServiceRequest {
    let record = LogRecord {
        time_unix_nano: time_ms as u64 * 1_000_000,
        severity_number: 9,
        body: Some(AnyValue { value: Some(Value::StringValue(body.into())) }),
        trace_id: trace.map(|t| vec![t; 16]).unwrap_or_default(),
        ..Default::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: resource("evergreen-controller", site, ""),
            scope_logs: vec![ScopeLogs { log_records: vec![record], ..Default::default() }],
            ..Default::default()
        }],
    }
}

pub async fn channel(at: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap()
}

pub async fn metrics_client(at: SocketAddr) -> MetricsServiceClient<Channel> {
    MetricsServiceClient::new(channel(at).await).send_compressed(CompressionEncoding::Gzip)
}

pub async fn trace_client(at: SocketAddr) -> TraceServiceClient<Channel> {
    TraceServiceClient::new(channel(at).await).send_compressed(CompressionEncoding::Gzip)
}

pub async fn logs_client(at: SocketAddr) -> LogsServiceClient<Channel> {
    LogsServiceClient::new(channel(at).await)
}
