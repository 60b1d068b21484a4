//! GET /api/v1/metrics/series: raw points of one metric.

use axum::{Json, extract::State};
use evergreen_api::telemetry::attribute;
use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ApiError, Shared,
    error::{Params, window},
    guard::Reader,
};
use crate::{clock::now_ms, energy::HOUR_MS, model::Labels, store::points};

/// Series and points of one answer; beyond it the answer says that it is cut.
const MAX_SERIES: usize = 500;
const MAX_POINTS: usize = 200_000;

#[derive(Deserialize)]
pub(super) struct SeriesParams {
    name: Option<String>,
    from: Option<String>,
    to: Option<String>,
    site: Option<String>,
    node: Option<String>,
}

#[derive(Serialize)]
struct Curve {
    labels: Labels,
    unit: String,
    points: Vec<(i64, Option<f64>)>,
}

pub(super) async fn series(
    State(shared): State<Shared>,
    Reader(who): Reader,
    Params(asked): Params<SeriesParams>,
) -> Result<Json<Value>, ApiError> {
    let name = asked
        .name
        .filter(|n| !n.is_empty())
        .ok_or_else(|| ApiError::parameter("name is missing", "give a metric name, as in name=hw.host.power"))?;
    let (from_ms, to_ms) = window(asked.from.as_deref(), asked.to.as_deref(), now_ms(), HOUR_MS)?;
    let (site, node) = (asked.site.filter(|s| !s.is_empty()), asked.node.filter(|s| !s.is_empty()));
    let (series, truncated) = shared
        .reader
        .ask(move |c| {
            let mut found = c.prepare_cached(
                "SELECT id, labels, unit FROM series
                 WHERE name = ?1 AND (?2 IS NULL OR site = ?2) AND (?3 IS NULL OR node = ?3) ORDER BY id LIMIT ?4",
            )?;
            let found = found
                .query_map(params![name, site, node, MAX_SERIES as i64 + 1], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
                })?
                .collect::<Result<Vec<_>, _>>()?;
            let mut truncated = found.len() > MAX_SERIES;
            let mut room = MAX_POINTS;
            let mut curves = Vec::new();
            for (id, labels, unit) in found.into_iter().take(MAX_SERIES) {
                let mut points: Vec<(i64, Option<f64>)> =
                    points::range(c, id, from_ms, to_ms)?.into_iter().map(|p| (p.time_ms, p.value)).collect();
                points.truncate(room);
                room -= points.len();
                truncated |= room == 0;
                let labels: Labels = serde_json::from_str(&labels).unwrap_or_default();
                let site = labels.get(attribute::SITE).map_or("", String::as_str);
                let namespace = labels.get(attribute::NAMESPACE);
                let seen = who.sees_site(site) && namespace.is_none_or(|name| who.sees_namespace(name));
                if !points.is_empty() && seen {
                    curves.push(Curve { labels, unit, points });
                }
            }
            Ok((curves, truncated))
        })
        .await?;
    Ok(Json(json!({"series": series, "truncated": truncated})))
}
