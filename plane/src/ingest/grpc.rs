//! OTLP over gRPC: the three export services.
//!
//! A full queue answers RESOURCE_EXHAUSTED with RetryInfo, without which OTLP senders must not try again.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Server, server::Connected},
};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Intake, MAX_REQUEST_BYTES, RETRY_AFTER_SECONDS, Taken, UNKNOWN, decode};
use crate::{clock::now_ms, store::StoreError};

/// Requests that one connection may have in flight; more wait in HTTP/2's own flow control.
const CONCURRENCY_PER_CONNECTION: usize = 64;

/// Serves until told to stop, then lets requests in flight end.
///
/// # Errors
/// What the transport says.
pub async fn serve<IO>(
    incoming: impl Stream<Item = std::io::Result<IO>>,
    intake: Intake,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let door = Door(intake);
    Server::builder()
        .concurrency_limit_per_connection(CONCURRENCY_PER_CONNECTION)
        .timeout(Duration::from_secs(30))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(
            TraceServiceServer::new(door.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            MetricsServiceServer::new(door.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            LogsServiceServer::new(door)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

#[derive(Clone)]
struct Door(Intake);

impl Door {
    /// Lets pass who may send.
    fn known<T>(&self, request: Request<T>) -> Result<T, Status> {
        let given = request.metadata().get("authorization").map(|value| value.as_bytes());
        if self.0.allows(given) { Ok(request.into_inner()) } else { Err(Status::unauthenticated(UNKNOWN)) }
    }

    async fn take(&self, decoded: decode::Decoded, bytes: usize) -> Result<Option<Taken>, Status> {
        let taken = self.0.take(decoded, bytes).await.map_err(status)?;
        Ok((taken.rejected > 0).then_some(taken))
    }
}

fn status(error: StoreError) -> Status {
    match error {
        StoreError::Full => Status::with_error_details(
            Code::ResourceExhausted,
            error.to_string(),
            ErrorDetails::with_retry_info(Some(Duration::from_secs(RETRY_AFTER_SECONDS))),
        ),
        other => Status::unavailable(other.to_string()),
    }
}

#[tonic::async_trait]
impl TraceService for Door {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = self.known(request)?;
        let bytes = request.encoded_len();
        let taken = self.take(decode::spans(request.resource_spans, now_ms()), bytes).await?;
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: taken
                .map(|t| ExportTracePartialSuccess { rejected_spans: t.rejected, error_message: t.message }),
        }))
    }
}

#[tonic::async_trait]
impl MetricsService for Door {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let request = self.known(request)?;
        let bytes = request.encoded_len();
        let taken = self.take(decode::metrics(request.resource_metrics, now_ms()), bytes).await?;
        Ok(Response::new(ExportMetricsServiceResponse {
            partial_success: taken
                .map(|t| ExportMetricsPartialSuccess { rejected_data_points: t.rejected, error_message: t.message }),
        }))
    }
}

#[tonic::async_trait]
impl LogsService for Door {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let request = self.known(request)?;
        let bytes = request.encoded_len();
        let taken = self.take(decode::logs(request.resource_logs, now_ms()), bytes).await?;
        Ok(Response::new(ExportLogsServiceResponse {
            partial_success: taken
                .map(|t| ExportLogsPartialSuccess { rejected_log_records: t.rejected, error_message: t.message }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_asks_the_sender_to_come_again() {
        let status = status(StoreError::Full);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(retry, Some(Duration::from_secs(RETRY_AFTER_SECONDS)));
    }
}
