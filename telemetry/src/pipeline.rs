//! Exporters, providers and the log subscriber of one process.

use std::{io::IsTerminal, time::Duration};

use evergreen_api::telemetry::attribute;
use opentelemetry::{KeyValue, metrics::MeterProvider, trace::TracerProvider};
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::SdkTracerProvider,
};
use prometheus::{Encoder, Registry, TextEncoder};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::IncidentTracer;

/// Standard variable that names the OTLP endpoint (gRPC).
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// One export call may take this long; the next interval tries again.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shutting down may take this long; what is not sent by then is lost and said to be.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Crates of the export path itself: their logs would feed the pipeline that they describe.
const OWN_PLUMBING: &str = "opentelemetry=off,tonic=off,h2=off,hyper=off,hyper_util=off,tower=off";

/// What is logged unless RUST_LOG says otherwise: the SDK only when something is wrong.
const QUIET: &str = "info,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";

/// How log lines look on the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line each.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

/// Who is speaking and how often.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `service.name`.
    pub service: &'static str,
    /// `service.version`.
    pub version: &'static str,
    /// `evergreen.site`.
    pub site: String,
    /// `k8s.node.name`, for an agent.
    pub node: Option<String>,
    /// How often metrics go out over OTLP.
    pub metric_interval: Duration,
    /// Terminal format.
    pub log_format: LogFormat,
}

/// Setting up telemetry failed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The OTLP endpoint in the environment cannot be used.
    #[error("the OTLP endpoint in {ENDPOINT_VARIABLE} cannot be used; write it as http://HOST:4317")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The Prometheus registry refused the exporter.
    #[error("the Prometheus registry refused the exporter")]
    Prometheus(#[source] opentelemetry_sdk::error::OTelSdkError),
}

/// The telemetry of this process. Keep it until the end and call [`Telemetry::shutdown`].
pub struct Telemetry {
    tracer_provider: SdkTracerProvider,
    meter_provider: SdkMeterProvider,
    logger_provider: SdkLoggerProvider,
    registry: Registry,
    resource: Resource,
    slow_meters: Vec<SdkMeterProvider>,
}

impl Telemetry {
    /// Sets up logs, metrics and traces. Call once, inside the runtime.
    ///
    /// # Errors
    /// When the OTLP endpoint in the environment is malformed. An endpoint that does not answer is no error.
    pub fn start(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        let resource = resource(config);
        let registry = Registry::new();
        let scrape = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()
            .map_err(TelemetryError::Prometheus)?;
        let mut tracers = SdkTracerProvider::builder().with_resource(resource.clone());
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(scrape);
        let mut loggers = SdkLoggerProvider::builder().with_resource(resource.clone());
        let endpoint = std::env::var(ENDPOINT_VARIABLE).ok().filter(|endpoint| !endpoint.trim().is_empty());
        if endpoint.is_some() {
            tracers = tracers.with_batch_exporter(
                SpanExporter::builder()
                    .with_tonic()
                    .with_timeout(EXPORT_TIMEOUT)
                    .build()
                    .map_err(TelemetryError::Exporter)?,
            );
            let metrics = MetricExporter::builder()
                .with_tonic()
                .with_timeout(EXPORT_TIMEOUT)
                .build()
                .map_err(TelemetryError::Exporter)?;
            meters = meters.with_reader(PeriodicReader::builder(metrics).with_interval(config.metric_interval).build());
            loggers = loggers.with_batch_exporter(
                LogExporter::builder()
                    .with_tonic()
                    .with_timeout(EXPORT_TIMEOUT)
                    .build()
                    .map_err(TelemetryError::Exporter)?,
            );
        }
        let telemetry = Self {
            tracer_provider: tracers.build(),
            meter_provider: meters.build(),
            logger_provider: loggers.build(),
            registry,
            resource,
            slow_meters: Vec::new(),
        };
        telemetry.subscribe(config.log_format);
        match endpoint {
            Some(endpoint) => tracing::info!(%endpoint, "exporting traces, metrics and logs over OTLP"),
            None => tracing::info!("{ENDPOINT_VARIABLE} is not set: nothing is exported over OTLP"),
        }
        Ok(telemetry)
    }

    /// Spans of incidents.
    pub fn incidents(&self) -> IncidentTracer {
        IncidentTracer::new(self.tracer_provider.tracer("evergreen"))
    }

    /// The meter that both readers read.
    pub fn meter(&self) -> opentelemetry::metrics::Meter {
        self.meter_provider.meter("evergreen")
    }

    /// A meter of its own rhythm that only OTLP reads: for series that are too many to go out with the others. None when
    /// nothing is exported.
    ///
    /// # Errors
    /// As [`Telemetry::start`].
    pub fn meter_every(&mut self, interval: Duration) -> Result<Option<opentelemetry::metrics::Meter>, TelemetryError> {
        if !std::env::var(ENDPOINT_VARIABLE).is_ok_and(|endpoint| !endpoint.trim().is_empty()) {
            return Ok(None);
        }
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(TelemetryError::Exporter)?;
        let reader = PeriodicReader::builder(exporter).with_interval(interval).build();
        let provider = SdkMeterProvider::builder().with_resource(self.resource.clone()).with_reader(reader).build();
        let meter = provider.meter("evergreen");
        self.slow_meters.push(provider);
        Ok(Some(meter))
    }

    /// All metrics in the Prometheus text format.
    pub fn prometheus_text(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics could not be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Sends what is left, for at most a few seconds.
    pub async fn shutdown(self) {
        let flush = tokio::task::spawn_blocking(move || {
            // A failed flush cannot be helped any more; the answer says nothing reliable either.
            let _ = self.tracer_provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
            let _ = self.logger_provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
            let _ = self.meter_provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
            for provider in self.slow_meters {
                let _ = provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
            }
        });
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, flush).await;
    }

    fn subscribe(&self, format: LogFormat) {
        let terminal_filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(QUIET));
        let terminal = match format {
            LogFormat::Text => tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .boxed(),
            LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
        };
        let bridge = opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge::new(&self.logger_provider)
            .with_filter(EnvFilter::new(format!("info,{OWN_PLUMBING}")));
        // A second set-up in one process (tests) keeps the first subscriber.
        let _ = tracing_subscriber::registry().with(terminal.with_filter(terminal_filter)).with(bridge).try_init();
    }
}

fn resource(config: &TelemetryConfig) -> Resource {
    let mut attributes = vec![
        KeyValue::new("service.version", config.version),
        KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        KeyValue::new(attribute::SITE, config.site.clone()),
    ];
    if let Some(node) = &config.node {
        attributes.push(KeyValue::new(attribute::NODE, node.clone()));
        attributes.push(KeyValue::new("host.name", node.clone()));
    }
    Resource::builder().with_service_name(config.service).with_attributes(attributes).build()
}
