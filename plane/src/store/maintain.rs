//! Upkeep: roll energy up, let go of what is too old, and of the oldest when there is too much. Each removal is counted.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{points, rollup};
use crate::{
    args::Retention,
    energy::{COUNTERS, FIVE_MINUTES_MS, HOUR_MS},
    stats::Stats,
};

/// Age at which five-minute energy goes and hourly energy answers alone, milliseconds.
const FIVE_MINUTE_AGE_MS: i64 = 35 * 24 * HOUR_MS;
/// Slices that one upkeep may evict, so that ingest is not kept waiting; the next goes on.
const SLICES: usize = 16;
/// An eviction takes this part of the time between the oldest and now.
const SLICE: i64 = 16;

/// Runs once; answers which series are gone.
pub(super) fn run(
    connection: &mut Connection,
    retention: &Retention,
    now_ms: i64,
    stats: &Stats,
) -> rusqlite::Result<Vec<i64>> {
    let age = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let mut forgotten = Vec::new();
    write(connection, |t| rollup::roll(t, now_ms - rollup::LAG_MS))?;
    let raw_cut = (now_ms - age(retention.raw)).div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS;
    if raw_cut > meta(connection, "raw_floor_ms")? {
        stats.expired_points.add(write(connection, |t| drop_points(t, raw_cut))?);
        forgotten = write(connection, drop_empty_series)?;
    }
    let spans_cut = now_ms - age(retention.spans);
    stats.expired_spans.add(write(connection, |t| drop_spans(t, spans_cut))?);
    let five_cut = (now_ms - FIVE_MINUTE_AGE_MS).div_euclid(HOUR_MS) * HOUR_MS;
    if five_cut > meta(connection, "five_minute_floor_ms")? {
        write(connection, |t| drop_five_minutes(t, five_cut))?;
    }
    evict(connection, retention.max_bytes, now_ms, stats)?;
    connection.execute_batch("PRAGMA incremental_vacuum(4096);")?;
    stats.database_bytes.set(live_bytes(connection)?);
    Ok(forgotten)
}

fn write<T>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = change(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<i64> {
    let value = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?;
    Ok(value.unwrap_or(0))
}

fn set_meta(transaction: &Transaction<'_>, key: &str, value: i64) -> rusqlite::Result<()> {
    transaction.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
    Ok(())
}

/// Removes chunks that end before `cut_ms`. Of an energy counter only what is rolled up goes, and its last point before
/// the cut stays: the next increment is counted from it.
fn drop_points(transaction: &Transaction<'_>, cut_ms: i64) -> rusqlite::Result<u64> {
    let mut gone = 0;
    let mut plain = transaction.prepare_cached(
        "DELETE FROM chunks WHERE last_ms < ?6 AND NOT EXISTS (SELECT 1 FROM series s WHERE s.id = series_id
         AND s.name IN (?1, ?2, ?3, ?4, ?5) AND s.kind IN (1, 3)) RETURNING count",
    )?;
    let [a, b, c, d, e] = COUNTERS;
    let mut rows = plain.query(params![a, b, c, d, e, cut_ms])?;
    while let Some(row) = rows.next()? {
        gone += row.get::<_, u32>(0)? as u64;
    }
    // What is left with two chunks or more before the cut are counters.
    let counters: Vec<(i64, i64)> = transaction
        .prepare_cached(
            "SELECT s.id, coalesce(s.rolled_until_ms, 0) FROM
             (SELECT series_id FROM chunks WHERE last_ms < ?1 GROUP BY series_id HAVING count(*) > 1)
             JOIN series s ON s.id = series_id",
        )?
        .query_map([cut_ms], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (id, rolled_until_ms) in counters {
        gone += drop_counter(transaction, id, cut_ms.min(rolled_until_ms))?;
    }
    set_meta(transaction, "raw_floor_ms", cut_ms)?;
    Ok(gone)
}

/// Removes chunks of a counter that end before the one with its last value before `cut_ms`.
fn drop_counter(transaction: &Transaction<'_>, series: i64, cut_ms: i64) -> rusqlite::Result<u64> {
    let Some(stays) = points::before(transaction, series, cut_ms)? else { return Ok(0) };
    let mut gone = 0;
    let mut delete =
        transaction.prepare_cached("DELETE FROM chunks WHERE series_id = ?1 AND last_ms < ?2 RETURNING count")?;
    let mut rows = delete.query([series, stays.time_ms])?;
    while let Some(row) = rows.next()? {
        gone += row.get::<_, u32>(0)? as u64;
    }
    Ok(gone)
}

fn drop_empty_series(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<i64>> {
    transaction
        .prepare(
            "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM chunks c WHERE c.series_id = series.id)
             AND NOT head_has(series.id)
             AND NOT EXISTS (SELECT 1 FROM energy_rollups r WHERE r.series_id = series.id) RETURNING id",
        )?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn drop_spans(transaction: &Transaction<'_>, cut_ms: i64) -> rusqlite::Result<u64> {
    let cut_ns = cut_ms.saturating_mul(1_000_000);
    let spans = transaction.execute("DELETE FROM spans WHERE start_ns < ?1", [cut_ns])?;
    let logs = transaction.execute("DELETE FROM logs WHERE time_ns < ?1", [cut_ns])?;
    transaction.execute("DELETE FROM incidents WHERE started_ns < ?1", [cut_ns])?;
    Ok((spans + logs) as u64)
}

fn drop_five_minutes(transaction: &Transaction<'_>, cut_ms: i64) -> rusqlite::Result<()> {
    transaction
        .execute("DELETE FROM energy_rollups WHERE step_ms = ?1 AND bucket_ms < ?2", [FIVE_MINUTES_MS, cut_ms])?;
    set_meta(transaction, "five_minute_floor_ms", cut_ms)
}

/// Bytes of pages that hold something.
fn live_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let bytes = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
    Ok(bytes.unsigned_abs())
}

/// Lets the oldest go, slice by slice, until the database fits. Energy roll-ups stay: they are small and are the record.
fn evict(connection: &mut Connection, max_bytes: u64, now_ms: i64, stats: &Stats) -> rusqlite::Result<()> {
    for _ in 0..SLICES {
        let bytes = live_bytes(connection)?;
        if bytes <= max_bytes {
            return Ok(());
        }
        // By their ends: what ends first goes first, and whole.
        let oldest_point: Option<i64> = connection
            .query_row(
                "SELECT c.last_ms FROM chunks c JOIN series s ON s.id = c.series_id
                 WHERE NOT (s.name IN (?1, ?2, ?3, ?4, ?5) AND s.kind IN (1, 3)) ORDER BY c.last_ms LIMIT 1",
                COUNTERS,
                |row| row.get(0),
            )
            .optional()?;
        let oldest_span: Option<i64> = connection.query_row(
            "SELECT min(oldest) / 1000000 FROM (SELECT min(start_ns) AS oldest FROM spans UNION ALL SELECT min(time_ns) FROM logs)",
            [],
            |row| row.get(0),
        )?;
        let cut = |oldest: i64| oldest + ((now_ms - oldest) / SLICE).max(1_000);
        match (oldest_point, oldest_span) {
            (None, None) => break,
            (Some(point), span) if span.is_none_or(|span| point <= span) => {
                let cut = cut(point);
                let gone = write(connection, |t| {
                    rollup::roll(t, cut)?;
                    drop_points(t, cut)
                })?;
                stats.evicted_points.add(gone);
            }
            (_, Some(span)) => stats.evicted_spans.add(write(connection, |t| drop_spans(t, cut(span)))?),
            (Some(_), None) => {}
        }
    }
    if live_bytes(connection)? > max_bytes {
        tracing::warn!(max_bytes, "the database is still above --max-size; eviction goes on at the next upkeep");
    }
    Ok(())
}
