//! Reading points: what chunks and the head say together, each time once.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    chunk::{CHUNK, Stored, pack, unpack},
    head,
};

/// Points of a series in `[from_ms, to_ms)`, in order.
///
/// # Errors
/// What SQLite says, or that a chunk is damaged.
pub(crate) fn range(connection: &Connection, series: i64, from_ms: i64, to_ms: i64) -> rusqlite::Result<Vec<Stored>> {
    let mut points = Vec::new();
    // Chunks of a series follow one another without overlap: the first is the one that begins last before the window.
    let mut statement = connection.prepare_cached(
        "SELECT count, data FROM chunks WHERE series_id = ?1 AND first_ms < ?3 AND first_ms >=
         coalesce((SELECT max(first_ms) FROM chunks WHERE series_id = ?1 AND first_ms <= ?2), ?2) ORDER BY first_ms",
    )?;
    let mut rows = statement.query([series, from_ms, to_ms])?;
    while let Some(row) = rows.next()? {
        let chunk = unpack(row.get_ref(1)?.as_blob()?, row.get::<_, u32>(0)? as usize)?;
        points.extend(chunk.into_iter().filter(|point| point.time_ms >= from_ms && point.time_ms < to_ms));
    }
    let newest = newest(connection, series, from_ms, to_ms)?;
    Ok(merge(points, newest))
}

/// All points of a series, in order.
///
/// # Errors
/// What SQLite says, or that a chunk is damaged.
pub fn all(connection: &Connection, series: i64) -> rusqlite::Result<Vec<Stored>> {
    range(connection, series, i64::MIN, i64::MAX)
}

/// What the head has of a series in `[from_ms, to_ms)`.
fn newest(connection: &Connection, series: i64, from_ms: i64, to_ms: i64) -> rusqlite::Result<Vec<Stored>> {
    connection
        .prepare_cached("SELECT head_points(?1, ?2, ?3)")?
        .query_row([series, from_ms, to_ms], |row| Ok(head::decode(row.get_ref(0)?.as_blob()?).collect()))
}

/// The newest point with a value before a time.
///
/// # Errors
/// What SQLite says, or that a chunk is damaged.
pub(crate) fn before(connection: &Connection, series: i64, time_ms: i64) -> rusqlite::Result<Option<Stored>> {
    let valued = |points: Vec<Stored>| {
        points.into_iter().filter(|p| p.time_ms < time_ms && p.value.is_some()).max_by_key(|p| p.time_ms)
    };
    let mut found = valued(newest(connection, series, i64::MIN, time_ms)?);
    let mut statement = connection.prepare_cached(
        "SELECT count, data FROM chunks WHERE series_id = ?1 AND first_ms < ?2 ORDER BY first_ms DESC",
    )?;
    let mut rows = statement.query([series, time_ms])?;
    while let Some(row) = rows.next()? {
        let chunk = valued(unpack(row.get_ref(1)?.as_blob()?, row.get::<_, u32>(0)? as usize)?);
        if let Some(point) = chunk {
            found = found.filter(|head| head.time_ms > point.time_ms).or(Some(point));
            break;
        }
    }
    Ok(found)
}

/// The newest points of a series, at most `most`, in order.
///
/// # Errors
/// What SQLite says, or that a chunk is damaged.
pub(crate) fn last(connection: &Connection, series: i64, most: usize) -> rusqlite::Result<Vec<Stored>> {
    let chunk = connection
        .prepare_cached("SELECT count, data FROM chunks WHERE series_id = ?1 ORDER BY first_ms DESC LIMIT 1")?
        .query_row([series], |row| Ok(unpack(row.get_ref(1)?.as_blob()?, row.get::<_, u32>(0)? as usize)?))
        .optional()?;
    let mut points = merge(chunk.unwrap_or_default(), newest(connection, series, i64::MIN, i64::MAX)?);
    points.drain(..points.len().saturating_sub(most));
    Ok(points)
}

/// Time of the newest point of a series.
///
/// # Errors
/// What SQLite says.
pub(crate) fn newest_ms(connection: &Connection, series: i64) -> rusqlite::Result<Option<i64>> {
    let (sealed, head): (Option<i64>, Option<i64>) = connection
        .prepare_cached(
            "SELECT (SELECT last_ms FROM chunks WHERE series_id = ?1 ORDER BY first_ms DESC LIMIT 1), head_newest(?1)",
        )?
        .query_row([series], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(sealed.max(head))
}

/// How many points there are, those that lie in chunk and head counted twice.
///
/// # Errors
/// What SQLite says.
pub fn total(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce((SELECT sum(count) FROM chunks), 0) + head_count()", [], |row| row.get(0))
}

/// Both, in order; what is in both is taken from the first.
fn merge(mut points: Vec<Stored>, more: Vec<Stored>) -> Vec<Stored> {
    if more.is_empty() {
        return points;
    }
    let in_order = more.windows(2).all(|pair| pair[0].time_ms < pair[1].time_ms)
        && points.last().is_none_or(|last| last.time_ms < more[0].time_ms);
    points.extend(more);
    if !in_order {
        // Stable: of two with one time the one from the chunk stays.
        points.sort_by_key(|point| point.time_ms);
        points.dedup_by_key(|point| point.time_ms);
    }
    points
}

/// Puts points of a series, in order, into chunks: behind its last one, or into those that they fall between.
///
/// # Errors
/// What SQLite says, or that a chunk is damaged.
pub(super) fn seal(transaction: &Transaction<'_>, series: i64, points: Vec<Stored>) -> rusqlite::Result<()> {
    let Some(first) = points.first() else { return Ok(()) };
    let last = transaction
        .prepare_cached(
            "SELECT first_ms, last_ms, count FROM chunks WHERE series_id = ?1 ORDER BY first_ms DESC LIMIT 1",
        )?
        .query_row([series], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, u32>(2)? as usize)))
        .optional()?;
    // From where on chunks are written anew.
    let from = match last {
        Some((_, last_ms, count)) if last_ms < first.time_ms && count >= CHUNK / 2 => None,
        Some((first_ms, last_ms, _)) if last_ms < first.time_ms => Some(first_ms),
        Some(_) => transaction
            .prepare_cached("SELECT min(first_ms) FROM chunks WHERE series_id = ?1 AND last_ms >= ?2")?
            .query_row([series, first.time_ms], |row| row.get(0))?,
        None => None,
    };
    let points = match from {
        None => points,
        Some(from) => {
            let mut old = Vec::new();
            let mut statement = transaction
                .prepare_cached("DELETE FROM chunks WHERE series_id = ?1 AND first_ms >= ?2 RETURNING count, data")?;
            let mut rows = statement.query([series, from])?;
            while let Some(row) = rows.next()? {
                old.extend(unpack(row.get_ref(1)?.as_blob()?, row.get::<_, u32>(0)? as usize)?);
            }
            // A deletion answers its rows in no promised order.
            old.sort_by_key(|point| point.time_ms);
            merge(old, points)
        }
    };
    let mut insert = transaction
        .prepare_cached("INSERT INTO chunks (series_id, first_ms, last_ms, count, data) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for piece in points.chunks(CHUNK) {
        let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
        insert.execute(params![series, first.time_ms, last.time_ms, piece.len() as i64, pack(piece)])?;
    }
    Ok(())
}
