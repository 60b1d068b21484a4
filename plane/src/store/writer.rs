//! The one thread that writes. It takes what waits, puts it into one transaction, commits, and only then answers.

use std::{collections::HashMap, fs::File, sync::Arc};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Change, Job, StoreError, maintain, spans};
use crate::{
    args::Retention,
    clock::now_ms,
    live::{Live, Observation},
    model::{Batch, Point, Series},
    stats::Stats,
};
use evergreen_api::telemetry::attribute;

/// Things after which a transaction takes no further batch: at 100,000 a second this is half a second of work.
const GROUP: usize = 50_000;

/// What the writer knows of a series.
#[derive(Clone, Copy)]
struct Known {
    id: i64,
    rolled_until_ms: i64,
}

pub(super) struct Writer {
    connection: Connection,
    _lock: File,
    retention: Retention,
    known: HashMap<[u8; 16], Known>,
    senders: HashMap<(String, String), i64>,
    live: Arc<Live>,
    stats: Arc<Stats>,
    changes: broadcast::Sender<Change>,
}

/// What a transaction did, to be told once it is committed.
#[derive(Default)]
struct Done {
    series: Vec<([u8; 16], Known)>,
    senders: Vec<((String, String), i64)>,
    observations: Vec<Observation>,
    incidents: Vec<Change>,
    points: u64,
    spans: u64,
    logs: u64,
    duplicates: u64,
    late: u64,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        lock: File,
        retention: Retention,
        live: Arc<Live>,
        stats: Arc<Stats>,
        changes: broadcast::Sender<Change>,
    ) -> rusqlite::Result<Self> {
        let mut writer = Self {
            connection,
            _lock: lock,
            retention,
            known: HashMap::new(),
            senders: HashMap::new(),
            live,
            stats,
            changes,
        };
        writer.learn()?;
        Ok(writer)
    }

    /// Reads what the database knows of series and senders.
    fn learn(&mut self) -> rusqlite::Result<()> {
        self.known = self
            .connection
            .prepare("SELECT hash, id, coalesce(rolled_until_ms, ?1) FROM series")?
            .query_map([i64::MIN], |row| Ok((row.get(0)?, Known { id: row.get(1)?, rolled_until_ms: row.get(2)? })))?
            .collect::<Result<_, _>>()?;
        self.senders = self
            .connection
            .prepare("SELECT site, node, first_ms FROM senders")?
            .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        self.stats.series.set(self.known.len() as u64);
        Ok(())
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            let mut group = Vec::new();
            let mut size = 0;
            let mut next = Some(job);
            let mut upkeep = None;
            while let Some(job) = next.take() {
                match job {
                    Job::Write { batch, done, _room } => {
                        size += batch.len();
                        group.push((batch, done, _room));
                    }
                    Job::Maintain { now_ms, done } => {
                        upkeep = Some((now_ms, done));
                        break;
                    }
                }
                if size < GROUP {
                    next = queue.try_recv().ok();
                }
            }
            if !group.is_empty() {
                self.commit(group);
            }
            if let Some((now_ms, done)) = upkeep {
                self.maintain(now_ms, done);
            }
        }
        // Fold the log into the database, so that a copy of the one file is a copy of everything.
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA optimize;") {
            tracing::warn!(%error, "the database was left with its write-ahead log");
        }
    }

    fn maintain(&mut self, now_ms: i64, done: oneshot::Sender<()>) {
        let result = maintain::run(&mut self.connection, &self.retention, now_ms, &self.stats);
        if let Err(error) = result.and_then(|forgotten| {
            self.live.forget(&forgotten);
            self.learn()
        }) {
            self.stats.commit_failures.add(1);
            tracing::error!(%error, "upkeep of the database failed; it is tried again");
        }
        let _ = done.send(());
    }

    fn commit<R>(&mut self, group: Vec<(Batch, oneshot::Sender<Result<(), StoreError>>, R)>) {
        let result = self.transact(group.iter().map(|(batch, ..)| batch));
        let answer = match result {
            Ok(done) => {
                self.publish(done);
                Ok(())
            }
            Err(error) => {
                self.stats.commit_failures.add(1);
                tracing::error!(%error, "a transaction failed; its senders were told to send again");
                Err(StoreError::Write(error.to_string()))
            }
        };
        for (_, done, _room) in group {
            let _ = done.send(answer.clone());
        }
    }

    fn transact<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) -> rusqlite::Result<Done> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut done = Done::default();
        let mut fresh = HashMap::new();
        for batch in batches {
            write_points(&transaction, batch, &self.known, &mut fresh, &self.senders, &mut done)?;
            let written = spans::write(&transaction, &batch.spans)?;
            done.spans += written.spans;
            done.duplicates += written.duplicates;
            done.incidents.extend(written.incidents);
            let logs = spans::write_logs(&transaction, &batch.logs)?;
            done.logs += logs;
            done.duplicates += batch.logs.len() as u64 - logs;
        }
        transaction.commit()?;
        done.series = fresh.into_iter().collect();
        Ok(done)
    }

    /// Tells everyone what was committed.
    fn publish(&mut self, done: Done) {
        self.known.extend(done.series);
        self.senders.extend(done.senders);
        self.stats.commits.add(1);
        self.stats.points.add(done.points);
        self.stats.spans.add(done.spans);
        self.stats.logs.add(done.logs);
        self.stats.duplicates.add(done.duplicates);
        self.stats.late.add(done.late);
        self.stats.series.set(self.known.len() as u64);
        let moved = !done.observations.is_empty();
        self.live.observe(done.observations, now_ms());
        if moved {
            let _ = self.changes.send(Change::Fleet);
        }
        for change in done.incidents {
            let _ = self.changes.send(change);
        }
    }
}

fn write_points(
    transaction: &Transaction<'_>,
    batch: &Batch,
    known: &HashMap<[u8; 16], Known>,
    fresh: &mut HashMap<[u8; 16], Known>,
    senders: &HashMap<(String, String), i64>,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let mut ids = Vec::with_capacity(batch.series.len());
    for series in &batch.series {
        let found = match known.get(&series.hash).or_else(|| fresh.get(&series.hash)) {
            Some(found) => *found,
            None => {
                let found = create(transaction, series)?;
                fresh.insert(series.hash, found);
                found
            }
        };
        ids.push(found);
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO points (series_id, time_ms, value, start_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )?;
    let mut newest: Vec<Option<&Point>> = vec![None; batch.series.len()];
    let mut oldest = vec![i64::MAX; batch.series.len()];
    for point in &batch.points {
        let series = ids[point.series];
        oldest[point.series] = oldest[point.series].min(point.time_ms);
        if point.time_ms < series.rolled_until_ms {
            done.late += 1;
            continue;
        }
        match insert.execute(params![series.id, point.time_ms, point.value, point.start_ms])? {
            0 => done.duplicates += 1,
            _ => {
                done.points += 1;
                let newest = &mut newest[point.series];
                if newest.is_none_or(|n| n.time_ms < point.time_ms) {
                    *newest = Some(point);
                }
            }
        }
    }
    note_senders(transaction, batch, &oldest, senders, done)?;
    for (index, newest) in newest.into_iter().enumerate() {
        if let Some(point) = newest {
            done.observations.push(Observation {
                id: ids[index].id,
                series: batch.series[index].clone(),
                time_ms: point.time_ms,
                value: point.value,
            });
        }
    }
    Ok(())
}

/// Remembers since when each node has been heard.
fn note_senders(
    transaction: &Transaction<'_>,
    batch: &Batch,
    oldest: &[i64],
    senders: &HashMap<(String, String), i64>,
    done: &mut Done,
) -> rusqlite::Result<()> {
    for (series, time_ms) in batch.series.iter().zip(oldest) {
        let labels = &series.labels;
        let (Some(site), Some(node)) = (labels.get(attribute::SITE), labels.get(attribute::NODE)) else { continue };
        let key = (site.clone(), node.clone());
        let heard =
            done.senders.iter().find(|(k, _)| *k == key).map(|(_, ms)| *ms).or_else(|| senders.get(&key).copied());
        if heard.is_some_and(|ms| ms <= *time_ms) {
            continue;
        }
        transaction
            .prepare_cached(
                "INSERT INTO senders (site, node, first_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET first_ms = min(first_ms, excluded.first_ms)",
            )?
            .execute(params![key.0, key.1, time_ms])?;
        done.senders.retain(|(k, _)| *k != key);
        done.senders.push((key, *time_ms));
    }
    Ok(())
}

fn create(transaction: &Transaction<'_>, series: &Series) -> rusqlite::Result<Known> {
    let labels = serde_json::to_string(&series.labels).expect("a map of text is JSON");
    transaction
        .prepare_cached(
            "INSERT INTO series (hash, name, kind, unit, labels, site, node) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            series.hash,
            series.name,
            series.kind.code(),
            series.unit,
            labels,
            series.labels.get(attribute::SITE),
            series.labels.get(attribute::NODE),
        ])?;
    Ok(Known { id: transaction.last_insert_rowid(), rolled_until_ms: i64::MIN })
}
