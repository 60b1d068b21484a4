//! Tells what a drill decides: an audit record that holds the facts, so that the decision can be made again from them, and
//! spans of the drill's one trace.

use std::sync::Arc;

use evergreen_api::{TraceParent, telemetry::attribute};
use evergreen_audit::{AuditLog, Draft};
use evergreen_telemetry::{IncidentTracer, KeyValue};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{facts::DrillFacts, planner::Next};

/// Kind of the audit record of a drill's decision.
pub const DRILL_DECISION: &str = "drill.decision";
/// A drill, as its spans say.
const DRILL: &str = "evergreen.drill";

/// Body of the audit record of a drill's decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillDecided {
    /// Site whose controller decided.
    pub site: String,
    /// Drill.
    pub drill: String,
    /// Ticket; empty before one is open.
    pub ticket: String,
    /// The drill's trace.
    pub traceparent: Option<String>,
    /// Everything that it was decided on.
    pub facts: DrillFacts,
    /// What was decided.
    pub next: Next,
}

/// Records; it returns when the record is on the disk, before anything is done. A disk that is full stops no drill from
/// coming back; it is told as loudly as can be.
pub(super) async fn append(log: Option<Arc<Mutex<AuditLog>>>, decided: &DrillDecided, at: &str) {
    let Some(log) = log else { return };
    let body = match serde_json::to_value(decided) {
        Ok(body) => body,
        Err(error) => return tracing::error!(%error, "a drill's decision cannot be recorded"),
    };
    let draft = Draft { at: at.to_owned(), kind: DRILL_DECISION.into(), body };
    match tokio::task::spawn_blocking(move || log.lock().append(&[draft])).await {
        Ok(Ok(hashes)) => tracing::info!(audit_hash = hashes.last(), "recorded"),
        Ok(Err(error)) => tracing::error!(
            error = &error as &dyn std::error::Error,
            "a drill's decision is made but NOT RECORDED: make room for the audit log"
        ),
        Err(error) => tracing::error!(%error, "the audit log's writer failed"),
    }
}

/// Begins the trace of a drill.
pub(super) fn root(tracer: &IncidentTracer, drill: &str, site: &str, ticket: &str) -> String {
    let title = format!("Drill {drill}: services leave {site} and come back (ticket {ticket})");
    let attributes = vec![
        KeyValue::new(DRILL, drill.to_owned()),
        KeyValue::new(attribute::INCIDENT_TITLE, title),
        KeyValue::new(attribute::SITE, site.to_owned()),
    ];
    let span = tracer.root("drill", attributes);
    let traceparent = span.traceparent().to_string();
    span.end();
    traceparent
}

/// A step of the drill.
pub(super) fn step(tracer: &IncidentTracer, traceparent: Option<&str>, drill: &str, name: &'static str, why: &str) {
    let Some(parent) = traceparent.and_then(|text| text.parse::<TraceParent>().ok()) else { return };
    let attributes = vec![KeyValue::new(DRILL, drill.to_owned()), KeyValue::new(attribute::REASON, why.to_owned())];
    tracer.child(parent, name, attributes).end();
}
