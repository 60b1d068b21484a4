//! What others read: metrics over OTLP and Prometheus, health, readiness, grants. It shows and never decides.

pub mod http;
pub mod metrics;
pub mod pods;
