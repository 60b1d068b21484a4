//! The newest points of every series, in memory until they are sealed into chunks. The journal holds the same on disk.
//!
//! Points that were just sealed stay for a while: a reader whose view of the database is older than the seal still finds
//! them here, and one whose view is newer finds them twice and takes them once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use rusqlite::{Connection, functions::FunctionFlags};

use super::chunk::{self, Stored};

#[derive(Default)]
struct Tables {
    fresh: HashMap<i64, Vec<Stored>>,
    sealed: HashMap<i64, Vec<Stored>>,
    /// Points in `fresh`.
    count: usize,
}

/// The head; clones share it.
#[derive(Clone, Default)]
pub(super) struct Head(Arc<RwLock<Tables>>);

impl Head {
    /// Reads the journal.
    pub(super) fn load(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut fresh: HashMap<i64, Vec<Stored>> = HashMap::new();
        let mut count = 0;
        let mut statement = connection.prepare("SELECT points FROM journal ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for (series, point) in chunk::line(row.get_ref(0)?.as_blob()?)? {
                count += usize::from(insert(fresh.entry(series).or_default(), point));
            }
        }
        let mut tables = self.0.write();
        (tables.fresh, tables.count) = (fresh, count);
        Ok(())
    }

    /// Takes points; answers for each whether it is new here: neither waiting nor just sealed.
    pub(super) fn take(&self, points: impl Iterator<Item = (i64, Stored)>) -> Vec<bool> {
        let mut tables = self.0.write();
        let Tables { fresh, sealed, count } = &mut *tables;
        points
            .map(|(series, point)| {
                let just_sealed = sealed
                    .get(&series)
                    .is_some_and(|points| points.binary_search_by_key(&point.time_ms, |known| known.time_ms).is_ok());
                let new = !just_sealed && insert(fresh.entry(series).or_default(), point);
                *count += usize::from(new);
                new
            })
            .collect()
    }

    /// Points that wait to be sealed.
    pub(super) fn count(&self) -> usize {
        self.0.read().count
    }

    /// Series with points that wait to be sealed. What was sealed before is let go.
    pub(super) fn begin_seal(&self) -> Vec<i64> {
        let mut tables = self.0.write();
        tables.sealed = HashMap::new();
        let mut ids: Vec<i64> = tables.fresh.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Points of a series that wait, in order.
    pub(super) fn waiting(&self, series: i64) -> Vec<Stored> {
        self.0.read().fresh.get(&series).cloned().unwrap_or_default()
    }

    /// These series are in chunks now.
    pub(super) fn sealed(&self, ids: &[i64]) {
        let mut tables = self.0.write();
        for id in ids {
            if let Some(points) = tables.fresh.remove(id) {
                tables.count -= points.len();
                tables.sealed.insert(*id, points);
            }
        }
    }

    /// Lets what was sealed go; no reader that began before lives any more.
    pub(super) fn settle(&self) {
        self.0.write().sealed = HashMap::new();
    }

    fn range(&self, series: i64, from_ms: i64, to_ms: i64) -> Vec<u8> {
        let tables = self.0.read();
        let mut bytes = Vec::new();
        for points in [tables.sealed.get(&series), tables.fresh.get(&series)].into_iter().flatten() {
            let begin = points.partition_point(|point| point.time_ms < from_ms);
            let end = points.partition_point(|point| point.time_ms < to_ms);
            for point in points.get(begin..end).unwrap_or_default() {
                bytes.extend_from_slice(&point.time_ms.to_le_bytes());
                bytes.extend_from_slice(&point.value.unwrap_or(f64::NAN).to_le_bytes());
                bytes.extend_from_slice(&point.start_ms.unwrap_or(i64::MIN).to_le_bytes());
            }
        }
        bytes
    }

    fn newest(&self, series: i64) -> Option<i64> {
        let tables = self.0.read();
        let last = |points: &HashMap<i64, Vec<Stored>>| points.get(&series)?.last().map(|point| point.time_ms);
        last(&tables.sealed).max(last(&tables.fresh))
    }

    /// Lets a connection ask for the head in SQL: `head_points(series, from_ms, to_ms)` as bytes for [`decode`],
    /// `head_newest(series)`, `head_has(series)` and `head_count()`.
    pub(super) fn register(&self, connection: &Connection) -> rusqlite::Result<()> {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
        let head = self.clone();
        connection.create_scalar_function("head_points", 3, flags, move |asked| {
            Ok(head.range(asked.get(0)?, asked.get(1)?, asked.get(2)?))
        })?;
        let head = self.clone();
        connection.create_scalar_function("head_newest", 1, flags, move |asked| Ok(head.newest(asked.get(0)?)))?;
        let head = self.clone();
        connection.create_scalar_function("head_has", 1, flags, move |asked| {
            Ok(head.0.read().fresh.contains_key(&asked.get(0)?))
        })?;
        let head = self.clone();
        connection.create_scalar_function("head_count", 0, flags, move |_| Ok(head.count() as i64))
    }
}

/// What `head_points` said.
pub(super) fn decode(bytes: &[u8]) -> impl Iterator<Item = Stored> {
    bytes.chunks_exact(24).map(|point| {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&point[at..at + 8]);
            bytes
        };
        Stored {
            time_ms: i64::from_le_bytes(number(0)),
            value: Some(f64::from_le_bytes(number(8))).filter(|value| !value.is_nan()),
            start_ms: Some(i64::from_le_bytes(number(16))).filter(|start| *start != i64::MIN),
        }
    })
}

/// Puts a point into its place; a time that is there already keeps what it has.
fn insert(points: &mut Vec<Stored>, point: Stored) -> bool {
    if points.last().is_none_or(|last| last.time_ms < point.time_ms) {
        points.push(point);
        return true;
    }
    match points.binary_search_by_key(&point.time_ms, |known| known.time_ms) {
        Ok(_) => false,
        Err(at) => {
            points.insert(at, point);
            true
        }
    }
}
