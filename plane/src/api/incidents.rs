//! GET /api/v1/incidents, /api/v1/incidents/{trace_id}, /api/v1/traces/{trace_id}.

use axum::{
    Json,
    extract::{Path, State},
};
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{ApiError, Shared, error::Params, guard::Reader};
use crate::{
    clock::rfc3339_ns,
    incidents::State as IncidentState,
    model::{Span, SpanStatus},
    security::role::Permission,
    store::spans_of_trace,
};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
/// Log records shown with an incident.
const MAX_LOGS: u32 = 500;

#[derive(Deserialize)]
pub(super) struct ListParams {
    limit: Option<u32>,
    state: Option<String>,
    site: Option<String>,
    before: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    trace_id: String,
    title: String,
    severity: Option<String>,
    site: Option<String>,
    node: Option<String>,
    kind: String,
    state: String,
    started_at: String,
    detected_at: String,
    ended_at: Option<String>,
    duration_ms: Option<i64>,
    span_count: i64,
}

const COLUMNS: &str =
    "trace_id, title, severity, site, node, kind, state, started_ns, detected_ns, ended_ns, span_count";

fn row(row: &Row<'_>) -> rusqlite::Result<Listed> {
    let trace_id: [u8; 16] = row.get(0)?;
    let (started_ns, ended_ns): (i64, Option<i64>) = (row.get(7)?, row.get(9)?);
    Ok(Listed {
        trace_id: hex::encode(trace_id),
        title: row.get(1)?,
        severity: row.get(2)?,
        site: row.get(3)?,
        node: row.get(4)?,
        kind: row.get(5)?,
        state: row.get(6)?,
        started_at: rfc3339_ns(started_ns),
        detected_at: rfc3339_ns(row.get(8)?),
        ended_at: ended_ns.map(rfc3339_ns),
        duration_ms: ended_ns.map(|end| (end - started_ns) / 1_000_000),
        span_count: row.get(10)?,
    })
}

pub(super) async fn list(
    State(shared): State<Shared>,
    reader: Reader,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, ApiError> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(ApiError::parameter(format!("limit: {limit} is out of range"), format!("give 1 to {MAX_LIMIT}")));
    }
    let state = match params.state.as_deref().filter(|s| !s.is_empty()) {
        None => None,
        Some(name) => Some(IncidentState::parse(name).ok_or_else(|| {
            let names = IncidentState::ALL.map(IncidentState::as_str).join(", ");
            ApiError::parameter(format!("state: `{name}` is none"), format!("give one of {names}"))
        })?),
    };
    let before = params.before.as_deref().filter(|b| !b.is_empty()).map(cursor).transpose()?;
    let sites = reader.0.sites().map(|sites| json!(sites).to_string());
    let site = params.site.filter(|site| !site.is_empty());
    let (mut incidents, counts) = shared
        .reader
        .ask(move |c| {
            let state = state.map(IncidentState::as_str);
            let (time, id) = before.unzip();
            let rows = c
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM incidents WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR site = ?2)
                     AND (?3 IS NULL OR site IN (SELECT value FROM json_each(?3)))
                     AND (?4 IS NULL OR started_ns < ?4 OR (started_ns = ?4 AND trace_id < ?5))
                     ORDER BY started_ns DESC, trace_id DESC LIMIT ?6"
                ))?
                .query_map(params![state, site, sites, time, id, limit + 1], |r| Ok((row(r)?, r.get::<_, i64>(7)?)))?
                .collect::<Result<Vec<_>, _>>()?;
            let counts = c
                .prepare_cached(
                    "SELECT state, count(*) FROM incidents WHERE (?1 IS NULL OR site = ?1)
                     AND (?2 IS NULL OR site IN (SELECT value FROM json_each(?2))) GROUP BY state",
                )?
                .query_map(params![site, sites], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?
                .collect::<Result<std::collections::BTreeMap<_, _>, _>>()?;
            Ok((rows, counts))
        })
        .await?;
    let more = incidents.len() > limit as usize;
    incidents.truncate(limit as usize);
    let next = incidents.last().filter(|_| more).map(|(last, time)| format!("{time}-{}", last.trace_id));
    let incidents: Vec<Value> = incidents
        .into_iter()
        .map(|(incident, _)| {
            let acknowledged = shared.gate.trail.acknowledged(&incident.trace_id);
            let mut body = json!(incident);
            body["acknowledged"] = json!(acknowledged);
            body
        })
        .collect();
    Ok(Json(json!({"incidents": incidents, "next": next, "counts": counts})))
}

/// Reads `next` of a page before.
fn cursor(text: &str) -> Result<(i64, [u8; 16]), ApiError> {
    let wrong =
        || ApiError::parameter(format!("before: `{text}` is no page"), "give what `next` of the page before was");
    let (time, id) = text.rsplit_once('-').ok_or_else(wrong)?;
    Ok((time.parse().map_err(|_| wrong())?, trace_id(id).map_err(|_| wrong())?))
}

/// The data center of an incident.
pub(super) async fn site_of(shared: &Shared, text: &str) -> Result<Option<String>, ApiError> {
    let id = trace_id(text)?;
    let found = shared
        .reader
        .ask(move |c| {
            c.prepare_cached("SELECT site FROM incidents WHERE trace_id = ?1")?
                .query_row([id], |row| row.get::<_, Option<String>>(0))
                .optional()
        })
        .await?;
    found.ok_or_else(|| no_incident(text))
}

fn no_incident(text: &str) -> ApiError {
    ApiError::not_found(format!("no incident {text}"), "list them at /api/v1/incidents; old ones expire")
}

#[derive(Serialize)]
struct SpanView {
    span_id: String,
    parent_span_id: Option<String>,
    name: String,
    service: String,
    site: Option<String>,
    node: Option<String>,
    start: String,
    end: String,
    start_ms_offset: f64,
    duration_ms: f64,
    status: SpanStatus,
    status_message: String,
    attributes: Map<String, Value>,
    events: Vec<Value>,
}

fn millis(nanos: i64) -> f64 {
    nanos as f64 / 1e6
}

fn views(spans: Vec<Span>) -> Vec<SpanView> {
    let start = spans.iter().map(|s| s.start_ns).min().unwrap_or(0);
    spans
        .into_iter()
        .map(|span| SpanView {
            span_id: hex::encode(span.span_id),
            parent_span_id: span.parent.map(hex::encode),
            name: span.name,
            service: span.service,
            site: span.site,
            node: span.node,
            start: rfc3339_ns(span.start_ns),
            end: rfc3339_ns(span.end_ns),
            start_ms_offset: millis(span.start_ns - start),
            duration_ms: millis(span.end_ns - span.start_ns),
            status: span.status,
            status_message: span.status_message,
            attributes: span.attributes,
            events: span
                .events
                .into_iter()
                .map(|e| json!({"name": e.name, "time": rfc3339_ns(e.time_ns), "offset_ms": millis(e.time_ns - start), "attributes": e.attributes}))
                .collect(),
        })
        .collect()
}

fn trace_id(text: &str) -> Result<[u8; 16], ApiError> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id)
        .map(|()| id)
        .map_err(|_| ApiError::parameter(format!("`{text}` is no trace id"), "give 32 hexadecimal digits"))
}

pub(super) async fn one(
    State(shared): State<Shared>,
    Reader(who): Reader,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = trace_id(&text)?;
    let found = shared
        .reader
        .ask(move |c| {
            let incident = c
                .prepare_cached(&format!("SELECT {COLUMNS} FROM incidents WHERE trace_id = ?1"))?
                .query_row([id], row)
                .optional()?;
            let Some(incident) = incident else { return Ok(None) };
            let logs = c
                .prepare_cached(
                    "SELECT time_ns, severity, service, site, node, body, attributes, span_id FROM logs
                     WHERE trace_id = ?1 ORDER BY time_ns LIMIT ?2",
                )?
                .query_map(params![id, MAX_LOGS], log)?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(Some((incident, spans_of_trace(c, &id)?, logs)))
        })
        .await?;
    // What is not seen is not there: an answer of 403 would tell that it is.
    let found = found.filter(|(incident, ..)| who.may_at(Permission::Read, incident.site.as_deref()));
    let (incident, spans, logs) = found.ok_or_else(|| no_incident(&text))?;
    let mut body = json!(incident);
    body["acknowledged"] = json!(shared.gate.trail.acknowledged(&incident.trace_id));
    body["spans"] = json!(views(spans));
    body["logs"] = json!(logs);
    Ok(Json(body))
}

fn log(row: &Row<'_>) -> rusqlite::Result<Value> {
    let attributes: Value = serde_json::from_str(&row.get::<_, String>(6)?).unwrap_or_default();
    Ok(json!({
        "time": rfc3339_ns(row.get(0)?),
        "severity": row.get::<_, i64>(1)?,
        "service": row.get::<_, String>(2)?,
        "site": row.get::<_, Option<String>>(3)?,
        "node": row.get::<_, Option<String>>(4)?,
        "body": row.get::<_, String>(5)?,
        "attributes": attributes,
        "span_id": row.get::<_, Option<[u8; 8]>>(7)?.map(hex::encode),
    }))
}

pub(super) async fn trace(
    State(shared): State<Shared>,
    Reader(who): Reader,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = trace_id(&text)?;
    let mut spans = shared.reader.ask(move |c| spans_of_trace(c, &id)).await?;
    spans.retain(|span| who.may_at(Permission::Read, span.site.as_deref()));
    if spans.is_empty() {
        return Err(ApiError::not_found(
            format!("no trace {text}"),
            "check the id; spans expire after --retention-spans",
        ));
    }
    Ok(Json(json!({"trace_id": text.to_lowercase(), "spans": views(spans)})))
}
