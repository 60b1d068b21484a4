//! A Prometheus-compatible store (Prometheus, Thanos, VictoriaMetrics): counters are read as raw samples and added up
//! here, never with `rate` or `increase`, which extrapolate. So the sum is exactly what the samples say:
//!
//! - joules become microjoules sample by sample, so increments telescope;
//! - a value below the one before is a reset: what it shows was used since then, what was used between the last sample
//!   and the reset is lost and never guessed;
//! - the sample before the period is looked for within an hour; without one the first sample is a baseline, except of a
//!   pod that appears on a node that was already there: it counts from zero.
//!
//! Samples come in stretches of time that get shorter when an answer is too long.

use std::collections::{BTreeMap, HashMap};

use evergreen_api::resources::{EnergyUnit, FacilityMeter, ReportScope};
use serde::Deserialize;

use super::{
    Query, SourceError,
    http::{Answer, Http, encode},
};
use crate::{
    days::Days,
    ledger::{Kind, Ledger, Row, workload},
};

const MINUTE_MS: i64 = 60_000;
/// How far before the period a sample is looked for.
const LOOK_BACK_MS: i64 = 60 * MINUTE_MS;
/// First stretch that is asked for, and the longest.
const STRETCH_MS: i64 = 6 * 60 * MINUTE_MS;
const LONGEST_MS: i64 = 7 * 24 * 60 * MINUTE_MS;
/// A short answer makes the next stretch longer.
const SHORT_ANSWER: usize = 6 << 20;
/// Step of an expression that is no plain counter.
const STEP_MS: i64 = 5 * MINUTE_MS;
/// Times between samples from which the usual one is learned.
const LEARN: usize = 16;
/// Samples further apart than this many usual times leave a gap, as in the plane.
const GAP_INTERVALS: i64 = 3;

const NODE_LABELS: [&str; 4] = ["k8s_node_name", "k8s.node.name", "node", "instance"];
const SITE_LABELS: [&str; 5] = ["evergreen_site", "evergreen.site", "site", "datacenter", "data_center"];

type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow, default)]
    result: Vec<Series<'a>>,
}

#[derive(Deserialize)]
struct Series<'a> {
    metric: Labels,
    #[serde(borrow, default)]
    values: Vec<(f64, &'a str)>,
}

/// What is known of a series between two stretches.
#[derive(Default)]
struct State {
    previous: Option<(i64, i128)>,
    apart: Vec<i64>,
    usual_ms: Option<i64>,
}

/// A counter that is being read: what it is, and its sums by row.
struct Reader<'a> {
    http: &'a Http,
    days: &'a Days,
    sums_only: bool,
    kind: Kind,
    /// Microunits of one unit of the counter.
    unit: u128,
    states: HashMap<Labels, State>,
    rows: BTreeMap<(String, String, String, String, String), (Row, BTreeMap<u32, u128>)>,
    /// First sample of each node, Unix milliseconds; for pods.
    nodes: &'a BTreeMap<(String, String), i64>,
}

/// The ledger of a period from the store at `url`.
pub(super) async fn ledger(url: &str, query: &Query<'_>) -> Result<Ledger, SourceError> {
    let http = Http::new(url)?;
    let mut ledger = Ledger::new(query.days.clone());
    let none = BTreeMap::new();
    let joules = EnergyUnit::J.microjoules();
    let reader = |kind, unit, nodes| Reader {
        http: &http,
        days: query.days,
        sums_only: query.sums_only,
        kind,
        unit,
        states: HashMap::new(),
        rows: BTreeMap::new(),
        nodes,
    };
    let mut hosts = reader(Kind::Host, joules, &none);
    let nodes = hosts.read(r#"{__name__=~"hw_host_energy_joules_total|hw[.]host[.]energy"}"#).await?;
    hosts.into(&mut ledger);
    let mut idle = reader(Kind::Idle, joules, &none);
    idle.read(r#"{__name__="evergreen_node_energy_joules_total",evergreen_energy_consumer="idle"}"#).await?;
    idle.into(&mut ledger);
    let mut pods = reader(Kind::Pod, joules, &nodes);
    for selector in selectors(query) {
        pods.read(&selector).await?;
    }
    pods.into(&mut ledger);
    meters(query, reader, &none, &mut ledger).await?;
    Ok(ledger)
}

/// Selectors of the pods in scope. No series matches two of them.
fn selectors(query: &Query<'_>) -> Vec<String> {
    let name = r#"__name__=~"k8s_pod_energy_joules_total|k8s[.]pod[.]energy""#;
    let names = |names: &[String]| {
        let names: Vec<String> = names.iter().map(|name| name.replace('.', "[.]")).collect();
        names.join("|")
    };
    match query.scope {
        ReportScope::Fleet | ReportScope::DataCenters(_) => vec![format!("{{{name}}}")],
        ReportScope::Namespace(namespace) => {
            vec![format!(r#"{{{name},k8s_namespace_name=~"{}"}}"#, names(std::slice::from_ref(namespace)))]
        }
        ReportScope::Label { key, value } => {
            let key: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let mut selectors = vec![format!(r#"{{{name},{key}="{value}"}}"#)];
            if !query.namespaces.is_empty() {
                let names = names(query.namespaces);
                selectors.push(format!(r#"{{{name},{key}!="{value}",k8s_namespace_name=~"{names}"}}"#));
            }
            selectors
        }
    }
}

async fn meters<'a>(
    query: &Query<'_>,
    reader: impl Fn(Kind, u128, &'a BTreeMap<(String, String), i64>) -> Reader<'a>,
    none: &'a BTreeMap<(String, String), i64>,
    ledger: &mut Ledger,
) -> Result<(), SourceError> {
    let mut own = reader(Kind::Facility, EnergyUnit::J.microjoules(), none);
    own.read(r#"{__name__="evergreen_facility_energy_joules_total"}"#).await?;
    let mut found = Ledger::new(query.days.clone());
    own.into(&mut found);
    let mut water = reader(Kind::Water, 1_000_000, none);
    water.read(r#"{__name__=~"evergreen_facility_water_liters_total|evergreen_facility_water_total"}"#).await?;
    water.into(&mut found);
    for site in &query.facts.sites {
        let Some(FacilityMeter { metric, promql, unit }) = &site.facility_meter else { continue };
        if metric.is_none() && promql.is_none() {
            continue;
        }
        // A named meter stands in place of the site's own counter.
        let water = found.meters.get(&site.data_center).and_then(|meter| meter.water);
        found.meters.remove(&site.data_center);
        let mut rows = named(&reader, none, metric.as_deref(), promql.as_deref(), unit.microjoules()).await?;
        if rows.is_empty() {
            let what = promql.as_deref().or(metric.as_deref()).unwrap_or_default();
            return Err(SourceError::Meter {
                site: site.data_center.clone(),
                what: format!("the facility meter `{what}` has no samples in the period"),
            });
        }
        rows.retain(|row| row.site == "unknown" || row.site == site.data_center);
        for row in rows {
            found.add(Row { site: site.data_center.clone(), ..row });
        }
        if let Some(water) = water {
            found.meters.entry(site.data_center.clone()).or_default().water = Some(water);
        }
    }
    ledger.meters = found.meters;
    Ok(())
}

async fn named<'a>(
    reader: &impl Fn(Kind, u128, &'a BTreeMap<(String, String), i64>) -> Reader<'a>,
    none: &'a BTreeMap<(String, String), i64>,
    metric: Option<&str>,
    promql: Option<&str>,
    unit: u128,
) -> Result<Vec<Row>, SourceError> {
    let mut meter = reader(Kind::Facility, unit, none);
    match (metric, promql) {
        (_, Some(expression)) => meter.read_expression(expression).await?,
        (Some(name), None) => {
            let name = name.replace(['\\', '"'], "");
            meter.read(&format!(r#"{{__name__="{name}"}}"#)).await?;
        }
        (None, None) => {}
    }
    Ok(meter.rows())
}

impl Reader<'_> {
    /// Reads a counter over the period; answers the first sample of each node.
    async fn read(&mut self, selector: &str) -> Result<BTreeMap<(String, String), i64>, SourceError> {
        let mut first: BTreeMap<(String, String), i64> = BTreeMap::new();
        let (from, to) = (self.days.from_ms(), self.days.to_ms());
        let (mut at, mut stretch) = (from - LOOK_BACK_MS, LOOK_BACK_MS);
        while at < to {
            let end = (at + stretch).min(if at < from { from } else { to });
            // Stores differ in whether the ends of a range belong to it; what is beyond is left out below.
            let range = end - at + 1;
            let seconds = (end - 1) as f64 / 1000.0;
            let form = format!("query={}&time={seconds:.3}", encode(&format!("{selector}[{range}ms]")));
            let body = match self.http.ask("/api/v1/query", Some(form)).await {
                Ok(Answer::Body(body)) => Some(body),
                Ok(Answer::TooLong) => None,
                // "query processing would load too many samples", "too many series", a time-out of the store
                Err(SourceError::Refused { status: 422 | 500 | 503, body, url }) => {
                    if stretch <= MINUTE_MS
                        || !(body.contains("too many") || body.contains("exceed") || body.contains("timeout"))
                    {
                        return Err(SourceError::Refused { status: 422, body, url });
                    }
                    None
                }
                Err(other) => return Err(other),
            };
            let Some(body) = body else {
                if stretch <= MINUTE_MS {
                    return Err(SourceError::TooMuch { url: self.http.url() });
                }
                stretch = (stretch / 4).max(MINUTE_MS);
                continue;
            };
            let answer = |source| SourceError::Answer { url: self.http.url(), what: "list of samples", source };
            let reply: Reply<'_> = serde_json::from_slice(&body).map_err(answer)?;
            for series in reply.data.result {
                let key = place(&series.metric);
                for (seconds, value) in &series.values {
                    let time_ms = (seconds * 1000.0).round() as i64;
                    if (at..end).contains(&time_ms) {
                        let first = first.entry(key.clone()).or_insert(time_ms);
                        *first = time_ms.min(*first);
                        self.sample(&series.metric, time_ms, value);
                    }
                }
            }
            at = end;
            stretch = match body.len() {
                0..SHORT_ANSWER => (stretch * 2).clamp(STRETCH_MS, LONGEST_MS),
                _ => stretch.min(STRETCH_MS),
            };
        }
        Ok(first)
    }

    /// Reads an expression that gives cumulative counters, at fixed steps from five minutes before the period.
    async fn read_expression(&mut self, expression: &str) -> Result<(), SourceError> {
        let to = self.days.to_ms();
        let mut at = self.days.from_ms() - STEP_MS;
        while at < to {
            // Prometheus answers at most 11,000 points a series.
            let end = (at + 10_000 * STEP_MS).min(to - 1);
            let form = format!(
                "query={}&start={:.3}&end={:.3}&step={}",
                encode(expression),
                at as f64 / 1000.0,
                end as f64 / 1000.0,
                STEP_MS / 1000
            );
            let Answer::Body(body) = self.http.ask("/api/v1/query_range", Some(form)).await? else {
                return Err(SourceError::TooMuch { url: self.http.url() });
            };
            let answer = |source| SourceError::Answer { url: self.http.url(), what: "list of samples", source };
            let reply: Reply<'_> = serde_json::from_slice(&body).map_err(answer)?;
            for series in reply.data.result {
                for (seconds, value) in &series.values {
                    self.sample(&series.metric, (seconds * 1000.0).round() as i64, value);
                }
            }
            at += 10_001 * STEP_MS;
        }
        Ok(())
    }

    fn sample(&mut self, labels: &Labels, time_ms: i64, value: &str) {
        let Ok(value) = value.parse::<f64>() else { return };
        if !value.is_finite() || value < 0.0 {
            return;
        }
        // Rounded sample by sample, so that increments telescope; saturating by the cast's definition.
        let now = (value * self.unit as f64).round() as i128;
        if !self.states.contains_key(labels) {
            self.states.insert(labels.clone(), State::default());
        }
        let inside = time_ms >= self.days.from_ms();
        let (site, node) = place(labels);
        let is_new = self.kind == Kind::Pod
            && self.nodes.get(&(site.clone(), node.clone())).is_some_and(|first| *first + MINUTE_MS < time_ms);
        let Some(state) = self.states.get_mut(labels) else { return };
        let increment = match state.previous {
            Some((before_ms, _)) if before_ms >= time_ms => return,
            Some((_, before)) if now >= before => now - before,
            Some(_) => now,
            None if is_new => now,
            None => 0,
        };
        let gap_ms = match state.previous {
            Some((before_ms, _)) if inside => state.gap(time_ms - before_ms),
            _ => 0,
        };
        state.previous = Some((time_ms, now));
        if inside {
            self.add(labels, (site, node), time_ms, increment.unsigned_abs(), gap_ms);
        }
    }

    fn add(&mut self, labels: &Labels, place: (String, String), time_ms: i64, increment: u128, gap_ms: i64) {
        let (site, node) = place;
        let label =
            |names: &[&str]| names.iter().find_map(|name| labels.get(*name)).filter(|text| !text.is_empty()).cloned();
        let provenance =
            label(&["evergreen_energy_provenance", "evergreen.energy.provenance", "provenance"]).unwrap_or_default();
        let day = u32::try_from(self.days.index(time_ms)).unwrap_or(u32::MAX);
        let mut rows = vec![(String::new(), String::new(), !self.sums_only)];
        if self.kind == Kind::Pod {
            let unknown = || "unknown".to_owned();
            let namespace = label(&["k8s_namespace_name", "k8s.namespace.name", "namespace"]).unwrap_or_else(unknown);
            let pod = label(&["k8s_pod_name", "k8s.pod.name", "pod"]).unwrap_or_else(unknown);
            rows = vec![
                (namespace.clone(), String::new(), !self.sums_only),
                (namespace, workload(&pod).to_owned(), false),
            ];
        }
        let node = if matches!(self.kind, Kind::Host | Kind::Idle) { node } else { String::new() };
        for (namespace, work, with_day) in rows {
            let key = (site.clone(), node.clone(), namespace, work, provenance.clone());
            let (row, days) = self.rows.entry(key).or_insert_with_key(|(site, node, namespace, work, provenance)| {
                let row = Row {
                    kind: self.kind,
                    site: site.clone(),
                    node: node.clone(),
                    namespace: namespace.clone(),
                    workload: work.clone(),
                    provenance: provenance.clone(),
                    total: 0,
                    days: Vec::new(),
                    gap_ms: 0,
                    first_ms: Some(time_ms),
                    last_ms: Some(time_ms),
                };
                (row, BTreeMap::new())
            });
            row.total += increment;
            row.gap_ms += gap_ms.unsigned_abs();
            row.first_ms = row.first_ms.map(|first| first.min(time_ms));
            row.last_ms = row.last_ms.map(|last| last.max(time_ms));
            if with_day && increment > 0 {
                *days.entry(day).or_default() += increment;
            }
        }
    }

    fn rows(self) -> Vec<Row> {
        let whole = |days: BTreeMap<u32, u128>| {
            days.into_iter().map(|(day, sum)| (day, u64::try_from(sum).unwrap_or(u64::MAX))).collect()
        };
        self.rows.into_values().map(|(row, days)| Row { days: whole(days), ..row }).collect()
    }

    fn into(self, ledger: &mut Ledger) {
        self.rows().into_iter().for_each(|row| ledger.add(row));
    }
}

impl State {
    /// The gap that a time between two samples is, milliseconds. The usual time is the median of the first ones.
    fn gap(&mut self, apart_ms: i64) -> i64 {
        if let Some(usual) = self.usual_ms {
            return if apart_ms > GAP_INTERVALS * usual { apart_ms } else { 0 };
        }
        self.apart.push(apart_ms);
        if self.apart.len() < LEARN {
            return 0;
        }
        let mut sorted = std::mem::take(&mut self.apart);
        sorted.sort_unstable();
        let usual = sorted[sorted.len() / 2];
        self.usual_ms = Some(usual);
        sorted.iter().filter(|apart| **apart > GAP_INTERVALS * usual).sum()
    }
}

/// Data center and node of a series.
fn place(labels: &Labels) -> (String, String) {
    let one = |names: &[&str]| {
        let found = names.iter().find_map(|name| labels.get(*name)).filter(|text| !text.is_empty());
        found.cloned().unwrap_or_else(|| "unknown".to_owned())
    };
    (one(&SITE_LABELS), one(&NODE_LABELS))
}
