//! The file, its lock and its tables. `PRAGMA user_version` says which migrations a database has had.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, Row, Transaction};

use super::{OpenError, chunk::Stored, points};

type Migration = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Each entry brings a database from its index to the next version. Never edited once released, only added to.
const MIGRATIONS: [Migration; 2] = [|t| t.execute_batch(TABLES), into_chunks];

/// Version of the tables that this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

const TABLES: &str = "
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL,
    unit TEXT NOT NULL,
    labels TEXT NOT NULL,
    site TEXT,
    node TEXT,
    from_zero INTEGER NOT NULL,
    interval_ms INTEGER,
    rolled_until_ms INTEGER
);
CREATE INDEX series_by_name ON series (name, site, node);
-- Clustered by series and time: a series' window is one range scan, a second delivery hits the same key.
CREATE TABLE points (
    series_id INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    value REAL,
    start_ms INTEGER,
    PRIMARY KEY (series_id, time_ms)
) WITHOUT ROWID;
-- Energy per series and step (300000 or 3600000 ms), in whole microjoules, added up from raw points.
CREATE TABLE energy_rollups (
    series_id INTEGER NOT NULL,
    step_ms INTEGER NOT NULL,
    bucket_ms INTEGER NOT NULL,
    microjoules INTEGER NOT NULL,
    gap_ms INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (series_id, step_ms, bucket_ms)
) WITHOUT ROWID;
-- Since when a node has sent an energy counter, and since when with its present start: tells a series that is new in
-- the world (it counts from zero) from one that is only new here (its joules may be years old).
CREATE TABLE senders (
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    start_ms INTEGER,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (site, node, name)
) WITHOUT ROWID;
CREATE TABLE spans (
    trace_id BLOB NOT NULL,
    span_id BLOB NOT NULL,
    parent BLOB,
    name TEXT NOT NULL,
    service TEXT NOT NULL,
    site TEXT,
    node TEXT,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    status INTEGER NOT NULL,
    status_message TEXT NOT NULL,
    attributes TEXT NOT NULL,
    events TEXT NOT NULL,
    PRIMARY KEY (trace_id, span_id)
) WITHOUT ROWID;
CREATE INDEX spans_by_start ON spans (start_ns);
-- One row per trace that is an incident, always computed from all of its spans.
CREATE TABLE incidents (
    trace_id BLOB PRIMARY KEY,
    title TEXT NOT NULL,
    severity TEXT,
    site TEXT,
    node TEXT,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    detected_ns INTEGER NOT NULL,
    ended_ns INTEGER,
    span_count INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX incidents_by_start ON incidents (started_ns);
CREATE TABLE logs (
    time_ns INTEGER NOT NULL,
    hash BLOB NOT NULL,
    severity INTEGER NOT NULL,
    service TEXT NOT NULL,
    site TEXT,
    node TEXT,
    body TEXT NOT NULL,
    attributes TEXT NOT NULL,
    trace_id BLOB,
    span_id BLOB,
    PRIMARY KEY (time_ns, hash)
) WITHOUT ROWID;
CREATE INDEX logs_by_trace ON logs (trace_id, time_ns) WHERE trace_id IS NOT NULL;
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// From a row a point to chunks of many, with a journal for those that are too new to be in one.
fn into_chunks(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "-- Points of a series, packed, in the order of their times; chunks of a series do not overlap.
         CREATE TABLE chunks (
             series_id INTEGER NOT NULL,
             first_ms INTEGER NOT NULL,
             last_ms INTEGER NOT NULL,
             count INTEGER NOT NULL,
             data BLOB NOT NULL,
             PRIMARY KEY (series_id, first_ms)
         ) WITHOUT ROWID;
         CREATE INDEX chunks_by_end ON chunks (last_ms);
         -- What was acknowledged and is not in a chunk yet: a line of points for each transaction.
         CREATE TABLE journal (id INTEGER PRIMARY KEY AUTOINCREMENT, points BLOB NOT NULL);",
    )?;
    let ids: Vec<i64> = transaction
        .prepare("SELECT DISTINCT series_id FROM points")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut of_series =
        transaction.prepare("SELECT time_ms, value, start_ms FROM points WHERE series_id = ?1 ORDER BY time_ms")?;
    for id in ids {
        let read = |row: &Row<'_>| Ok(Stored { time_ms: row.get(0)?, value: row.get(1)?, start_ms: row.get(2)? });
        let points = of_series.query_map([id], read)?.collect::<Result<_, _>>()?;
        points::seal(transaction, id, points)?;
    }
    transaction.execute_batch("DROP TABLE points;")
}

/// The database file of a data directory.
pub(super) fn database(directory: &Path) -> PathBuf {
    directory.join("plane.db")
}

/// Opens the writer's connection, migrated. The file that comes with it holds the directory's lock while it lives.
pub(super) fn open(directory: &Path) -> Result<(Connection, File), OpenError> {
    let io = |source| OpenError::Directory { path: directory.into(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let lock =
        File::options().create(true).truncate(false).write(true).open(directory.join("plane.lock")).map_err(io)?;
    lock.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => OpenError::InUse(directory.into()),
        TryLockError::Error(source) => io(source),
    })?;
    let path = database(directory);
    let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
    let mut connection = Connection::open(&path).map_err(sqlite)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(sqlite)?;
    // auto_vacuum only takes effect before the first table; FULL syncs the log at each commit, so that not even a
    // power cut loses what was acknowledged.
    connection
        .execute_batch(
            "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             PRAGMA wal_autocheckpoint=4000; PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-65536;
             PRAGMA temp_store=MEMORY;",
        )
        .map_err(sqlite)?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection, &path)?;
    Ok((connection, lock))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.into(), source };
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite)?;
    let known = MIGRATIONS.len() as i64;
    let Some(missing) = usize::try_from(found).ok().and_then(|from| MIGRATIONS.get(from..)) else {
        return Err(OpenError::Newer { path: path.into(), found, known });
    };
    for (done, migration) in missing.iter().enumerate() {
        let version = found + done as i64 + 1;
        let transaction = connection.transaction().map_err(sqlite)?;
        migration(&transaction).map_err(sqlite)?;
        transaction.pragma_update(None, "user_version", version).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        tracing::info!(version, "database schema brought up to date");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_migrated_once_and_opens_again() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()).unwrap());
        let (connection, _lock) = open(directory.path()).unwrap();
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, MIGRATIONS.len() as i64);
    }

    #[test]
    fn points_of_an_older_version_come_along() {
        let directory = tempfile::tempdir().unwrap();
        let mut old = Connection::open(database(directory.path())).unwrap();
        let transaction = old.transaction().unwrap();
        MIGRATIONS[0](&transaction).unwrap();
        for i in 0..500 {
            transaction.execute("INSERT INTO points VALUES (7, ?1, ?2, NULL)", [i * 10, i]).unwrap();
        }
        transaction.pragma_update(None, "user_version", 1).unwrap();
        transaction.commit().unwrap();
        drop(old);
        let (connection, _lock) = open(directory.path()).unwrap();
        super::super::head::Head::default().register(&connection).unwrap();
        let points = points::range(&connection, 7, 1_000, 1_050).unwrap();
        assert_eq!(
            points.iter().map(|point| point.value).collect::<Vec<_>>(),
            [100.0, 101.0, 102.0, 103.0, 104.0].map(Some)
        );
        assert_eq!(points::total(&connection).unwrap(), 500);
    }

    #[test]
    fn a_database_of_a_newer_version_is_left_alone_and_named() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).unwrap().0.pragma_update(None, "user_version", 99).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    }

    #[test]
    fn two_planes_never_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _held = open(directory.path()).unwrap();
        assert!(matches!(open(directory.path()).unwrap_err(), OpenError::InUse(_)));
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(database(directory.path()), "this is not a database, it is a sentence about one").unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("plane.db"), "{error}");
    }
}
