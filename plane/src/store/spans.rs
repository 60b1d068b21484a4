//! Writing spans, the incidents they make up, and log records.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::Change;
use crate::{
    incidents::{self, Incident},
    model::{LogRecord, Span, SpanEvent, SpanStatus},
};

#[derive(Default)]
pub(super) struct Written {
    pub(super) spans: u64,
    pub(super) duplicates: u64,
    pub(super) incidents: Vec<Change>,
}

/// Columns that [`read`] expects, in its order.
pub(crate) const COLUMNS: &str = "trace_id, span_id, parent, name, service, site, node, start_ns, end_ns, status, status_message, attributes, events";

/// Stores spans and brings the incidents of their traces up to date. The first delivery of a span stays.
pub(super) fn write(transaction: &Transaction<'_>, spans: &[Span]) -> rusqlite::Result<Written> {
    let mut written = Written::default();
    let mut touched = BTreeSet::new();
    let mut insert = transaction.prepare_cached(
        "INSERT INTO spans (trace_id, span_id, parent, name, service, site, node, start_ns, end_ns, status, status_message, attributes, events)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT DO NOTHING",
    )?;
    for span in spans {
        let changed = insert.execute(params![
            span.trace_id,
            span.span_id,
            span.parent,
            span.name,
            span.service,
            span.site,
            span.node,
            span.start_ns,
            span.end_ns,
            span.status.code(),
            span.status_message,
            serde_json::to_string(&span.attributes).expect("attributes are JSON"),
            serde_json::to_string(&span.events).expect("events are JSON"),
        ])?;
        if changed == 0 {
            written.duplicates += 1;
        } else {
            written.spans += 1;
            touched.insert(span.trace_id);
        }
    }
    let flagged: BTreeSet<[u8; 16]> = spans.iter().filter(|s| incidents::is_root(s)).map(|s| s.trace_id).collect();
    for trace_id in touched {
        if !flagged.contains(&trace_id) && !is_incident(transaction, &trace_id)? {
            continue;
        }
        let spans = of_trace(transaction, &trace_id)?;
        if let Some(incident) = incidents::derive(&spans) {
            put(transaction, &incident)?;
            written
                .incidents
                .push(Change::Incident { trace_id: hex::encode(trace_id), state: incident.state.as_str().to_owned() });
        }
    }
    Ok(written)
}

fn is_incident(transaction: &Transaction<'_>, trace_id: &[u8; 16]) -> rusqlite::Result<bool> {
    let found = transaction
        .prepare_cached("SELECT 1 FROM incidents WHERE trace_id = ?1")?
        .query_row([trace_id], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// All spans of a trace, oldest first.
pub(crate) fn of_trace(connection: &rusqlite::Connection, trace_id: &[u8; 16]) -> rusqlite::Result<Vec<Span>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM spans WHERE trace_id = ?1 ORDER BY start_ns, end_ns DESC, span_id"
        ))?
        .query_map([trace_id], read)?
        .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Span> {
    let json = |i: usize| row.get::<_, String>(i);
    Ok(Span {
        trace_id: row.get(0)?,
        span_id: row.get(1)?,
        parent: row.get(2)?,
        name: row.get(3)?,
        service: row.get(4)?,
        site: row.get(5)?,
        node: row.get(6)?,
        start_ns: row.get(7)?,
        end_ns: row.get(8)?,
        status: SpanStatus::from_code(row.get(9)?),
        status_message: row.get(10)?,
        attributes: serde_json::from_str(&json(11)?).unwrap_or_default(),
        events: serde_json::from_str::<Vec<SpanEvent>>(&json(12)?).unwrap_or_default(),
    })
}

fn put(transaction: &Transaction<'_>, incident: &Incident) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO incidents (trace_id, title, severity, site, node, kind, state, started_ns, detected_ns, ended_ns, span_count)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            incident.trace_id,
            incident.title,
            incident.severity,
            incident.site,
            incident.node,
            incident.kind,
            incident.state.as_str(),
            incident.started_ns,
            incident.detected_ns,
            incident.ended_ns,
            incident.span_count,
        ])?;
    Ok(())
}

/// Stores log records; answers how many were new.
pub(super) fn write_logs(transaction: &Transaction<'_>, logs: &[LogRecord]) -> rusqlite::Result<u64> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO logs (time_ns, hash, severity, service, site, node, body, attributes, trace_id, span_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )?;
    let mut new = 0;
    for log in logs {
        new += insert.execute(params![
            log.time_ns,
            log.hash,
            log.severity,
            log.service,
            log.site,
            log.node,
            log.body,
            serde_json::to_string(&log.attributes).expect("attributes are JSON"),
            log.trace_id,
            log.span_id,
        ])? as u64;
    }
    Ok(new)
}
