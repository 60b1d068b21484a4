//! GET /api/v1/energy and below it: series, ledger (for reports), green (the green data center view).

use axum::{Json, extract::State};
use evergreen_api::{duration::HumanDuration, resources::EnergyFacts};
use evergreen_report::{Days, LedgerPage};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Shared,
    error::{Params, window},
    guard::Reader,
};
use crate::{
    clock::{now_ms, rfc3339_ms},
    energy::{
        HOUR_MS, green, ledger,
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
    reader: Reader,
    Params(params): Params<ReportParams>,
) -> Result<Json<EnergyReport>, ApiError> {
    let choices = [("site", By::Site), ("node", By::Node), ("namespace", By::Namespace), ("pod", By::Pod)];
    let by = by(params.by.as_deref(), &choices)?;
    let (from_ms, to_ms) = window(params.from.as_deref(), params.to.as_deref(), now_ms(), 24 * HOUR_MS)?;
    let site = one_site(&reader, params.site.filter(|s| !s.is_empty()))?;
    let mut report = shared.reader.ask(move |c| query::report(c, from_ms, to_ms, by, site.as_deref())).await?;
    if reader.0.namespaces().is_some() && matches!(by, By::Namespace | By::Pod) {
        report.rows.retain(|row| reader.0.sees_namespace(row.key.split('/').next().unwrap_or_default()));
        report.total = query::sum(report.rows.iter().map(|row| &row.figures));
    }
    Ok(Json(report))
}

/// The data center to ask for: who sees only some asks for one of them at a time.
fn one_site(Reader(who): &Reader, asked: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(sites) = who.sites() else { return Ok(asked) };
    let names = || sites.iter().copied().collect::<Vec<_>>().join(", ");
    match asked {
        Some(site) if sites.contains(site.as_str()) => Ok(Some(site)),
        None if sites.len() == 1 => Ok(sites.first().map(|site| (*site).to_owned())),
        _ => Err(elsewhere(&format!("give site, one of {}", names()))),
    }
}

fn elsewhere(remedy: &str) -> ApiError {
    ApiError::new(
        axum::http::StatusCode::FORBIDDEN,
        "forbidden",
        "this is about data centers that you do not see",
        remedy,
    )
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
    reader: Reader,
    Params(params): Params<SeriesParams>,
) -> Result<Json<Value>, ApiError> {
    let by = by(params.by.as_deref(), &[("site", By::Site), ("node", By::Node)])?;
    if reader.0.sites().is_some() && !matches!(by, By::Site) {
        return Err(elsewhere("ask with by=site"));
    }
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
    let series: Vec<_> =
        series.into_iter().filter(|one| !matches!(by, By::Site) || reader.0.sees_site(&one.key)).collect();
    Ok(Json(json!({"from": rfc3339_ms(from_ms), "to": rfc3339_ms(to_ms), "step_ms": step, "series": series})))
}

#[derive(Deserialize)]
pub(super) struct LedgerParams {
    from: Option<String>,
    to: Option<String>,
    zone: Option<String>,
    days: Option<bool>,
    namespaces: Option<String>,
    label: Option<String>,
    after: Option<i64>,
}

fn days(from_ms: i64, to_ms: i64, zone: Option<&str>) -> Result<Days, ApiError> {
    let time = |ms| {
        let error = |_| ApiError::parameter("from or to is out of range", "give times of this era");
        Timestamp::from_millisecond(ms).map_err(error)
    };
    Days::new(time(from_ms)?, time(to_ms)?, zone.filter(|z| !z.is_empty()).unwrap_or("UTC"))
        .map_err(|error| ApiError::parameter(error.to_string(), "give from, to and zone, as in zone=Asia/Shanghai"))
}

/// One page of the ledger: what a report is made from. `after` is what the page before gave as `next`.
pub(super) async fn ledger(
    State(shared): State<Shared>,
    reader: Reader,
    Params(params): Params<LedgerParams>,
) -> Result<Json<LedgerPage>, ApiError> {
    let (from_ms, to_ms) = window(params.from.as_deref(), params.to.as_deref(), now_ms(), 24 * HOUR_MS)?;
    let days = days(from_ms, to_ms, params.zone.as_deref())?;
    if reader.0.sites().is_some() || reader.0.namespaces().is_some() {
        return Err(elsewhere("a report is made by somebody who sees everything"));
    }
    let label = match params.label.as_deref() {
        None => None,
        Some(text) => {
            Some(text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| {
                ApiError::parameter(format!("label: `{text}` has no value"), "write it as label=KEY%3DVALUE")
            })?)
        }
    };
    let names = |text: String| text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let asked = ledger::Asked {
        days,
        with_days: params.days.unwrap_or(true),
        namespaces: params.namespaces.map(names),
        label,
        after: params.after.unwrap_or(0),
    };
    Ok(Json(shared.reader.ask(move |c| ledger::page(c, &asked)).await?))
}

#[derive(Deserialize)]
pub(super) struct GreenParams {
    from: Option<String>,
    to: Option<String>,
    zone: Option<String>,
}

/// PUE over time, REF, WUE, CUE and grade of each data center.
pub(super) async fn green(
    State(shared): State<Shared>,
    reader: Reader,
    Params(params): Params<GreenParams>,
) -> Result<Json<green::Green>, ApiError> {
    let (from_ms, to_ms) = window(params.from.as_deref(), params.to.as_deref(), now_ms(), 30 * 24 * HOUR_MS)?;
    let days = days(from_ms, to_ms, params.zone.as_deref())?;
    let facts = match &shared.energy_facts {
        None => EnergyFacts::default(),
        Some(path) => green::read_facts(path).map_err(|message| {
            ApiError::new(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                "facts",
                message,
                "correct the file of --energy-facts",
            )
        })?,
    };
    let mut asked = ledger::Asked { days, with_days: true, namespaces: None, label: None, after: 0 };
    let mut sum = evergreen_report::Ledger::new(asked.days.clone());
    loop {
        let one = asked.clone();
        let page = shared.reader.ask(move |c| ledger::page(c, &one)).await?;
        page.rows.into_iter().for_each(|row| sum.add(row));
        match page.next {
            Some(next) if next > asked.after => asked.after = next,
            _ => break,
        }
    }
    let mut view = green::view(&sum, &facts, shared.energy_facts.is_some());
    view.sites.retain(|site| reader.0.sees_site(&site.name));
    Ok(Json(view))
}
