//! Looking a database over, and copying it while it is in use. Both only read.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;

use super::{chunk, schema};

/// Problems that are told one by one; the rest is counted.
const TOLD: usize = 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no database.
    #[error("there is no {0}; give the plane's data directory with --data-dir")]
    Absent(PathBuf),
    /// The copy would go over something.
    #[error("{0} is there already; give another file with --to, or move it away")]
    Exists(PathBuf),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// SQLite.
    #[error("{path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// What a database holds and what is wrong with it.
#[derive(Debug, Default, Serialize)]
pub struct Inspection {
    /// The file.
    pub database: PathBuf,
    /// Version of its tables.
    pub schema: i64,
    /// Bytes of the file, without its write-ahead log.
    pub bytes: u64,
    /// Series.
    pub series: i64,
    /// Points in chunks.
    pub points: i64,
    /// Chunks.
    pub chunks: i64,
    /// Bytes of points in chunks.
    pub chunk_bytes: i64,
    /// Points in the journal, which are not in a chunk yet.
    pub journal_points: i64,
    /// Sums of energy.
    pub energy_rollups: i64,
    /// Spans.
    pub spans: i64,
    /// Incidents.
    pub incidents: i64,
    /// Log records.
    pub logs: i64,
    /// Problems, the first of them.
    pub problems: Vec<String>,
    /// How many there are.
    pub problem_count: usize,
}

impl Inspection {
    fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(what());
        }
    }
}

fn open(directory: &Path) -> Result<(PathBuf, Connection), InspectError> {
    let path = schema::database(directory);
    if !path.is_file() {
        return Err(InspectError::Absent(path));
    }
    // Not read-only: a log that a crash left has to be taken up, and that writes beside the database.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)
        .and_then(|connection| connection.busy_timeout(std::time::Duration::from_secs(30)).map(|()| connection))
        .map_err(|source| InspectError::Sqlite { path: path.clone(), source })?;
    Ok((path, connection))
}

/// Reads everything: pages and indices, each chunk and line of the journal, and whether the sums of energy agree with one
/// another. A plane may run meanwhile.
///
/// # Errors
/// [`InspectError`] when there is nothing that can be read; what is wrong inside is in the answer.
pub fn check(directory: &Path) -> Result<Inspection, InspectError> {
    let (path, mut connection) = open(directory)?;
    let mut found = Inspection {
        bytes: std::fs::metadata(&path).map_or(0, |file| file.len()),
        database: path.clone(),
        ..Inspection::default()
    };
    let sqlite = |source| InspectError::Sqlite { path: path.clone(), source };
    let view = connection.transaction().map_err(sqlite)?;
    look(&view, &mut found).map_err(sqlite)?;
    Ok(found)
}

fn look(view: &Connection, found: &mut Inspection) -> rusqlite::Result<()> {
    let mut pages = view.prepare("PRAGMA integrity_check(100)")?;
    let mut rows = pages.query([])?;
    while let Some(row) = rows.next()? {
        let said: String = row.get(0)?;
        if said != "ok" {
            found.wrong(|| format!("SQLite: {said}"));
        }
    }
    found.schema = view.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found.schema != schema::VERSION {
        let schema = found.schema;
        found
            .wrong(|| format!("schema {schema}, not {}: start the plane once to bring it up to date", schema::VERSION));
        return Ok(());
    }
    let count = |table: &str| view.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
    (found.series, found.energy_rollups) = (count("series")?, count("energy_rollups")?);
    (found.spans, found.incidents, found.logs) = (count("spans")?, count("incidents")?, count("logs")?);
    chunks(view, found)?;
    journal(view, found)?;
    sums(view, found)
}

fn chunks(view: &Connection, found: &mut Inspection) -> rusqlite::Result<()> {
    let mut statement = view.prepare(
        "SELECT c.series_id, c.first_ms, c.last_ms, c.count, c.data, s.id IS NULL FROM chunks c
         LEFT JOIN series s ON s.id = c.series_id ORDER BY c.series_id, c.first_ms",
    )?;
    let mut rows = statement.query([])?;
    let mut before: Option<(i64, i64)> = None;
    while let Some(row) = rows.next()? {
        let (series, first_ms, last_ms, count): (i64, i64, i64, u32) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let data = row.get_ref(4)?.as_blob()?;
        found.chunks += 1;
        found.points += i64::from(count);
        found.chunk_bytes += data.len() as i64;
        if row.get(5)? {
            found.wrong(|| format!("a chunk belongs to series {series}, which there is none of"));
        }
        if before.is_some_and(|(id, last)| id == series && last >= first_ms) {
            found.wrong(|| format!("series {series}: the chunk from {first_ms} overlaps the one before it"));
        }
        before = Some((series, last_ms));
        match chunk::unpack(data, count as usize) {
            Err(error) => found.wrong(|| format!("series {series}, chunk from {first_ms}: {error}")),
            Ok(points) => {
                let ends = points.first().zip(points.last()).map(|(first, last)| (first.time_ms, last.time_ms));
                if ends != Some((first_ms, last_ms)) || points.windows(2).any(|p| p[0].time_ms >= p[1].time_ms) {
                    found
                        .wrong(|| format!("series {series}, chunk from {first_ms}: its times are not as its row says"));
                }
            }
        }
    }
    Ok(())
}

fn journal(view: &Connection, found: &mut Inspection) -> rusqlite::Result<()> {
    let series: std::collections::HashSet<i64> =
        view.prepare("SELECT id FROM series")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut statement = view.prepare("SELECT id, points FROM journal ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: i64 = row.get(0)?;
        match chunk::line(row.get_ref(1)?.as_blob()?) {
            Err(error) => found.wrong(|| format!("line {line} of the journal: {error}")),
            Ok(points) => {
                found.journal_points += points.len() as i64;
                if let Some((id, _)) = points.iter().find(|(id, _)| !series.contains(id)) {
                    found.wrong(|| format!("line {line} of the journal speaks of series {id}, which there is none of"));
                }
            }
        }
    }
    Ok(())
}

/// Hours against the five minutes that they are made of, as far back as there are five minutes.
fn sums(view: &Connection, found: &mut Inspection) -> rusqlite::Result<()> {
    let mut statement = view.prepare(
        "SELECT h.series_id, h.bucket_ms, h.microjoules, sum(f.microjoules) FROM energy_rollups h
         JOIN energy_rollups f ON f.series_id = h.series_id AND f.step_ms = 300000
              AND f.bucket_ms >= h.bucket_ms AND f.bucket_ms < h.bucket_ms + 3600000
         WHERE h.step_ms = 3600000
           AND h.bucket_ms >= coalesce((SELECT value FROM meta WHERE key = 'five_minute_floor_ms'), 0)
         GROUP BY h.series_id, h.bucket_ms HAVING h.microjoules <> sum(f.microjoules)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (series, hour, says, sum): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        found.wrong(|| format!("series {series}: the hour {hour} says {says} microjoules, its five minutes {sum}"));
    }
    Ok(())
}

/// Copies the database as it is at one moment to a new file, packed; a plane may run and take telemetry meanwhile. The
/// file appears whole or not at all. To restore, put it as `plane.db` into an empty data directory.
///
/// # Errors
/// [`InspectError`]; nothing is left behind then.
pub fn backup(directory: &Path, to: &Path) -> Result<u64, InspectError> {
    if to.exists() {
        return Err(InspectError::Exists(to.into()));
    }
    let (path, connection) = open(directory)?;
    let part = to.with_added_extension("part");
    let file = |source| InspectError::File { path: part.clone(), source };
    if part.exists() {
        std::fs::remove_file(&part).map_err(file)?;
    }
    let copied = (|| {
        connection
            .execute("VACUUM INTO ?1", params![part.to_string_lossy()])
            .map_err(|source| InspectError::Sqlite { path: path.clone(), source })?;
        let copy = std::fs::File::open(&part).map_err(file)?;
        copy.sync_all().map_err(file)?;
        std::fs::rename(&part, to).map_err(file)?;
        Ok(copy.metadata().map_err(file)?.len())
    })();
    if copied.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    copied
}
