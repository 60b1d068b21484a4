//! GET /api/v1/energy and /api/v1/energy/series.

use axum::{Json, extract::State};
use evergreen_api::duration::HumanDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Shared,
    error::{Params, window},
};
use crate::{
    clock::{now_ms, rfc3339_ms},
    energy::{
        HOUR_MS,
        query::{self, By, EnergyReport},
        series as power,
    },
};

/// Points that one curve may have: two for each pixel of a wide screen.
const MAX_STEPS: i64 = 4_000;
/// Points that a curve gets when no step is asked.
const STEPS: i64 = 240;
/// Steps that read well on an axis, milliseconds.
const GOOD_STEPS: [i64; 10] = [1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, HOUR_MS, 6 * HOUR_MS];

#[derive(Deserialize)]
pub(super) struct ReportParams {
    from: Option<String>,
    to: Option<String>,
    by: Option<String>,
    site: Option<String>,
}

fn by(text: Option<&str>, choices: &[(&str, By)]) -> Result<By, ApiError> {
    let text = text.filter(|t| !t.is_empty()).unwrap_or("site");
    choices.iter().find(|(name, _)| *name == text).map(|(_, by)| *by).ok_or_else(|| {
        let names = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        ApiError::parameter(format!("by: `{text}` is none"), format!("give one of {names}"))
    })
}

pub(super) async fn report(
    State(shared): State<Shared>,
    Params(params): Params<ReportParams>,
) -> Result<Json<EnergyReport>, ApiError> {
    let choices = [("site", By::Site), ("node", By::Node), ("namespace", By::Namespace), ("pod", By::Pod)];
    let by = by(params.by.as_deref(), &choices)?;
    let (from_ms, to_ms) = window(params.from.as_deref(), params.to.as_deref(), now_ms(), 24 * HOUR_MS)?;
    let site = params.site.filter(|s| !s.is_empty());
    Ok(Json(shared.reader.ask(move |c| query::report(c, from_ms, to_ms, by, site.as_deref())).await?))
}

#[derive(Deserialize)]
pub(super) struct SeriesParams {
    from: Option<String>,
    to: Option<String>,
    by: Option<String>,
    step: Option<String>,
}

pub(super) async fn series(
    State(shared): State<Shared>,
    Params(params): Params<SeriesParams>,
) -> Result<Json<Value>, ApiError> {
    let by = by(params.by.as_deref(), &[("site", By::Site), ("node", By::Node)])?;
    let (from_ms, to_ms) = window(params.from.as_deref(), params.to.as_deref(), now_ms(), HOUR_MS)?;
    let length = to_ms - from_ms;
    let asked = match params.step.as_deref().filter(|s| !s.is_empty()) {
        None => *GOOD_STEPS.iter().find(|step| length / **step <= STEPS).unwrap_or(&(24 * HOUR_MS)),
        Some(text) => {
            let step: HumanDuration =
                text.parse().map_err(|e| ApiError::parameter(format!("step: {e}"), "write it as in 5s, 1m or 1h"))?;
            i64::try_from(step.get().as_millis()).unwrap_or(i64::MAX)
        }
    };
    if asked < 1_000 || length / asked > MAX_STEPS {
        let least = (length / MAX_STEPS + 1).max(1_000) / 1_000 + 1;
        return Err(ApiError::parameter(
            format!("step: {asked} ms gives too many points for this window"),
            format!("give at least {least}s, or a shorter window"),
        ));
    }
    let (step, series) = shared
        .reader
        .ask(move |c| {
            let step = power::step(c, from_ms, asked)?;
            Ok((step, power::power(c, from_ms, to_ms, by, step)?))
        })
        .await?;
    Ok(Json(json!({"from": rfc3339_ms(from_ms), "to": rfc3339_ms(to_ms), "step_ms": step, "series": series})))
}
