//! Rolling energy counters up: five-minute and hourly sums in whole microjoules, each raw sample in exactly one of each.

use std::collections::BTreeMap;

use rusqlite::{Transaction, params};

use super::points;
use crate::energy::{
    COUNTERS, FIVE_MINUTES_MS, HOUR_MS,
    counter::{Tally, tally, usual_interval_ms},
    query::{CounterSeries, counters, samples},
};

/// How far behind now the roll-up stays, milliseconds: time for senders that spooled while the plane was away.
pub const LAG_MS: i64 = 30 * 60_000;

/// Silence after which the last bucket of a series is closed too, milliseconds.
const SILENCE_MS: i64 = 2 * HOUR_MS;

/// Most that a bucket may hold, microjoules: twelve of them still fit into an hour. No data center uses as much in five
/// minutes; a counter that says so lies.
const MOST: i128 = i64::MAX as i128 / 16;

/// Rolls every energy counter up to `until_ms`, which is taken down to a whole bucket.
pub(super) fn roll(transaction: &Transaction<'_>, until_ms: i64) -> rusqlite::Result<()> {
    let until_ms = until_ms.div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS;
    for name in COUNTERS {
        for series in counters(transaction, name, None)? {
            if series.rolled_until_ms < until_ms {
                roll_series(transaction, &series, until_ms)?;
            }
        }
    }
    Ok(())
}

fn roll_series(transaction: &Transaction<'_>, series: &CounterSeries, until_ms: i64) -> rusqlite::Result<()> {
    let newest = points::newest_ms(transaction, series.id)?;
    let Some(newest) = newest else { return Ok(()) };
    // The bucket of the newest sample is still filling while a sender works off its spool; after long silence it is closed.
    let filling = newest.div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS;
    let closed = if until_ms - newest > SILENCE_MS { filling + FIVE_MINUTES_MS } else { filling };
    if until_ms.min(closed) <= series.rolled_until_ms {
        return Ok(());
    }
    let (mut before, window) = samples(transaction, series.id, series.rolled_until_ms, until_ms.min(closed))?;
    let Some(last) = window.last() else { return Ok(()) };
    // Only as far as there are samples: what a silent sender spooled may still come.
    let rolled_until = last.time_ms.div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS + FIVE_MINUTES_MS;
    let interval_ms = usual_interval_ms(before.as_ref(), &window).unwrap_or(series.interval_ms);
    let mut buckets: BTreeMap<i64, Tally> = BTreeMap::new();
    for sample in window {
        let one = tally(series.kind, before.as_ref(), &[sample], series.from_zero, interval_ms);
        buckets.entry(sample.time_ms.div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS).or_default().add(one);
        before = Some(sample);
    }
    for (bucket_ms, tally) in buckets {
        put(transaction, series.id, FIVE_MINUTES_MS, bucket_ms, &tally)?;
        put(transaction, series.id, HOUR_MS, bucket_ms.div_euclid(HOUR_MS) * HOUR_MS, &tally)?;
    }
    transaction.prepare_cached("UPDATE series SET rolled_until_ms = ?2, interval_ms = ?3 WHERE id = ?1")?.execute([
        series.id,
        rolled_until,
        interval_ms,
    ])?;
    Ok(())
}

fn put(
    transaction: &Transaction<'_>,
    series: i64,
    step_ms: i64,
    bucket_ms: i64,
    tally: &Tally,
) -> rusqlite::Result<()> {
    let microjoules = i64::try_from(tally.microjoules.min(MOST)).unwrap_or(0);
    if i128::from(microjoules) != tally.microjoules {
        tracing::error!(series, bucket_ms, said = %tally.microjoules, kept = microjoules, "an energy counter says more than can be");
    }
    transaction
        .prepare_cached(
            "INSERT INTO energy_rollups (series_id, step_ms, bucket_ms, microjoules, gap_ms, first_ms, last_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET microjoules = microjoules + excluded.microjoules, gap_ms = gap_ms + excluded.gap_ms,
                 first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms)",
        )?
        .execute(params![series, step_ms, bucket_ms, microjoules, tally.gap_ms, tally.first_ms, tally.last_ms])?;
    Ok(())
}
