//! OTLP in by every door, the JSON API out: a real plane on loopback, real encoders.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;

use common::*;
use evergreen_api::telemetry::{attribute, metric};
use evergreen_plane::{Plane, clock::now_ms};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceResponse, trace::v1::ExportTraceServiceResponse},
    metrics::v1::{ExponentialHistogram, ExponentialHistogramDataPoint, Metric, metric::Data},
};
use prost::Message;
use serde_json::json;

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn metrics_over_grpc_become_the_fleet_and_exact_energy() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    let now = now_ms();
    let mut client = metrics_client(plane.grpc).await;
    client.export(host_energy("dc-a", "a1", now, 7)).await.unwrap();
    client.export(host_energy("dc-b", "b1", now, 4)).await.unwrap();

    let fleet = get(plane.web, "/api/v1/fleet").await.json();
    assert_eq!(fleet["sites"][0]["name"], "dc-a");
    let node = &fleet["sites"][0]["nodes"][0];
    assert_eq!((node["status"].as_str(), node["power_w"].as_f64()), (Some("ok"), Some(100.0)));
    assert_eq!((node["provenance"].as_str(), node["energy_source"].as_str()), (Some("measured"), Some("powercap")));
    assert_eq!(fleet["sites"][0]["in_quorum"], serde_json::Value::Null);

    let energy = get(plane.web, "/api/v1/energy?by=site").await.json();
    assert_eq!(energy["rows"][0]["key"], "dc-a");
    assert_eq!(energy["rows"][0]["microjoules"], 6_000_000_000_i64);
    assert_eq!(energy["rows"][0]["measured_microjoules"], 6_000_000_000_i64);
    assert_eq!(energy["rows"][0]["idle_microjoules"], 2_400_000_000_i64);
    assert_eq!(energy["rows"][0]["gap_ms"], 0);
    assert_eq!(energy["total"]["microjoules"], 9_000_000_000_i64);

    let series = get(plane.web, "/api/v1/energy/series?step=5s").await.json();
    let watts: Vec<f64> =
        series["series"][0]["points"].as_array().unwrap().iter().map(|p| p[1].as_f64().unwrap()).collect();
    assert!(watts.len() >= 11 && watts.iter().all(|w| (w - 100.0).abs() < 0.01), "{watts:?}");

    let raw = get(plane.web, "/api/v1/metrics/series?name=hw.host.power&site=dc-a&node=a1").await.json();
    assert_eq!(raw["series"][0]["points"].as_array().map(Vec::len), Some(7));
    plane.stop().await;
}

#[tokio::test]
async fn the_same_delivery_twice_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    let request = host_energy("dc-a", "a1", now_ms(), 5);
    let mut client = metrics_client(plane.grpc).await;
    for _ in 0..3 {
        client.export(request.clone()).await.unwrap();
    }
    let mut traces = trace_client(plane.grpc).await;
    for _ in 0..3 {
        traces.export(spans("evergreen-agent", "dc-a", "a1", vec![root_span(now_ms())])).await.unwrap();
    }
    let energy = get(plane.web, "/api/v1/energy?by=node").await.json();
    assert_eq!(energy["rows"][0]["microjoules"], 4_000_000_000_i64);
    assert_eq!(get(plane.web, "/api/v1/incidents").await.json()["incidents"][0]["span_count"], 1);
    assert_eq!(plane.stats.duplicates.get(), 2 * 15 + 2);
    plane.stop().await;
}

#[tokio::test]
async fn an_incident_grows_from_several_senders_in_any_order() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    let now = now_ms();
    let id = "09".repeat(16);
    let mut client = trace_client(plane.grpc).await;
    // The controller's spans come before the agent's.
    let steps = vec![span_of(3, 1, "playbook.run", now + 40, 900, vec![]), close_span(now + 1_000, "healed")];
    client.export(spans("evergreen-controller", "dc-a", "", steps)).await.unwrap();
    assert_eq!(get(plane.web, &format!("/api/v1/incidents/{id}")).await.status, 404);
    assert_eq!(get(plane.web, &format!("/api/v1/traces/{id}")).await.json()["spans"].as_array().map(Vec::len), Some(2));

    client.export(spans("evergreen-agent", "dc-a", "a1", vec![root_span(now)])).await.unwrap();
    logs_client(plane.grpc).await.export(logs("dc-a", now + 50, "cordoned a1", Some(9))).await.unwrap();
    let incident = get(plane.web, &format!("/api/v1/incidents/{id}")).await.json();
    assert_eq!(incident["state"], "healed");
    assert_eq!((incident["site"].as_str(), incident["node"].as_str()), (Some("dc-a"), Some("a1")));
    assert_eq!((incident["duration_ms"].as_i64(), incident["kind"].as_str()), (Some(1_001), Some("HungTask")));
    assert_eq!(incident["spans"][1]["start_ms_offset"], 40.0);
    assert_eq!(incident["spans"][1]["service"], "evergreen-controller");
    assert_eq!(incident["logs"][0]["body"], "cordoned a1");

    assert_eq!(get(plane.web, "/api/v1/incidents?state=open").await.json()["incidents"], json!([]));
    assert_eq!(
        get(plane.web, "/api/v1/incidents?state=healed&limit=1").await.json()["incidents"].as_array().map(Vec::len),
        Some(1)
    );
    plane.stop().await;
}

#[tokio::test]
async fn http_takes_protobuf_and_json_plain_and_gzip() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    let now = now_ms();
    let at = |offset| {
        spans("evergreen-agent", "dc-a", "a1", vec![span_of(offset, 0, "s", now + i64::from(offset), 1, vec![])])
    };

    let plain = post(plane.http, "/v1/traces", &[PROTOBUF], at(1).encode_to_vec()).await;
    assert_eq!(
        (plain.status, ExportTraceServiceResponse::decode(&plain.body[..]).unwrap().partial_success),
        (200, None)
    );
    let zipped =
        post(plane.http, "/v1/traces", &[PROTOBUF, ("content-encoding", "gzip")], gzip(&at(2).encode_to_vec())).await;
    assert_eq!(zipped.status, 200);
    let text = post(plane.http, "/v1/traces", &[JSON], serde_json::to_vec(&at(3)).unwrap()).await;
    assert_eq!((text.status, text.json()), (200, json!({"partialSuccess": null})));
    let both = post(
        plane.http,
        "/v1/traces",
        &[JSON, ("content-encoding", "gzip")],
        gzip(&serde_json::to_vec(&at(4)).unwrap()),
    )
    .await;
    assert_eq!(both.status, 200);
    let trace = get(plane.web, &format!("/api/v1/traces/{}", "09".repeat(16))).await.json();
    assert_eq!(trace["spans"].as_array().map(Vec::len), Some(4));

    let metrics =
        post(plane.http, "/v1/metrics", &[JSON], serde_json::to_vec(&host_energy("dc-a", "a1", now, 3)).unwrap()).await;
    assert_eq!(metrics.status, 200);
    assert_eq!(get(plane.web, "/api/v1/energy").await.json()["total"]["microjoules"], 2_000_000_000_i64);
    assert_eq!(
        post(plane.http, "/v1/logs", &[PROTOBUF], logs("dc-a", now, "hello", None).encode_to_vec()).await.status,
        200
    );
    assert_eq!(plane.stats.logs.get(), 1);
    plane.stop().await;
}

#[tokio::test]
async fn what_is_not_otlp_is_refused_with_a_reason_and_nothing_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    for (headers, body, status, word) in [
        (vec![JSON], b"{\"resourceSpans\": 5}".to_vec(), 400, "not a JSON OTLP request"),
        (vec![PROTOBUF], b"\xff\xff\xff".to_vec(), 400, "not a protobuf OTLP request"),
        (vec![JSON, ("content-encoding", "gzip")], b"plain".to_vec(), 400, "not gzip"),
        (vec![("content-type", "text/plain")], b"hello".to_vec(), 415, "text/plain"),
        (vec![JSON, ("content-encoding", "br")], b"{}".to_vec(), 415, "br"),
    ] {
        let answer = post(plane.http, "/v1/traces", &headers, body).await;
        assert_eq!(answer.status, status);
        assert!(String::from_utf8_lossy(&answer.body).contains(word), "{}", String::from_utf8_lossy(&answer.body));
    }
    let bomb = gzip(&vec![b' '; 20 << 20]);
    assert_eq!(post(plane.http, "/v1/traces", &[JSON, ("content-encoding", "gzip")], bomb).await.status, 413);
    assert_eq!(get(plane.http, "/v1/traces").await.status, 405);
    assert_eq!(get(plane.http, "/").await.status, 404);
    assert_eq!(plane.stats.spans.get(), 0);
    plane.stop().await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_said_in_the_partial_success() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    let impossible = ExponentialHistogramDataPoint { scale: 99, ..Default::default() };
    let histogram = ExponentialHistogram { data_points: vec![impossible], ..Default::default() };
    let odd =
        Metric { name: "latency".into(), data: Some(Data::ExponentialHistogram(histogram)), ..Default::default() };
    let good = gauge(metric::HOST_POWER, vec![point(now_ms(), 1.0, &[])]);
    let answer =
        post(plane.http, "/v1/metrics", &[PROTOBUF], metrics("dc-a", "a1", vec![odd, good]).encode_to_vec()).await;
    let partial = ExportMetricsServiceResponse::decode(&answer.body[..]).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_data_points, 1);
    assert!(partial.error_message.contains("latency"));
    assert_eq!(plane.stats.points.get(), 1);
    plane.stop().await;
}

#[tokio::test]
async fn wrong_questions_get_the_parameter_and_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    for (path, status, word) in [
        ("/api/v1/incidents?limit=0", 400, "limit"),
        ("/api/v1/incidents?limit=many", 400, "limit"),
        ("/api/v1/incidents?state=splendid", 400, "splendid"),
        ("/api/v1/incidents/xyz", 400, "xyz"),
        ("/api/v1/incidents/00000000000000000000000000000001", 404, "no incident"),
        ("/api/v1/traces/00000000000000000000000000000001", 404, "no trace"),
        ("/api/v1/energy?by=planet", 400, "planet"),
        ("/api/v1/energy?from=yesterday", 400, "from"),
        ("/api/v1/energy/series?step=fast", 400, "step"),
        ("/api/v1/energy/series?from=2020-01-01T00:00:00Z&step=1s", 400, "too many points"),
        ("/api/v1/metrics/series", 400, "name"),
        ("/api/v1/nothing", 404, "/api/v1/nothing"),
    ] {
        let answer = get(plane.web, path).await;
        let error = answer.json()["error"].clone();
        assert_eq!(answer.status, status, "{path}: {error}");
        assert!(error["message"].as_str().unwrap().contains(word), "{path}: {error}");
        assert!(
            !error["remedy"].as_str().unwrap().is_empty() && !error["code"].as_str().unwrap().is_empty(),
            "{path}: {error}"
        );
    }
    assert_eq!(post(plane.web, "/api/v1/fleet", &[], vec![]).await.status, 405);
    plane.stop().await;
}

#[tokio::test]
async fn pods_and_namespaces_have_their_energy_and_a_new_pod_counts_from_zero() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    let now = now_ms();
    let mut client = metrics_client(plane.grpc).await;
    client.export(host_energy("dc-a", "a1", now, 30)).await.unwrap();
    let pod = |name: &str, start_ms: i64, samples: &[(i64, f64)]| {
        let labels = [
            (attribute::POD_UID, name),
            (attribute::POD, name),
            (attribute::NAMESPACE, "shop"),
            (attribute::PROVENANCE, "estimated"),
        ];
        let points = samples.iter().map(|(ms, joules)| {
            let mut point = point(*ms, *joules, &labels);
            point.start_time_unix_nano = start_ms as u64 * 1_000_000;
            point
        });
        metrics("dc-a", "a1", vec![counter(metric::POD_ENERGY, points.collect())])
    };
    client.export(pod("old", now - 3_600_000, &[(now - 60_000, 700.0), (now, 701.5)])).await.unwrap();
    // Most senders give every series the start of their process; what was not there a minute ago began since.
    client.export(pod("newer", now - 3_600_000, &[(now, 0.5)])).await.unwrap();
    client.export(pod("new", now - 30_000, &[(now, 2.25)])).await.unwrap();
    let pods = get(plane.web, "/api/v1/energy?by=pod&site=dc-a").await.json();
    assert_eq!(
        (pods["rows"][0]["key"].as_str(), pods["rows"][0]["microjoules"].as_i64()),
        (Some("shop/new"), Some(2_250_000))
    );
    assert_eq!(
        (pods["rows"][1]["key"].as_str(), pods["rows"][1]["microjoules"].as_i64()),
        (Some("shop/old"), Some(1_500_000))
    );
    let spaces = get(plane.web, "/api/v1/energy?by=namespace").await.json();
    assert_eq!(
        (spaces["rows"][0]["key"].as_str(), spaces["rows"][0]["estimated_microjoules"].as_i64()),
        (Some("shop"), Some(4_250_000))
    );
    assert_eq!(get(plane.web, "/api/v1/energy?by=pod&site=dc-z").await.json()["rows"], json!([]));
    plane.stop().await;
}

#[tokio::test]
async fn health_metrics_and_headers_are_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(directory.path()).await;
    assert_eq!(get(plane.web, "/healthz").await.status, 200);
    assert_eq!(get(plane.web, "/readyz").await.status, 200);
    let text = String::from_utf8(get(plane.web, "/metrics").await.body).unwrap();
    assert!(text.contains("evergreen_plane_points_total 0"), "{text}");
    let page = get(plane.web, "/").await;
    assert_eq!(page.status, 200);
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    plane.stop().await;
}

async fn next_event(
    body: &mut (impl http_body_util::BodyExt<Data = bytes::Bytes, Error = hyper::Error> + Unpin),
) -> String {
    let frame = tokio::time::timeout(std::time::Duration::from_secs(10), body.frame()).await.unwrap().unwrap().unwrap();
    String::from_utf8_lossy(frame.data_ref().unwrap()).into_owned()
}

#[tokio::test]
async fn the_stream_tells_what_changed_and_ends_when_the_plane_stops() {
    let directory = tempfile::tempdir().unwrap();
    let plane: Plane = plane(directory.path()).await;
    let client: hyper_util::client::legacy::Client<_, http_body_util::Empty<bytes::Bytes>> =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let response = client.get(format!("http://{}/api/v1/stream", plane.web).parse().unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    trace_client(plane.grpc)
        .await
        .export(spans("evergreen-agent", "dc-a", "a1", vec![root_span(now_ms())]))
        .await
        .unwrap();
    let mut told = String::new();
    while !told.contains("event: incident") {
        told += &next_event(&mut body).await;
    }
    assert!(told.contains("\"state\":\"open\""), "{told}");
    tokio::time::timeout(std::time::Duration::from_secs(8), plane.stop()).await.unwrap();
}

#[tokio::test]
async fn a_sender_without_a_token_is_told_so_at_both_doors() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "s3cret\n").unwrap();
    let plane =
        Plane::start(evergreen_plane::args::Settings { otlp_tokens: Some(tokens), ..settings(directory.path()) })
            .await
            .unwrap();
    let request = host_energy("dc-a", "a1", now_ms(), 2);
    let refused = metrics_client(plane.grpc).await.export(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let answer = post(plane.http, "/v1/metrics", &[PROTOBUF], request.encode_to_vec()).await;
    assert_eq!((answer.status, answer.headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
    assert_eq!(plane.stats.unknown_senders.get(), 2);
    let mut known = tonic::Request::new(request.clone());
    known.metadata_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
    metrics_client(plane.grpc).await.export(known).await.unwrap();
    let header = ("authorization", "Bearer s3cret");
    assert_eq!(post(plane.http, "/v1/metrics", &[PROTOBUF, header], request.encode_to_vec()).await.status, 200);
    assert_eq!(plane.stats.points.get(), 6);
    plane.stop().await;
}

#[tokio::test]
async fn with_client_certificates_only_a_sender_of_the_authority_gets_in() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

    let directory = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let ((certificate, key), (client, client_key)) = (signed("localhost"), signed("agent"));
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let tls = evergreen_plane::ingest::door::TlsFiles {
        certificate: file("tls.crt", &certificate),
        key: file("tls.key", &key),
        client_ca: Some(file("ca.crt", &ca)),
    };
    let plane = Plane::start(evergreen_plane::args::Settings {
        otlp_tls: Some(tls),
        ..settings(&directory.path().join("data"))
    })
    .await
    .unwrap();
    let send = async |port: u16, identity: Option<Identity>| {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca)).domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap();
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let mut client =
            opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient::new(
                channel,
            );
        client.export(host_energy("dc-a", "a1", now_ms(), 2)).await.map_err(|error| error.to_string())
    };
    send(plane.grpc.port(), Some(Identity::from_pem(&client, &client_key))).await.unwrap();
    assert_eq!(plane.stats.points.get(), 6);
    assert!(send(plane.grpc.port(), None).await.is_err(), "no certificate");
    assert!(metrics_client_of(plane.grpc).await.is_err(), "no TLS");
    assert_eq!(plane.stats.points.get(), 6);
    plane.stop().await;
}

async fn metrics_client_of(at: std::net::SocketAddr) -> Result<(), tonic::Status> {
    metrics_client(at).await.export(host_energy("dc-a", "a1", now_ms(), 2)).await.map(drop)
}
