//! A streaming anomaly detector for one series of numbers: one value in, one [`Reading`] out.
//!
//! It knows nothing but the rows it has seen: no range, no period, no unit. An anomaly is a **record**: a row that is
//! outside of everything remembered. Records have a useful property: in a series that goes on as it always did, the
//! n-th row is one with probability 1/n, whatever the distribution, so that the alarm rate falls by itself as the memory
//! fills and needs no calibration. Four voices look for records:
//!
//! * **value**: higher or lower than all remembered values;
//! * **level**: the floor of the last [`LEVEL_ROWS`] rows is higher, or their ceiling lower, than ever: a shift that
//!   holds, in a series whose spikes have been everywhere before;
//! * **shape**: the course of the last 48 rows is farther from its nearest neighbour among all remembered courses than
//!   any course before was: known values in an unknown order;
//! * **daily**: farther from what is usual at this hour of the day than ever, in a series whose days are alike: a peak
//!   that does not come. Needs the rows' times; without them this voice is silent.
//!
//! The strongest voice speaks, and after an alarm all are silent for [`REST_ROWS`] rows, because one event is one alarm
//! (the rest period is an idea of CAD-OSE, Smirnov 2016). What was tried besides, and what it scored:
//! `docs/anomaly.md`.
//!
//! Pure and without clock or I/O; state is taken at the start, at most 64 KiB, and never grows.

mod daily;
mod extremes;
mod level;
mod shape;

use serde::Serialize;

use daily::Daily;
pub use extremes::Bounds;
use extremes::Extremes;
use level::Level;
use shape::Shapes;

/// A row whose score is at least this is an alarm.
pub const ALARM_SCORE: f64 = 0.5;
/// Rows that are remembered. Between 4,000 and 8,000 the result hardly changes.
pub const MEMORY_ROWS: u32 = 5_000;
/// By how many widths of the remembered range a record must pass it. Between 0.02 and 0.05 the result hardly changes.
pub const MARGIN: f64 = 0.04;
/// The same for the daily voice: where a plateau begins and ends, differences to the hour's mean are large and ragged.
const DAILY_MARGIN: f64 = 0.15;
/// Rows that a voice hears before it speaks.
pub const WARM_UP_ROWS: u32 = 128;
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
    /// A value at its time of the day.
    Daily,
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
    /// distances summed over its points; for the daily voice that of differences). Nothing during the warm-up.
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
    rest: u32,
    values: Extremes,
    level: Level<LEVEL_ROWS>,
    floors: Extremes,
    ceilings: Extremes,
    shapes: Shapes,
    distances: Extremes,
    daily: Daily,
    residuals: Extremes,
}

impl Default for Detector {
    fn default() -> Self {
        let blocks = MEMORY_ROWS / shape::BLOCK_ROWS as u32;
        Self {
            rest: 0,
            values: Extremes::new(MEMORY_ROWS),
            level: Level::default(),
            floors: Extremes::new(MEMORY_ROWS),
            ceilings: Extremes::new(MEMORY_ROWS),
            shapes: Shapes::new(MEMORY_ROWS as usize),
            distances: Extremes::new(blocks),
            daily: Daily::default(),
            residuals: Extremes::new(MEMORY_ROWS),
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
    ///
    /// `time_s` is when the value was taken, in seconds of any epoch that begins a day, if that is known.
    pub fn push(&mut self, time_s: Option<i64>, value: f64) -> Reading {
        if value.is_nan() {
            return Reading::QUIET;
        }
        let mut reading = self.strongest(time_s, value.clamp(-LARGEST, LARGEST));
        if self.rest > 0 {
            self.rest -= 1;
        } else {
            reading.score = reading.strangeness / (1.0 + reading.strangeness);
            if reading.is_alarm() {
                self.rest = REST_ROWS;
            }
        }
        reading
    }

    /// The strongest voice on this value, which is remembered by all.
    fn strongest(&mut self, time_s: Option<i64>, value: f64) -> Reading {
        let (floor, ceiling) = self.level.push(value);
        let distance = self.shapes.push(value);
        let residual = time_s.and_then(|time_s| self.daily.push(time_s, value));
        let mut strongest = Reading::QUIET;
        let mut hear = |voice, extremes: &mut Extremes, warm_up: u32, value: f64, judge: fn(Bounds, f64) -> f64| {
            let bounds = extremes.bounds().filter(|_| extremes.heard() >= warm_up);
            extremes.push(value);
            if let Some(bounds) = bounds {
                let strangeness = judge(bounds, value).clamp(0.0, STRANGEST);
                if strongest.bounds.is_none() || strangeness > strongest.strangeness {
                    strongest = Reading { score: 0.0, strangeness, voice, bounds: Some(bounds) };
                }
            }
        };
        hear(Voice::Value, &mut self.values, WARM_UP_ROWS, value, |bounds, value| bounds.outside(value, MARGIN));
        hear(Voice::Level, &mut self.floors, WARM_UP_ROWS, floor, |bounds, floor| bounds.above(floor, MARGIN));
        hear(Voice::Level, &mut self.ceilings, WARM_UP_ROWS, ceiling, |bounds, ceiling| bounds.below(ceiling, MARGIN));
        if let Some(distance) = distance {
            let warm_up = WARM_UP_ROWS / shape::BLOCK_ROWS as u32;
            hear(Voice::Shape, &mut self.distances, warm_up, distance, from_zero);
        }
        if let Some(residual) = residual {
            hear(Voice::Daily, &mut self.residuals, WARM_UP_ROWS, residual, |bounds, residual| {
                bounds.outside(residual, DAILY_MARGIN)
            });
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
