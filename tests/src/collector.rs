//! A real OTLP collector (rotel) that the product sends to, and behind it a small receiver that keeps the spans which
//! the collector passed on.

use std::{convert::Infallible, io::Read, path::Path, process::Command, sync::Arc};

use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value,
};
use prost::Message;
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};

use crate::programs::{Process, free_port};

/// What a test looks at in a span.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of the sender.
    pub service: String,
    /// Trace id, hex.
    pub trace_id: String,
    /// Span id, hex.
    pub span_id: String,
    /// Id of the parent, hex; empty for a root.
    pub parent_span_id: String,
    /// Name.
    pub name: String,
    /// Attributes with text or truth values.
    pub attributes: Vec<(String, String)>,
}

impl Span {
    /// Value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A running collector and what came out of it.
pub struct Collector {
    /// Where to send to: OTLP over gRPC.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    receiver: JoinHandle<()>,
    _process: Process,
}

impl Collector {
    /// Starts the collector program at `rotel`, logging into `dir`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(rotel: &Path, dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let behind = listener.local_addr().expect("a listener has an address");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let receiver = tokio::spawn(receive(listener, spans.clone()));
        let (grpc, http) = (free_port(), free_port());
        let mut command = Command::new(rotel);
        command.arg("start").args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")]);
        command.args(["--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-compression", "none"]);
        command.args(["--otlp-exporter-endpoint", &format!("http://{behind}")]);
        command.arg("--pid-file").arg(dir.join("rotel.pid"));
        let process = Process::start("rotel", command, dir).expect("the collector starts");
        Self { endpoint: format!("http://127.0.0.1:{grpc}"), spans, receiver, _process: process }
    }

    /// All spans so far.
    pub async fn spans(&self) -> Vec<Span> {
        self.spans.lock().await.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

async fn receive(listener: TcpListener, spans: Arc<Mutex<Vec<Span>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let spans = spans.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| take(request, spans.clone()));
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn take(request: Request<Incoming>, spans: Arc<Mutex<Vec<Span>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let traces = request.uri().path() == "/v1/traces";
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if traces && let Ok(request) = ExportTraceServiceRequest::decode(&unpacked(&body)[..]) {
        spans.lock().await.extend(read(request));
    }
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    let mut response = Response::new(Full::new(Bytes::from(answer)));
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/x-protobuf"));
    Ok(response)
}

/// The collector compresses over HTTP even when told not to.
fn unpacked(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match GzDecoder::new(body).read_to_end(&mut plain) {
        Ok(_) => plain,
        Err(_) => body.to_vec(),
    }
}

fn read(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| pairs(resource.attributes)).unwrap_or_default();
        let service = attributes.iter().find(|(key, _)| key == "service.name").map(|(_, v)| v.clone());
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.clone().unwrap_or_default(),
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_span_id: hex(&span.parent_span_id),
                name: span.name,
                attributes: pairs(span.attributes),
            });
        }
    }
    spans
}

fn pairs(attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>) -> Vec<(String, String)> {
    attributes
        .into_iter()
        .filter_map(|pair| match pair.value?.value? {
            any_value::Value::StringValue(text) => Some((pair.key, text)),
            any_value::Value::BoolValue(truth) => Some((pair.key, truth.to_string())),
            any_value::Value::IntValue(number) => Some((pair.key, number.to_string())),
            _ => None,
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
