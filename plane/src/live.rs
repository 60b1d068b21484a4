//! The newest point of every series, in memory, so that the fleet is told without reading the database.
//! Loaded from it at start; told of new points only after they are committed.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use rusqlite::Connection;

use crate::{
    model::{Labels, Series},
    store::points,
};

/// A committed point of a series.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Id of the series in the database.
    pub id: i64,
    /// The series.
    pub series: Arc<Series>,
    /// Unix milliseconds, the sender's clock.
    pub time_ms: i64,
    /// The value, none when the sender withdrew it.
    pub value: Option<f64>,
}

/// A series and its newest point.
#[derive(Debug, Clone)]
pub struct Latest {
    /// Labels of the series.
    pub labels: Arc<Labels>,
    /// Time of the newest point, Unix milliseconds, the sender's clock.
    pub time_ms: i64,
    /// Its value.
    pub value: Option<f64>,
    /// Times between the newest points, milliseconds, newest last; at most three.
    intervals: Vec<i64>,
    /// When it came here, Unix milliseconds, our own clock: what freshness is judged by.
    pub received_ms: i64,
}

impl Latest {
    /// How often its sender speaks, milliseconds, once there are two points: the middle of the newest three intervals,
    /// so that neither one export at once nor one silence changes it.
    pub fn interval_ms(&self) -> Option<i64> {
        let mut sorted = self.intervals.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    fn note_interval(&mut self, interval_ms: i64) {
        if self.intervals.len() == INTERVALS {
            self.intervals.remove(0);
        }
        self.intervals.push(interval_ms);
    }
}

/// Intervals that are remembered of a series.
const INTERVALS: usize = 3;

#[derive(Default)]
struct Tables {
    series: HashMap<i64, Latest>,
    by_name: HashMap<String, Vec<i64>>,
}

/// Newest points of all series.
#[derive(Default)]
pub struct Live(RwLock<Tables>);

impl Live {
    /// Loads the newest points that a database holds. How fresh they are is judged by their own times then.
    pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut tables = Tables::default();
        let mut statement = connection.prepare("SELECT id, name, labels FROM series")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let newest = points::last(connection, id, 2)?;
            let Some(last) = newest.last() else { continue };
            let labels: Labels = serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default();
            tables.by_name.entry(row.get(1)?).or_default().push(id);
            tables.series.insert(
                id,
                Latest {
                    labels: Arc::new(labels),
                    time_ms: last.time_ms,
                    value: last.value,
                    intervals: newest.windows(2).map(|pair| pair[1].time_ms - pair[0].time_ms).collect(),
                    received_ms: last.time_ms,
                },
            );
        }
        drop(rows);
        drop(statement);
        Ok(Self(RwLock::new(tables)))
    }

    /// Takes committed points that came at `received_ms`.
    pub fn observe(&self, observations: Vec<Observation>, received_ms: i64) {
        let mut tables = self.0.write();
        for Observation { id, series, time_ms, value } in observations {
            match tables.series.get_mut(&id) {
                // An older point that came late, from a sender's spool, says nothing about now.
                Some(latest) if latest.time_ms >= time_ms => {}
                Some(latest) => {
                    latest.note_interval(time_ms - latest.time_ms);
                    (latest.time_ms, latest.value, latest.received_ms) = (time_ms, value, received_ms);
                }
                None => {
                    let latest = Latest {
                        labels: Arc::new(series.labels.clone()),
                        time_ms,
                        value,
                        intervals: Vec::new(),
                        received_ms,
                    };
                    tables.series.insert(id, latest);
                    tables.by_name.entry(series.name.clone()).or_default().push(id);
                }
            }
        }
    }

    /// Drops series that the database no longer holds.
    pub fn forget(&self, ids: &[i64]) {
        if ids.is_empty() {
            return;
        }
        let mut tables = self.0.write();
        for id in ids {
            tables.series.remove(id);
        }
        let Tables { series, by_name } = &mut *tables;
        by_name.retain(|_, ids| {
            ids.retain(|id| series.contains_key(id));
            !ids.is_empty()
        });
    }

    /// Newest points of every series of a metric.
    pub fn of(&self, name: &str) -> Vec<Latest> {
        let tables = self.0.read();
        let ids = tables.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| tables.series.get(id).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeriesKind;

    fn observation(id: i64, time_ms: i64, value: f64) -> Observation {
        let series = Series::new("m".into(), "1".into(), SeriesKind::Gauge, Labels::new());
        Observation { id, series: Arc::new(series), time_ms, value: Some(value) }
    }

    #[test]
    fn a_late_point_does_not_replace_a_newer_one() {
        let live = Live::default();
        live.observe(vec![observation(1, 2_000, 2.0)], 2_000);
        live.observe(vec![observation(1, 1_000, 1.0)], 2_100);
        assert_eq!(live.of("m")[0].value, Some(2.0));
        live.observe(vec![observation(1, 12_000, 3.0)], 12_000);
        assert_eq!(live.of("m")[0].interval_ms(), Some(10_000));
        for time_ms in [22_000, 22_400, 32_000] {
            live.observe(vec![observation(1, time_ms, 3.0)], time_ms);
        }
        assert_eq!(live.of("m")[0].interval_ms(), Some(9_600), "one flush in between does not change the pace");
    }

    #[test]
    fn what_the_database_forgot_is_forgotten_here() {
        let live = Live::default();
        live.observe(vec![observation(1, 1, 1.0), observation(2, 1, 1.0)], 1);
        live.forget(&[1]);
        assert_eq!(live.of("m").len(), 1);
    }
}
