//! The ledger of a period in pages, for reports: energy of nodes, pods and facility meters by local day. A page is
//! bounded in time, and the next goes on behind the last series of it; nothing of a year is kept in memory but sums.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use evergreen_api::telemetry::{attribute, metric};
use evergreen_report::{Days, Kind, LedgerPage, Row, workload};
use rusqlite::{Connection, params};

use super::{
    FIVE_MINUTES_MS, HOUR_MS,
    counter::{Tally, tally, usual_interval_ms},
    default_interval_ms,
    query::{CounterSeries, floors, rolled, samples},
    window::{Floors, Part, parts},
};
use crate::model::SeriesKind;

/// A page ends after this time at the next series; a query may take ten seconds.
const PAGE_TIME: Duration = Duration::from_secs(3);
/// Most series of a page.
const PAGE_SERIES: usize = 4_000;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The period.
    pub days: Days,
    /// Whether days are wanted, or only sums.
    pub with_days: bool,
    /// Namespaces whose pods are wanted; all when neither these nor a label are given.
    pub namespaces: Option<Vec<String>>,
    /// Label whose series of pods are wanted.
    pub label: Option<(String, String)>,
    /// Series behind which the page begins.
    pub after: i64,
}

type Key = (Kind, String, String, String, String, String);

/// Sums of one row of the answer.
#[derive(Default)]
struct Sums {
    tally: Tally,
    days: BTreeMap<u32, u64>,
}

/// One page.
///
/// # Errors
/// What SQLite says.
pub fn page(connection: &Connection, asked: &Asked) -> rusqlite::Result<LedgerPage> {
    let floors = floors(connection)?;
    let begun = Instant::now();
    let mut rows: BTreeMap<Key, Sums> = BTreeMap::new();
    let (mut next, mut count) = (None, 0);
    let mut statement = connection.prepare_cached(
        "SELECT id, kind, labels, interval_ms, rolled_until_ms, from_zero, name FROM series
         WHERE name IN (?1, ?2, ?3, ?4, ?5) AND kind IN (1, 3) AND id > ?6 ORDER BY id",
    )?;
    let [a, b, c, d, e] = super::COUNTERS;
    let mut found = statement.query(params![a, b, c, d, e, asked.after])?;
    while let Some(row) = found.next()? {
        let name: String = row.get(6)?;
        let series = CounterSeries {
            id: row.get(0)?,
            kind: SeriesKind::from_code(row.get(1)?),
            labels: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default(),
            interval_ms: row.get::<_, Option<i64>>(3)?.unwrap_or_else(|| default_interval_ms(&name)),
            rolled_until_ms: row.get::<_, Option<i64>>(4)?.unwrap_or(i64::MIN),
            from_zero: row.get(5)?,
        };
        if let Some(kind) = kind(&name, &series, asked) {
            add(connection, asked, kind, &series, floors, &mut rows)?;
            count += 1;
        }
        if count >= PAGE_SERIES || begun.elapsed() > PAGE_TIME {
            next = Some(series.id);
            break;
        }
    }
    Ok(LedgerPage { rows: rows.into_iter().map(row).collect(), next })
}

/// What a series is to a report; none when it is not asked for.
fn kind(name: &str, series: &CounterSeries, asked: &Asked) -> Option<Kind> {
    match name {
        metric::HOST_ENERGY => Some(Kind::Host),
        metric::NODE_ENERGY => (series.label(attribute::CONSUMER) == "idle").then_some(Kind::Idle),
        metric::FACILITY_ENERGY => Some(Kind::Facility),
        metric::FACILITY_WATER => Some(Kind::Water),
        _ => {
            let named =
                asked.namespaces.as_ref().map(|names| names.iter().any(|n| n == series.label(attribute::NAMESPACE)));
            let labelled = asked.label.as_ref().map(|(key, value)| series.label(key) == value);
            let wanted = match (named, labelled) {
                (None, None) => true,
                (named, labelled) => named == Some(true) || labelled == Some(true),
            };
            wanted.then_some(Kind::Pod)
        }
    }
}

fn add(
    connection: &Connection,
    asked: &Asked,
    kind: Kind,
    series: &CounterSeries,
    floors: Floors,
    rows: &mut BTreeMap<Key, Sums>,
) -> rusqlite::Result<()> {
    let mut sums = Sums::default();
    let day = |ms: i64| u32::try_from(asked.days.index(ms)).unwrap_or(u32::MAX);
    let put = |sums: &mut Sums, ms: i64, one: Tally| {
        if asked.with_days && one.microjoules > 0 {
            let of_day = sums.days.entry(day(ms)).or_default();
            *of_day = of_day.saturating_add(u64::try_from(one.microjoules).unwrap_or(u64::MAX));
        }
        sums.tally.add(one);
    };
    for part in parts(asked.days.from_ms(), asked.days.to_ms(), series.rolled_until_ms, floors) {
        match part {
            Part::Raw(from, to) => {
                let (mut before, window) = samples(connection, series.id, from, to)?;
                let interval_ms = usual_interval_ms(before.as_ref(), &window).unwrap_or(series.interval_ms);
                for sample in window {
                    let one = tally(series.kind, before.as_ref(), &[sample], series.from_zero, interval_ms);
                    put(&mut sums, sample.time_ms, one);
                    before = Some(sample);
                }
            }
            Part::Five(from, to) | Part::Hour(from, to) => {
                let step = if matches!(part, Part::Hour(..)) { HOUR_MS } else { FIVE_MINUTES_MS };
                if asked.with_days {
                    buckets(connection, series.id, step, from, to, |at, one| put(&mut sums, at, one))?;
                } else {
                    sums.tally.add(rolled(connection, series.id, step, from, to)?);
                }
            }
        }
    }
    if sums.tally.first_ms.is_none() {
        return Ok(());
    }
    let said = |label: &str| match series.label(label) {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    };
    let site = said(attribute::SITE);
    let provenance = series.label(attribute::PROVENANCE).to_owned();
    match kind {
        Kind::Pod => {
            let namespace = said(attribute::NAMESPACE);
            let work = workload(&said(attribute::POD)).to_owned();
            let key = (kind, site.clone(), String::new(), namespace.clone(), work, provenance.clone());
            rows.entry(key).or_default().tally.add(sums.tally);
            rows.entry((kind, site, String::new(), namespace, String::new(), provenance)).or_default().merge(sums);
        }
        Kind::Host | Kind::Idle => {
            let key = (kind, site, said(attribute::NODE), String::new(), String::new(), provenance);
            rows.entry(key).or_default().merge(sums);
        }
        Kind::Facility | Kind::Water => {
            let key = (kind, site, String::new(), String::new(), String::new(), String::new());
            rows.entry(key).or_default().merge(sums);
        }
    }
    Ok(())
}

fn buckets(
    connection: &Connection,
    series: i64,
    step_ms: i64,
    from_ms: i64,
    to_ms: i64,
    mut each: impl FnMut(i64, Tally),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT bucket_ms, microjoules, gap_ms, first_ms, last_ms FROM energy_rollups
         WHERE series_id = ?1 AND step_ms = ?2 AND bucket_ms >= ?3 AND bucket_ms < ?4",
    )?;
    let mut found = statement.query([series, step_ms, from_ms, to_ms])?;
    while let Some(row) = found.next()? {
        let microjoules = i128::from(row.get::<_, i64>(1)?);
        each(row.get(0)?, Tally { microjoules, gap_ms: row.get(2)?, first_ms: row.get(3)?, last_ms: row.get(4)? });
    }
    Ok(())
}

impl Sums {
    fn merge(&mut self, other: Self) {
        self.tally.add(other.tally);
        for (day, microjoules) in other.days {
            let of_day = self.days.entry(day).or_default();
            *of_day = of_day.saturating_add(microjoules);
        }
    }
}

fn row(((kind, site, node, namespace, workload, provenance), sums): (Key, Sums)) -> Row {
    Row {
        kind,
        site,
        node,
        namespace,
        workload,
        provenance,
        total: sums.tally.microjoules.unsigned_abs(),
        days: sums.days.into_iter().collect(),
        gap_ms: sums.tally.gap_ms.unsigned_abs(),
        first_ms: sums.tally.first_ms,
        last_ms: sums.tally.last_ms,
    }
}
