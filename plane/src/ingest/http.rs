//! OTLP over HTTP: protobuf or JSON, plain or gzip. Errors are a `google.rpc.Status` in the encoding of the request,
//! as OTLP asks; 503 and its Retry-After are what senders try again on.

use std::io::Read;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use super::{Intake, MAX_REQUEST_BYTES, RETRY_AFTER_SECONDS, UNKNOWN, decode};
use crate::{clock::now_ms, store::StoreError};

/// The three export paths.
pub fn router(intake: Intake) -> Router {
    Router::new()
        .route("/v1/traces", post(traces))
        .route("/v1/metrics", post(metrics))
        .route("/v1/logs", post(logs))
        .fallback(|| async {
            let refusal = Refusal::new(
                StatusCode::NOT_FOUND,
                "OTLP over HTTP is taken at /v1/traces, /v1/metrics and /v1/logs; the page has its own port",
            );
            refusal.answer(Encoding::Json)
        })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "OTLP is sent with POST").answer(Encoding::Json)
        })
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .layer(middleware::from_fn_with_state(intake.clone(), known))
        .with_state(intake)
}

/// Lets pass who may send.
async fn known(State(intake): State<Intake>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    if intake.allows(given) {
        return next.run(request).await;
    }
    let encoding = encoding(request.headers()).unwrap_or(Encoding::Json);
    let mut response = Refusal::new(StatusCode::UNAUTHORIZED, UNKNOWN).answer(encoding);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

struct Refusal {
    status: StatusCode,
    message: String,
}

/// `google.rpc.Status`, the body of an OTLP/HTTP error.
#[derive(Clone, PartialEq, Message, Serialize)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    fn answer(self, encoding: Encoding) -> Response {
        let code = match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => tonic::Code::Unavailable,
            StatusCode::NOT_FOUND => tonic::Code::Unimplemented,
            StatusCode::UNAUTHORIZED => tonic::Code::Unauthenticated,
            StatusCode::PAYLOAD_TOO_LARGE => tonic::Code::ResourceExhausted,
            _ => tonic::Code::InvalidArgument,
        };
        let retry = matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        let mut response =
            (self.status, encode(&RpcStatus { code: code as i32, message: self.message }, encoding)).into_response();
        if retry {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        response
    }
}

fn encode<T: Message + Serialize>(message: &T, encoding: Encoding) -> Response {
    match encoding {
        Encoding::Protobuf => {
            ([(header::CONTENT_TYPE, "application/x-protobuf")], message.encode_to_vec()).into_response()
        }
        Encoding::Json => axum::Json(message).into_response(),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/x-protobuf" => Ok(Encoding::Protobuf),
        "application/json" => Ok(Encoding::Json),
        other => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("content type `{other}` is not OTLP: send application/x-protobuf or application/json"),
        )),
    }
}

fn read<T: Message + Default + DeserializeOwned>(
    headers: &HeaderMap,
    encoding: Encoding,
    body: Result<Bytes, BytesRejection>,
) -> Result<(T, usize), Refusal> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request has more than {MAX_REQUEST_BYTES} bytes: send smaller batches"),
        ),
        _ => Refusal::new(StatusCode::BAD_REQUEST, "the request ended before its body did"),
    })?;
    let body = match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        None | Some(b"identity") => body,
        Some(b"gzip") => unzip(&body)?,
        Some(other) => {
            let other = String::from_utf8_lossy(other).into_owned();
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("content encoding `{other}` is not taken: send gzip or none"),
            ));
        }
    };
    let message = match encoding {
        Encoding::Protobuf => T::decode(&body[..])
            .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("not a protobuf OTLP request: {e}")))?,
        Encoding::Json => serde_json::from_slice(&body)
            .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("not a JSON OTLP request: {e}")))?,
    };
    Ok((message, body.len()))
}

fn unzip(body: &[u8]) -> Result<Bytes, Refusal> {
    let mut plain = Vec::with_capacity(body.len().saturating_mul(4).min(MAX_REQUEST_BYTES));
    MultiGzDecoder::new(body)
        .take(MAX_REQUEST_BYTES as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not gzip although it says so: {e}")))?;
    if plain.len() > MAX_REQUEST_BYTES {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request unpacks to more than {MAX_REQUEST_BYTES} bytes: send smaller batches"),
        ));
    }
    Ok(plain.into())
}

fn store_refusal(error: &StoreError) -> Refusal {
    let status = match error {
        StoreError::Full => StatusCode::TOO_MANY_REQUESTS,
        StoreError::Write(_) | StoreError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refusal::new(status, error.to_string())
}

async fn traces(State(intake): State<Intake>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let encoding = match encoding(&headers) {
        Ok(encoding) => encoding,
        Err(refusal) => return refusal.answer(Encoding::Json),
    };
    match read::<ExportTraceServiceRequest>(&headers, encoding, body) {
        Err(refusal) => refusal.answer(encoding),
        Ok((request, bytes)) => match intake.take(decode::spans(request.resource_spans, now_ms()), bytes).await {
            Err(error) => store_refusal(&error).answer(encoding),
            Ok(taken) => {
                let partial_success = (taken.rejected > 0).then_some(ExportTracePartialSuccess {
                    rejected_spans: taken.rejected,
                    error_message: taken.message,
                });
                encode(&ExportTraceServiceResponse { partial_success }, encoding)
            }
        },
    }
}

async fn metrics(State(intake): State<Intake>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let encoding = match encoding(&headers) {
        Ok(encoding) => encoding,
        Err(refusal) => return refusal.answer(Encoding::Json),
    };
    match read::<ExportMetricsServiceRequest>(&headers, encoding, body) {
        Err(refusal) => refusal.answer(encoding),
        Ok((request, bytes)) => match intake.take(decode::metrics(request.resource_metrics, now_ms()), bytes).await {
            Err(error) => store_refusal(&error).answer(encoding),
            Ok(taken) => {
                let partial_success = (taken.rejected > 0).then_some(ExportMetricsPartialSuccess {
                    rejected_data_points: taken.rejected,
                    error_message: taken.message,
                });
                encode(&ExportMetricsServiceResponse { partial_success }, encoding)
            }
        },
    }
}

async fn logs(State(intake): State<Intake>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let encoding = match encoding(&headers) {
        Ok(encoding) => encoding,
        Err(refusal) => return refusal.answer(Encoding::Json),
    };
    match read::<ExportLogsServiceRequest>(&headers, encoding, body) {
        Err(refusal) => refusal.answer(encoding),
        Ok((request, bytes)) => match intake.take(decode::logs(request.resource_logs, now_ms()), bytes).await {
            Err(error) => store_refusal(&error).answer(encoding),
            Ok(taken) => {
                let partial_success = (taken.rejected > 0).then_some(ExportLogsPartialSuccess {
                    rejected_log_records: taken.rejected,
                    error_message: taken.message,
                });
                encode(&ExportLogsServiceResponse { partial_success }, encoding)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_429_and_a_failing_store_503_both_with_retry_after() {
        for (error, status) in [
            (StoreError::Full, StatusCode::TOO_MANY_REQUESTS),
            (StoreError::Write("no space".into()), StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let response = store_refusal(&error).answer(Encoding::Protobuf);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
    }
}
