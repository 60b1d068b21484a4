//! Process set-up that the agent and the controller share: logs to the terminal and to OTLP, metrics to OTLP and to
//! Prometheus from one meter, and the spans of an incident.
//!
//! It decides nothing and measures nothing. Without an OTLP endpoint in the environment nothing is exported, but spans
//! still get their ids, so that the trace of an incident is the same whoever looks on.

mod incident;
mod pipeline;

pub use incident::{IncidentSpan, IncidentTracer};
pub use opentelemetry::{KeyValue, metrics::Meter};
pub use pipeline::{LogFormat, Telemetry, TelemetryConfig, TelemetryError};
