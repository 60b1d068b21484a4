//! The ends of the SDK's pipelines: each batch becomes an OTLP message and goes into the queue. Nothing here waits for
//! the network, so the SDK's own bounded queues do not fill while the receiver is away.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::{
    tonic::collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    transform::{
        common::tonic::ResourceAttributesWithSchema, logs::tonic::group_logs_by_resource_and_scope,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};
use prost::Message;

use super::queue::{Queue, Signal};

/// An exporter of all three signals into one queue.
#[derive(Clone)]
pub(crate) struct Spool {
    queue: Arc<Queue>,
    resource: Arc<ResourceAttributesWithSchema>,
}

impl Spool {
    pub(crate) fn new(queue: Arc<Queue>, resource: &Resource) -> Self {
        Self { queue, resource: Arc::new(resource.into()) }
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

impl SpanExporter for Spool {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        self.queue.append(Signal::Traces, &ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        Ok(())
    }
}

impl LogExporter for Spool {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let resource_logs = group_logs_by_resource_and_scope(&batch, &self.resource);
        self.queue.append(Signal::Logs, &ExportLogsServiceRequest { resource_logs }.encode_to_vec());
        Ok(())
    }
}

impl PushMetricExporter for Spool {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let request = ExportMetricsServiceRequest::from(metrics);
        if request.resource_metrics.iter().any(|resource| !resource.scope_metrics.is_empty()) {
            self.queue.append(Signal::Metrics, &request.encode_to_vec());
        }
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}
