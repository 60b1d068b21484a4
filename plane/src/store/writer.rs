//! The one thread that writes. It takes what waits, puts it into one transaction, commits, and only then answers.

use std::{collections::HashMap, fs::File, sync::Arc};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::{
    broadcast,
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{
    Change, Job, StoreError,
    chunk::{self, Stored},
    head::Head,
    maintain,
    seal::Sealing,
    spans,
};
use crate::{
    args::Retention,
    clock::now_ms,
    energy::COUNTERS,
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
    /// How many labels it is described by; a name that is learned later adds to them.
    labels: usize,
}

/// Site, node and metric of an energy counter.
type SenderKey = (String, String, String);

/// Since when a node has sent a counter.
#[derive(Clone, Copy)]
struct Heard {
    first_ms: i64,
    /// Start that its points name now.
    start_ms: Option<i64>,
    /// Since when they name it.
    since_ms: i64,
}

impl Heard {
    /// Whether a series that shows up with `first` began while its sender was already heard: it says so by its start,
    /// or its sender's same run has exported this metric before without it.
    fn is_new_in_the_world(self, first: &Point) -> bool {
        first.start_ms.is_some_and(|start| {
            start >= self.first_ms || (Some(start) == self.start_ms && self.since_ms < first.time_ms)
        })
    }
}

pub(super) struct Writer {
    connection: Connection,
    _lock: File,
    retention: Retention,
    head: Head,
    sealing: Sealing,
    known: HashMap<[u8; 16], Known>,
    senders: HashMap<SenderKey, Heard>,
    live: Arc<Live>,
    stats: Arc<Stats>,
    changes: broadcast::Sender<Change>,
}

/// What a transaction did, to be told once it is committed.
#[derive(Default)]
struct Done {
    series: HashMap<[u8; 16], Known>,
    senders: HashMap<SenderKey, Heard>,
    observations: Vec<Observation>,
    incidents: Vec<Change>,
    points: u64,
    spans: u64,
    logs: u64,
    duplicates: u64,
    late: u64,
    /// The line of the journal, and time and start of its last point.
    line: Vec<u8>,
    before: (i64, i64),
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        lock: File,
        retention: Retention,
        head: Head,
        live: Arc<Live>,
        stats: Arc<Stats>,
        changes: broadcast::Sender<Change>,
    ) -> rusqlite::Result<Self> {
        let mut writer = Self {
            connection,
            _lock: lock,
            retention,
            sealing: Sealing::new(head.clone()),
            head,
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
            .prepare(
                "SELECT hash, id, coalesce(rolled_until_ms, ?1), (SELECT count(*) FROM json_each(labels)) FROM series",
            )?
            .query_map([i64::MIN], |row| {
                let labels: i64 = row.get(3)?;
                Ok((row.get(0)?, Known { id: row.get(1)?, rolled_until_ms: row.get(2)?, labels: labels as usize }))
            })?
            .collect::<Result<_, _>>()?;
        self.senders = self
            .connection
            .prepare("SELECT site, node, name, first_ms, start_ms, since_ms FROM senders")?
            .query_map([], |row| {
                let heard = Heard { first_ms: row.get(3)?, start_ms: row.get(4)?, since_ms: row.get(5)? };
                Ok(((row.get(0)?, row.get(1)?, row.get(2)?), heard))
            })?
            .collect::<Result<_, _>>()?;
        self.stats.series.set(self.known.len() as u64);
        Ok(())
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            // While points are being sealed that goes on between the jobs.
            let job = match queue.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if self.sealing.is_under_way() => None,
                Err(TryRecvError::Empty) => match queue.blocking_recv() {
                    Some(job) => Some(job),
                    None => break,
                },
            };
            let mut group = Vec::new();
            let mut size = 0;
            let mut next = job;
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
            if let Err(error) = self.sealing.go_on(&mut self.connection) {
                self.stats.commit_failures.add(1);
                tracing::error!(%error, "points could not be sealed into chunks; they stay in the journal");
            }
        }
        // Fold the log into the database, so that a copy of the one file is a copy of everything.
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA optimize;") {
            tracing::warn!(%error, "the database was left with its write-ahead log");
        }
    }

    fn maintain(&mut self, now_ms: i64, done: oneshot::Sender<()>) {
        if let Err(error) = self.sealing.upkeep(&mut self.connection, now_ms) {
            self.stats.commit_failures.add(1);
            tracing::error!(%error, "points could not be sealed into chunks; they stay in the journal");
        }
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
                // What was not written may not stay in memory: it would be taken for known when it is sent again.
                if let Err(error) = self.head.load(&self.connection) {
                    tracing::error!(%error, "the journal could not be read back");
                }
                tracing::error!(%error, "a transaction failed; its senders were told to send again");
                Err(StoreError::Write(error.to_string()))
            }
        };
        for (_, done, room) in group {
            drop(room);
            let _ = done.send(answer.clone());
        }
    }

    fn transact<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) -> rusqlite::Result<Done> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut done = Done::default();
        for batch in batches {
            write_points(&transaction, batch, &self.head, &self.known, &self.senders, &mut done)?;
            let written = spans::write(&transaction, &batch.spans)?;
            done.spans += written.spans;
            done.duplicates += written.duplicates;
            done.incidents.extend(written.incidents);
            let logs = spans::write_logs(&transaction, &batch.logs)?;
            done.logs += logs;
            done.duplicates += batch.logs.len() as u64 - logs;
        }
        if !done.line.is_empty() {
            transaction.prepare_cached("INSERT INTO journal (points) VALUES (?1)")?.execute([&done.line])?;
        }
        transaction.commit()?;
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
    head: &Head,
    known: &HashMap<[u8; 16], Known>,
    senders: &HashMap<SenderKey, Heard>,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let mut oldest: Vec<Option<&Point>> = vec![None; batch.series.len()];
    for point in &batch.points {
        let oldest = &mut oldest[point.series];
        if oldest.is_none_or(|o| o.time_ms > point.time_ms) {
            *oldest = Some(point);
        }
    }
    let mut ids = Vec::with_capacity(batch.series.len());
    for (series, first) in batch.series.iter().zip(&oldest) {
        let found = done.series.get(&series.hash).or_else(|| known.get(&series.hash)).copied();
        let found = match found {
            Some(found) if found.labels >= series.labels.len() => found,
            Some(found) => describe(transaction, found, series)?,
            None => {
                let heard = sender(series).and_then(|key| done.senders.get(&key).or_else(|| senders.get(&key)));
                create(
                    transaction,
                    series,
                    heard.zip(*first).is_some_and(|(heard, first)| heard.is_new_in_the_world(first)),
                )?
            }
        };
        if known.get(&series.hash).is_none_or(|known| known.labels != found.labels) {
            done.series.insert(series.hash, found);
        }
        ids.push(found);
    }
    let mut newest: Vec<Option<&Point>> = vec![None; batch.series.len()];
    let late = |point: &&Point| point.time_ms < ids[point.series].rolled_until_ms;
    done.late += batch.points.iter().filter(late).count() as u64;
    let stored = |point: &Point| Stored { time_ms: point.time_ms, value: point.value, start_ms: point.start_ms };
    let timely: Vec<&Point> = batch.points.iter().filter(|point| !late(point)).collect();
    let new = head.take(timely.iter().map(|point| (ids[point.series].id, stored(point))));
    for (point, new) in timely.into_iter().zip(new) {
        if !new {
            done.duplicates += 1;
            continue;
        }
        done.points += 1;
        chunk::put(&mut done.line, ids[point.series].id, &stored(point), &mut done.before);
        let newest = &mut newest[point.series];
        if newest.is_none_or(|n| n.time_ms < point.time_ms) {
            *newest = Some(point);
        }
    }
    for (series, first) in batch.series.iter().zip(oldest) {
        if let (Some(key), Some(first)) = (sender(series), first) {
            hear(transaction, key, first, senders, done)?;
        }
    }
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

/// Who sends a series, if it is an energy counter of a node.
fn sender(series: &Series) -> Option<SenderKey> {
    if !COUNTERS.contains(&series.name.as_str()) {
        return None;
    }
    Some((
        series.labels.get(attribute::SITE)?.clone(),
        series.labels.get(attribute::NODE)?.clone(),
        series.name.clone(),
    ))
}

/// Remembers since when a node has sent a counter, and since when in its present run.
fn hear(
    transaction: &Transaction<'_>,
    key: SenderKey,
    first: &Point,
    senders: &HashMap<SenderKey, Heard>,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let before = done.senders.get(&key).or_else(|| senders.get(&key)).copied();
    let mut heard =
        before.unwrap_or(Heard { first_ms: first.time_ms, start_ms: first.start_ms, since_ms: first.time_ms });
    heard.first_ms = heard.first_ms.min(first.time_ms);
    if first.start_ms > heard.start_ms {
        (heard.start_ms, heard.since_ms) = (first.start_ms, first.time_ms);
    } else if first.start_ms == heard.start_ms {
        heard.since_ms = heard.since_ms.min(first.time_ms);
    }
    let same = |b: Heard| (b.first_ms, b.start_ms, b.since_ms) == (heard.first_ms, heard.start_ms, heard.since_ms);
    if before.is_some_and(same) {
        return Ok(());
    }
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO senders (site, node, name, first_ms, start_ms, since_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![key.0, key.1, key.2, heard.first_ms, heard.start_ms, heard.since_ms])?;
    done.senders.insert(key, heard);
    Ok(())
}

fn labels_json(series: &Series) -> String {
    serde_json::to_string(&series.labels).expect("a map of text is JSON")
}

fn create(transaction: &Transaction<'_>, series: &Series, from_zero: bool) -> rusqlite::Result<Known> {
    transaction
        .prepare_cached(
            "INSERT INTO series (hash, name, kind, unit, labels, site, node, from_zero) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            series.hash,
            series.name,
            series.kind.code(),
            series.unit,
            labels_json(series),
            series.labels.get(attribute::SITE),
            series.labels.get(attribute::NODE),
            from_zero,
        ])?;
    Ok(Known { id: transaction.last_insert_rowid(), rolled_until_ms: i64::MIN, labels: series.labels.len() })
}

/// Takes a fuller description of a series that is already known.
fn describe(transaction: &Transaction<'_>, known: Known, series: &Series) -> rusqlite::Result<Known> {
    transaction
        .prepare_cached("UPDATE series SET labels = ?2 WHERE id = ?1")?
        .execute(params![known.id, labels_json(series)])?;
    Ok(Known { labels: series.labels.len(), ..known })
}
