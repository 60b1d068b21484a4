//! The energy of a window by site, node, namespace or pod.

use std::collections::{BTreeMap, HashMap};

use evergreen_api::telemetry::{attribute, metric};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{
    FIVE_MINUTES_MS, HOUR_MS,
    counter::{Sample, Tally, tally, usual_interval_ms},
    default_interval_ms,
    window::{Floors, Part, parts},
};
use crate::{
    clock::rfc3339_ms,
    model::{Labels, SeriesKind},
    store::{chunk::Stored, points},
};

/// What energy is added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Data center.
    Site,
    /// Node of a data center.
    Node,
    /// Namespace, over all data centers.
    Namespace,
    /// Pod of a data center.
    Pod,
}

impl By {
    /// The counter that says it.
    pub const fn metric(self) -> &'static str {
        match self {
            Self::Site | Self::Node => metric::HOST_ENERGY,
            Self::Namespace | Self::Pod => metric::POD_ENERGY,
        }
    }
}

/// Energy of one key, whole microjoules.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EnergyRow {
    /// Site, node, namespace, or `namespace/pod`.
    pub key: String,
    /// Site of a node or pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Figures of a row or of a total, whole microjoules.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// All of it; measured, calibrated and estimated are its parts.
    pub microjoules: i128,
    /// From a sensor.
    pub measured_microjoules: i128,
    /// From a model that a sensor calibrated.
    pub calibrated_microjoules: i128,
    /// From a model; also what came without a provenance, the weakest claim.
    pub estimated_microjoules: i128,
    /// What idling took of it; of sites and nodes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_microjoules: Option<i128>,
    /// RFC 3339.
    pub first_sample: Option<String>,
    /// RFC 3339.
    pub last_sample: Option<String>,
    /// Time for which the moment of use is not known, added up over the nodes or pods of the row, milliseconds.
    pub gap_ms: i64,
    #[serde(skip)]
    first_ms: Option<i64>,
    #[serde(skip)]
    last_ms: Option<i64>,
}

impl Figures {
    fn add_series(&mut self, provenance: Option<&str>, tally: &Tally) {
        self.microjoules += tally.microjoules;
        *match provenance {
            Some("measured") => &mut self.measured_microjoules,
            Some("calibrated") => &mut self.calibrated_microjoules,
            _ => &mut self.estimated_microjoules,
        } += tally.microjoules;
        self.first_ms = [self.first_ms, tally.first_ms].into_iter().flatten().min();
        self.last_ms = [self.last_ms, tally.last_ms].into_iter().flatten().max();
    }

    fn add(&mut self, other: &Self) {
        self.microjoules += other.microjoules;
        self.measured_microjoules += other.measured_microjoules;
        self.calibrated_microjoules += other.calibrated_microjoules;
        self.estimated_microjoules += other.estimated_microjoules;
        if let Some(idle) = other.idle_microjoules {
            *self.idle_microjoules.get_or_insert(0) += idle;
        }
        self.gap_ms += other.gap_ms;
        self.first_ms = [self.first_ms, other.first_ms].into_iter().flatten().min();
        self.last_ms = [self.last_ms, other.last_ms].into_iter().flatten().max();
    }

    fn write_times(&mut self) {
        self.first_sample = self.first_ms.map(rfc3339_ms);
        self.last_sample = self.last_ms.map(rfc3339_ms);
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnergyReport {
    /// RFC 3339.
    pub from: String,
    /// RFC 3339, not included.
    pub to: String,
    /// What the rows are.
    pub by: By,
    /// Rows, the greatest first.
    pub rows: Vec<EnergyRow>,
    /// All rows together.
    pub total: Figures,
}

/// A counter series of the database.
pub(crate) struct CounterSeries {
    pub(crate) id: i64,
    pub(crate) kind: SeriesKind,
    pub(crate) labels: Labels,
    pub(crate) interval_ms: i64,
    pub(crate) rolled_until_ms: i64,
    pub(crate) from_zero: bool,
}

impl CounterSeries {
    pub(crate) fn label(&self, key: &str) -> &str {
        self.labels.get(key).map(String::as_str).unwrap_or_default()
    }
}

/// Counter series of a metric, of one site or of all.
pub(crate) fn counters(
    connection: &Connection,
    name: &str,
    site: Option<&str>,
) -> rusqlite::Result<Vec<CounterSeries>> {
    connection
        .prepare_cached(
            "SELECT id, kind, labels, interval_ms, rolled_until_ms, from_zero FROM series
             WHERE name = ?1 AND kind IN (1, 3) AND (?2 IS NULL OR site = ?2)",
        )?
        .query_map(params![name, site], |row| {
            Ok(CounterSeries {
                id: row.get(0)?,
                kind: SeriesKind::from_code(row.get(1)?),
                labels: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default(),
                interval_ms: row.get::<_, Option<i64>>(3)?.unwrap_or_else(|| default_interval_ms(name)),
                rolled_until_ms: row.get::<_, Option<i64>>(4)?.unwrap_or(i64::MIN),
                from_zero: row.get(5)?,
            })
        })?
        .collect()
}

/// How far back the tables reach.
pub(crate) fn floors(connection: &Connection) -> rusqlite::Result<Floors> {
    let get = |key: &str| -> rusqlite::Result<i64> {
        let value = connection
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        Ok(value.unwrap_or(0))
    };
    Ok(Floors { raw_ms: get("raw_floor_ms")?, five_ms: get("five_minute_floor_ms")? })
}

/// Raw samples of `[from_ms, to_ms)` and the one right before.
pub(crate) fn samples(
    connection: &Connection,
    series: i64,
    from_ms: i64,
    to_ms: i64,
) -> rusqlite::Result<(Option<Sample>, Vec<Sample>)> {
    let sample =
        |point: Stored| Some(Sample { time_ms: point.time_ms, joules: point.value?, start_ms: point.start_ms });
    let window: Vec<Sample> =
        points::range(connection, series, from_ms, to_ms)?.into_iter().filter_map(sample).collect();
    if window.is_empty() {
        return Ok((None, window));
    }
    let before = points::before(connection, series, from_ms)?.and_then(sample);
    Ok((before, window))
}

pub(crate) fn rolled(
    connection: &Connection,
    series: i64,
    step_ms: i64,
    from_ms: i64,
    to_ms: i64,
) -> rusqlite::Result<Tally> {
    connection
        .prepare_cached(
            // In two halves: a sum of 64 bits ends at 2.56 GWh, and SQLite would fail.
            "SELECT coalesce(sum(microjoules >> 32), 0), coalesce(sum(microjoules & 4294967295), 0),
             coalesce(sum(gap_ms), 0), min(first_ms), max(last_ms) FROM energy_rollups
             WHERE series_id = ?1 AND step_ms = ?2 AND bucket_ms >= ?3 AND bucket_ms < ?4",
        )?
        .query_row([series, step_ms, from_ms, to_ms], |row| {
            let (high, low): (i64, i64) = (row.get(0)?, row.get(1)?);
            let microjoules = (i128::from(high) << 32) + i128::from(low);
            Ok(Tally { microjoules, gap_ms: row.get(2)?, first_ms: row.get(3)?, last_ms: row.get(4)? })
        })
}

/// What a series adds up to in `[from_ms, to_ms)`.
pub(crate) fn of_series(
    connection: &Connection,
    series: &CounterSeries,
    from_ms: i64,
    to_ms: i64,
    floors: Floors,
) -> rusqlite::Result<Tally> {
    let mut sum = Tally::default();
    for part in parts(from_ms, to_ms, series.rolled_until_ms, floors) {
        sum.add(match part {
            Part::Five(from, to) => rolled(connection, series.id, FIVE_MINUTES_MS, from, to)?,
            Part::Hour(from, to) => rolled(connection, series.id, HOUR_MS, from, to)?,
            Part::Raw(from, to) => {
                let (before, window) = samples(connection, series.id, from, to)?;
                let interval_ms = usual_interval_ms(before.as_ref(), &window).unwrap_or(series.interval_ms);
                tally(series.kind, before.as_ref(), &window, series.from_zero, interval_ms)
            }
        });
    }
    Ok(sum)
}

/// The total of some rows.
pub fn sum<'a>(rows: impl Iterator<Item = &'a Figures>) -> Figures {
    let mut total = Figures::default();
    rows.for_each(|row| total.add(row));
    total.write_times();
    total
}

/// The energy of `[from_ms, to_ms)`.
///
/// # Errors
/// What SQLite says.
pub fn report(
    connection: &Connection,
    from_ms: i64,
    to_ms: i64,
    by: By,
    site: Option<&str>,
) -> rusqlite::Result<EnergyReport> {
    let floors = floors(connection)?;
    let mut rows: BTreeMap<(String, String), Figures> = BTreeMap::new();
    // Series of one node or pod differ by provenance; its gap is the least of theirs, for one may stand in for another.
    let mut gaps: HashMap<((String, String), Vec<String>), i64> = HashMap::new();
    for series in counters(connection, by.metric(), site)? {
        let tally = of_series(connection, &series, from_ms, to_ms, floors)?;
        if tally.first_ms.is_none() {
            continue;
        }
        let key = key(by, &series);
        rows.entry(key.clone())
            .or_default()
            .add_series(series.labels.get(attribute::PROVENANCE).map(String::as_str), &tally);
        let one =
            [attribute::SITE, attribute::NODE, attribute::POD_UID].map(|label| series.label(label).to_owned()).to_vec();
        gaps.entry((key, one)).and_modify(|gap| *gap = tally.gap_ms.min(*gap)).or_insert(tally.gap_ms);
    }
    for ((key, _), gap_ms) in gaps {
        rows.entry(key).or_default().gap_ms += gap_ms;
    }
    if matches!(by, By::Site | By::Node) {
        for series in counters(connection, metric::NODE_ENERGY, site)? {
            if series.label(attribute::CONSUMER) != "idle" {
                continue;
            }
            let tally = of_series(connection, &series, from_ms, to_ms, floors)?;
            if let Some(row) = rows.get_mut(&key(by, &series)) {
                *row.idle_microjoules.get_or_insert(0) += tally.microjoules;
            }
        }
    }
    let mut total = Figures::default();
    let mut rows: Vec<EnergyRow> = rows
        .into_iter()
        .map(|((key, site), mut figures)| {
            total.add(&figures);
            figures.write_times();
            EnergyRow { key, site: Some(site).filter(|s| !s.is_empty()), figures }
        })
        .collect();
    total.write_times();
    rows.sort_by(|a, b| b.figures.microjoules.cmp(&a.figures.microjoules).then_with(|| a.key.cmp(&b.key)));
    Ok(EnergyReport { from: rfc3339_ms(from_ms), to: rfc3339_ms(to_ms), by, rows, total })
}

/// Key and site of the row a series belongs to; an empty site stands for "over all sites".
fn key(by: By, series: &CounterSeries) -> (String, String) {
    let label = |name: &str| match series.label(name) {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    };
    match by {
        By::Site => (label(attribute::SITE), String::new()),
        By::Node => (label(attribute::NODE), label(attribute::SITE)),
        By::Namespace => (label(attribute::NAMESPACE), String::new()),
        By::Pod => (format!("{}/{}", label(attribute::NAMESPACE), label(attribute::POD)), label(attribute::SITE)),
    }
}
