//! Power over time, from the same counters as the energy, so that the curve's area is the table's figure.
//! A gap stays a gap: no line is drawn over time for which the moment of use is not known.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::telemetry::{attribute, metric};
use rusqlite::Connection;

use super::{
    FIVE_MINUTES_MS, HOUR_MS,
    counter::{gap, increment, usual_interval_ms},
    query::{By, CounterSeries, counters, floors, samples},
    window::Floors,
};

/// One curve.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PowerSeries {
    /// Site, or `site/node`.
    pub key: String,
    /// `[unix_ms, watts]`, one for each step that is known.
    pub points: Vec<(i64, f64)>,
}

/// The energy and the known time of one node in one step.
#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    microjoules: f64,
    covered_ms: f64,
}

/// Joules used at an unknown moment of a stretch of time.
struct Stretch {
    from_ms: i64,
    to_ms: i64,
    microjoules: i128,
}

/// The step that can be answered: at least what was asked, coarser where only roll-ups are left.
///
/// # Errors
/// What SQLite says.
pub fn step(connection: &Connection, from_ms: i64, step_ms: i64) -> rusqlite::Result<i64> {
    let Floors { raw_ms, five_ms } = floors(connection)?;
    let coarse = |least: i64| (step_ms + least - 1) / least * least;
    Ok(if from_ms >= raw_ms {
        step_ms
    } else if from_ms >= five_ms {
        coarse(FIVE_MINUTES_MS)
    } else {
        coarse(HOUR_MS)
    })
}

/// Power of `[from_ms, to_ms)` in steps of `step_ms`, as [`step`] gave it.
///
/// # Errors
/// What SQLite says.
pub fn power(
    connection: &Connection,
    from_ms: i64,
    to_ms: i64,
    by: By,
    step_ms: i64,
) -> rusqlite::Result<Vec<PowerSeries>> {
    let floors = floors(connection)?;
    // By key, by node, by step. Provenances of one node add their joules and share their time.
    let mut nodes: BTreeMap<(String, String), BTreeMap<i64, Bin>> = BTreeMap::new();
    let mut ends: BTreeMap<(String, String), i64> = BTreeMap::new();
    for series in counters(connection, metric::HOST_ENERGY, None)? {
        let stretches = stretches(connection, &series, from_ms, to_ms, step_ms, floors)?;
        let mut bins: BTreeMap<i64, Bin> = BTreeMap::new();
        for stretch in &stretches {
            spread(stretch, from_ms, to_ms, step_ms, &mut bins);
        }
        let site = series.label(attribute::SITE).to_owned();
        let node = format!("{site}/{}", series.label(attribute::NODE));
        let key = if by == By::Node { node.clone() } else { site };
        let merged = nodes.entry((key.clone(), node.clone())).or_default();
        for (at, bin) in bins {
            let to = merged.entry(at).or_default();
            to.microjoules += bin.microjoules;
            to.covered_ms = to.covered_ms.max(bin.covered_ms);
        }
        if let Some(last) = stretches.last() {
            let end = ends.entry((key, node)).or_insert(last.to_ms);
            *end = last.to_ms.max(*end);
        }
    }
    let keys: BTreeSet<String> = nodes.keys().map(|(key, _)| key.clone()).collect();
    Ok(keys.into_iter().map(|key| curve(key, &nodes, &ends, step_ms)).collect())
}

fn curve(
    key: String,
    nodes: &BTreeMap<(String, String), BTreeMap<i64, Bin>>,
    ends: &BTreeMap<(String, String), i64>,
    step_ms: i64,
) -> PowerSeries {
    let mut sums: BTreeMap<i64, f64> = BTreeMap::new();
    for ((_, _), bins) in nodes.iter().filter(|((k, _), _)| *k == key) {
        for (at, bin) in bins.iter().filter(|(_, bin)| bin.covered_ms > 0.0) {
            // microjoules per millisecond are milliwatts
            *sums.entry(*at).or_default() += bin.microjoules / bin.covered_ms / 1e3;
        }
    }
    // Nodes report one after another: a step that some living node has not reached yet would look like a drop.
    let newest = ends.iter().filter(|((k, _), _)| *k == key).map(|(_, end)| *end).max().unwrap_or(0);
    let alive = ends.iter().filter(|((k, _), end)| *k == key && newest - **end <= 3 * step_ms.max(10_000));
    let complete = alive.map(|(_, end)| *end).min().unwrap_or(newest);
    let points = sums
        .into_iter()
        .filter(|(at, _)| *at < complete)
        .map(|(at, watts)| (at, (watts * 1e3).round() / 1e3))
        .collect();
    PowerSeries { key, points }
}

fn stretches(
    connection: &Connection,
    series: &CounterSeries,
    from_ms: i64,
    to_ms: i64,
    step_ms: i64,
    floors: Floors,
) -> rusqlite::Result<Vec<Stretch>> {
    let mut stretches = Vec::new();
    let rolled_until = if from_ms < floors.raw_ms { series.rolled_until_ms.min(to_ms) } else { i64::MIN };
    if rolled_until > from_ms {
        let rolled_step = if step_ms >= HOUR_MS { HOUR_MS } else { FIVE_MINUTES_MS };
        let mut statement = connection.prepare_cached(
            "SELECT bucket_ms, microjoules FROM energy_rollups
             WHERE series_id = ?1 AND step_ms = ?2 AND bucket_ms >= ?3 AND bucket_ms < ?4 AND gap_ms = 0 ORDER BY bucket_ms",
        )?;
        let buckets = statement.query_map([series.id, rolled_step, from_ms, rolled_until], |row| {
            let from_ms: i64 = row.get(0)?;
            Ok(Stretch { from_ms, to_ms: from_ms + rolled_step, microjoules: row.get::<_, i64>(1)?.into() })
        })?;
        for bucket in buckets {
            stretches.push(bucket?);
        }
    }
    let raw_from = rolled_until.max(from_ms);
    // One step more at the end, so that the last step of the window is whole.
    let (before, window) = samples(connection, series.id, raw_from, to_ms.saturating_add(step_ms.max(10_000)))?;
    let interval_ms = usual_interval_ms(before.as_ref(), &window).unwrap_or(series.interval_ms);
    let mut previous = before;
    for sample in window {
        if let Some(previous) = previous.as_ref().filter(|p| gap(p, &sample, interval_ms) == 0) {
            let microjoules = increment(series.kind, Some(previous), &sample, series.from_zero);
            stretches.push(Stretch { from_ms: previous.time_ms, to_ms: sample.time_ms, microjoules });
        }
        previous = Some(sample);
    }
    Ok(stretches)
}

/// Spreads a stretch evenly over the steps it touches.
fn spread(stretch: &Stretch, from_ms: i64, to_ms: i64, step_ms: i64, bins: &mut BTreeMap<i64, Bin>) {
    let length = (stretch.to_ms - stretch.from_ms).max(1) as f64;
    let mut at = stretch.from_ms.max(from_ms).div_euclid(step_ms) * step_ms;
    while at < stretch.to_ms.min(to_ms) {
        let covered_ms = (stretch.to_ms.min(at + step_ms) - stretch.from_ms.max(at)) as f64;
        if covered_ms > 0.0 && at + step_ms > from_ms {
            let bin = bins.entry(at).or_default();
            bin.microjoules += stretch.microjoules as f64 * covered_ms / length;
            bin.covered_ms += covered_ms;
        }
        at += step_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_spread_over_its_steps_and_keeps_its_joules() {
        let mut bins = BTreeMap::new();
        spread(&Stretch { from_ms: 2_500, to_ms: 12_500, microjoules: 1_000_000 }, 0, 60_000, 5_000, &mut bins);
        let spread: Vec<_> = bins.iter().map(|(at, bin)| (*at, bin.microjoules.round() as i64)).collect();
        assert_eq!(spread, [(0, 250_000), (5_000, 500_000), (10_000, 250_000)]);
    }
}
