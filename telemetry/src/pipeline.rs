//! Exporters, providers and the log subscriber of one process.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use evergreen_api::telemetry::attribute;
use opentelemetry::{KeyValue, metrics::MeterProvider, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    logs::{BatchConfigBuilder as LogBatches, BatchLogProcessor, SdkLoggerProvider},
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::{BatchConfigBuilder as SpanBatches, BatchSpanProcessor, SdkTracerProvider},
};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    IncidentTracer,
    spool::{
        Queue,
        export::Spool,
        queue::SpoolError,
        send::{self, ENDPOINT, Target},
    },
};

/// A span or log record that has ended is on disk after this time at the latest: what a kill can cost.
const TO_DISK: Duration = Duration::from_millis(200);
/// Shutting down may take this long; what is not sent by then is sent by the next process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Crates of the export path itself: their logs would feed the pipeline that they describe.
const OWN_PLUMBING: &str =
    "opentelemetry=off,tonic=off,h2=off,hyper=off,hyper_util=off,tower=off,evergreen_telemetry=off";

/// What is logged unless RUST_LOG says otherwise: the SDK only when something is wrong.
const QUIET: &str = "info,opentelemetry=warn,opentelemetry_sdk=warn";

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
    /// What waits for the receiver.
    pub spool: SpoolConfig,
}

/// Where telemetry waits until its receiver has acknowledged it.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// The folder, used by one process at a time. None: it waits in memory and ends with the process.
    pub folder: Option<PathBuf>,
    /// Most bytes that wait, packed; beyond it the oldest go and are counted.
    pub most_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { folder: None, most_bytes: 16 << 20 }
    }
}

/// Setting up telemetry failed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A standard variable of OTLP exporters cannot be used.
    #[error("{0}")]
    Exporter(String),
    /// The folder for waiting telemetry cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
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
    export: Option<Export>,
}

/// The way out of this process.
struct Export {
    spool: Spool,
    sender: JoinHandle<()>,
    stop: CancellationToken,
}

impl Telemetry {
    /// Sets up logs, metrics and traces. Call once, inside the runtime.
    ///
    /// # Errors
    /// When a standard variable of OTLP exporters is malformed, or the spool's folder cannot be used. An endpoint that does
    /// not answer is no error.
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
        let mut export = None;
        let mut endpoint = None;
        if let Some((text, target)) = Target::from_environment().map_err(TelemetryError::Exporter)? {
            let queue = Arc::new(Queue::open(config.spool.folder.as_deref(), config.spool.most_bytes)?);
            let spool = Spool::new(queue.clone(), &resource);
            let spans = SpanBatches::default().with_scheduled_delay(TO_DISK).build();
            tracers = tracers
                .with_span_processor(BatchSpanProcessor::builder(spool.clone()).with_batch_config(spans).build());
            let records = LogBatches::default().with_scheduled_delay(TO_DISK).build();
            loggers = loggers
                .with_log_processor(BatchLogProcessor::builder(spool.clone()).with_batch_config(records).build());
            meters = meters
                .with_reader(PeriodicReader::builder(spool.clone()).with_interval(config.metric_interval).build());
            let stop = CancellationToken::new();
            let sender = tokio::spawn(send::run(queue.clone(), target, stop.clone()));
            export = Some((Export { spool, sender, stop }, queue));
            endpoint = Some(text);
        }
        let telemetry = Self {
            tracer_provider: tracers.build(),
            meter_provider: meters.build(),
            logger_provider: loggers.build(),
            registry,
            resource,
            slow_meters: Vec::new(),
            export: None,
        };
        telemetry.subscribe(config.log_format);
        let telemetry = match export {
            Some((export, queue)) => {
                observe(&telemetry.meter(), queue);
                Self { export: Some(export), ..telemetry }
            }
            None => telemetry,
        };
        match endpoint {
            Some(endpoint) => tracing::info!(%endpoint, "exporting traces, metrics and logs over OTLP"),
            None => tracing::info!("{ENDPOINT} is not set: nothing is exported over OTLP"),
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
        let Some(export) = &self.export else { return Ok(None) };
        let reader = PeriodicReader::builder(export.spool.clone()).with_interval(interval).build();
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

    /// Sends what is left, for at most a few seconds; the rest stays on disk for the next process.
    pub async fn shutdown(self) {
        let export = self.export;
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
        if let Some(mut export) = export {
            export.stop.cancel();
            if tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut export.sender).await.is_err() {
                export.sender.abort();
            }
        }
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

/// How much waits for the receiver, and what was lost on the way.
fn observe(meter: &opentelemetry::metrics::Meter, queue: Arc<Queue>) {
    let waiting = queue.clone();
    meter
        .u64_observable_gauge("evergreen.telemetry.spooled")
        .with_unit("By")
        .with_description("Telemetry that waits for its receiver, packed")
        .with_callback(move |observer| observer.observe(waiting.bytes(), &[]))
        .build();
    meter
        .u64_observable_counter("evergreen.telemetry.lost")
        .with_unit("{record}")
        .with_description("Exports that were let go: evicted for room, refused by the receiver, or unreadable")
        .with_callback(move |observer| {
            let lost = &queue.lost;
            for (reason, count) in
                [("evicted", &lost.evicted), ("refused", &lost.refused), ("unreadable", &lost.unreadable)]
            {
                observer.observe(count.load(Ordering::Relaxed), &[KeyValue::new("reason", reason)]);
            }
        })
        .build();
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
