//! A streaming anomaly detector for one series of numbers: one value in, one [`Reading`] out.
//!
//! It knows nothing but the rows it has seen: no range, no period, no unit, no time. An anomaly is a **record**: a row
//! that is outside of everything remembered. Records have a useful property: in a series that goes on as it always did,
//! the n-th row is one with probability 1/n, whatever the distribution, so that the alarm rate falls by itself as the
//! memory fills and needs no calibration. Three voices look for records:
//!
//! * **value**: higher or lower than all remembered values;
//! * **level**: the floor of the last [`LEVEL_ROWS`] rows is higher, or their ceiling lower, than ever: a shift that
//!   holds, in a series whose spikes have been everywhere before;
//! * **shape**: the course of the last 48 rows is farther from its nearest neighbour among all remembered courses than
//!   any course before was: known values in an unknown order.
//!
//! The strongest voice speaks, and after an alarm all are silent for [`REST_ROWS`] rows, because one event is one alarm
//! (the rest period is an idea of CAD-OSE, Smirnov 2016). What was tried besides, and what it scored:
//! `docs/anomaly.md`.
//!
//! Pure and without clock or I/O; state is taken at the start, at most 64 KiB, and never grows.

mod extremes;
mod level;
mod shape;

use serde::Serialize;

pub use extremes::Bounds;
use extremes::Extremes;
use level::Level;
use shape::Shapes;

/// A row whose score is at least this is an alarm.
pub const ALARM_SCORE: f64 = 0.5;
/// Rows that are remembered. Between 4,000 and 8,000 the result hardly changes.
pub const MEMORY_ROWS: u32 = 5_000;
/// By how many widths of the remembered range a record must pass it. A tenth of this brings alarms about nothing, four
/// times as much misses.
pub const MARGIN: f64 = 0.03;
/// Rows before the first alarm; for shapes counted from the first one that could be compared.
pub const WARM_UP_ROWS: u64 = 128;
/// Rows over which floor and ceiling are taken.
pub const LEVEL_ROWS: usize = 40;
/// Rows without an alarm after an alarm.
pub const REST_ROWS: u32 = 60;
/// Larger values are taken as this large, so that no difference of two overflows.
const LARGEST: f64 = 1e30;
/// Strangeness is capped here: a series that stood still forever has no scale.
const STRANGEST: f64 = 1e6;

/// Which kind of record a reading is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Voice {
    /// A single value.
    Value,
    /// A level that holds.
    Level,
    /// A course of values.
    Shape,
}

/// What the detector says about one row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// In 0..1; an alarm from [`ALARM_SCORE`] on. Zero while the detector warms up or rests.
    pub score: f64,
    /// How far out the row is by the strongest voice, rest or not: 0 in the middle of what is remembered, 1 where an
    /// alarm begins.
    pub strangeness: f64,
    /// The strongest voice.
    pub voice: Voice,
    /// What was remembered by that voice before this row, in the unit of the values (for a shape: the range of
    /// distances summed over its points). Nothing before the second row.
    pub bounds: Option<Bounds>,
}

impl Reading {
    /// Whether this row is an alarm.
    pub fn is_alarm(&self) -> bool {
        self.score >= ALARM_SCORE
    }

    const QUIET: Self = Self { score: 0.0, strangeness: 0.0, voice: Voice::Value, bounds: None };
}

/// Detector of one series.
#[derive(Clone, Debug)]
pub struct Detector {
    rows: u64,
    rest: u32,
    values: Extremes,
    level: Level<LEVEL_ROWS>,
    floors: Extremes,
    ceilings: Extremes,
    shapes: Shapes,
    compared: u64,
    distances: Extremes,
}

impl Default for Detector {
    fn default() -> Self {
        let blocks = MEMORY_ROWS / shape::BLOCK_ROWS as u32;
        Self {
            rows: 0,
            rest: 0,
            values: Extremes::new(MEMORY_ROWS),
            level: Level::default(),
            floors: Extremes::new(MEMORY_ROWS),
            ceilings: Extremes::new(MEMORY_ROWS),
            shapes: Shapes::new(MEMORY_ROWS as usize),
            compared: 0,
            distances: Extremes::new(blocks),
        }
    }
}

impl Detector {
    /// A detector that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of state, now and for ever.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() - size_of::<Shapes>() + self.shapes.bytes()
    }

    /// Takes the next value of the series. Not-a-number is a row that says nothing: it changes no state.
    pub fn push(&mut self, value: f64) -> Reading {
        if value.is_nan() {
            return Reading::QUIET;
        }
        let value = value.clamp(-LARGEST, LARGEST);
        let mut reading = self.strongest(value);
        self.rows += 1;
        if self.rest > 0 {
            self.rest -= 1;
        } else if self.rows > WARM_UP_ROWS {
            reading.score = reading.strangeness / (1.0 + reading.strangeness);
            if reading.is_alarm() {
                self.rest = REST_ROWS;
            }
        }
        reading
    }

    /// The strongest voice on this value, which is remembered by all.
    fn strongest(&mut self, value: f64) -> Reading {
        let (floor, ceiling) = self.level.push(value);
        let distance = self.shapes.push(value);
        let mut strongest = Reading::QUIET;
        let mut hear = |voice, extremes: &mut Extremes, value: f64, judge: fn(Bounds, f64) -> f64| {
            let bounds = extremes.bounds();
            extremes.push(value);
            if let Some(bounds) = bounds {
                let strangeness = judge(bounds, value).clamp(0.0, STRANGEST);
                if strongest.bounds.is_none() || strangeness > strongest.strangeness {
                    strongest = Reading { score: 0.0, strangeness, voice, bounds: Some(bounds) };
                }
            }
        };
        let high = |bounds: Bounds, value| bounds.above(value, MARGIN);
        let low = |bounds: Bounds, value| bounds.below(value, MARGIN);
        hear(Voice::Value, &mut self.values, value, |bounds, value| {
            bounds.above(value, MARGIN).max(bounds.below(value, MARGIN))
        });
        hear(Voice::Level, &mut self.floors, floor, high);
        hear(Voice::Level, &mut self.ceilings, ceiling, low);
        if let Some(distance) = distance {
            self.compared += 1;
            let warm = self.compared > WARM_UP_ROWS / shape::BLOCK_ROWS as u64;
            hear(Voice::Shape, &mut self.distances, distance, if warm { from_zero } else { |_, _| 0.0 });
        }
        strongest
    }
}

/// How large a distance is: 1 where it passes the largest one by [`MARGIN`] of it.
fn from_zero(bounds: Bounds, distance: f64) -> f64 {
    Bounds { low: 0.0, high: bounds.high }.above(distance, MARGIN)
}

#[cfg(test)]
mod tests;
