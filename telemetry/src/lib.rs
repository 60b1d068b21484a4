//! Process set-up that the agent and the controller share: logs to the terminal and to OTLP, metrics to OTLP and to
//! Prometheus from one meter, and the spans of an incident.
//!
//! What is exported lies on disk until it is acknowledged, so that neither an absent receiver nor a kill of this process
//! loses it.
//!
//! It decides nothing and measures nothing. Without an OTLP endpoint in the environment nothing is exported, but spans
//! still get their ids, so that the trace of an incident is the same whoever looks on.

mod incident;
mod pipeline;
mod spool;

pub use incident::{IncidentSpan, IncidentTracer};
pub use opentelemetry::{KeyValue, metrics::Meter};
pub use pipeline::{LogFormat, SpoolConfig, Telemetry, TelemetryConfig, TelemetryError};
pub use spool::queue::SpoolError;
