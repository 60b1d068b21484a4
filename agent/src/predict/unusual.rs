//! Series that are unlike themselves: the anomaly detector on one series, a row a minute.
//!
//! The detector's constants are in rows, so rows come at the pace that they were found for. An anomaly is shown for as
//! long as the detector rests after it: one incident is one anomaly. What is kept over a restart are the rows, which a new
//! detector hears again; so a detector that was improved has learned all that its predecessor knew. Pure.

use crate::anomaly::{Detector, MEMORY_ROWS, REST_ROWS, Reading, Voice};

use super::{Now, Told, words};

/// One row, milliseconds.
pub const ROW_MS: u64 = 60_000;

/// One series, remembered.
#[derive(Debug)]
pub struct Unusual {
    detector: Detector,
    /// The rows heard last, the oldest first from `next` on; not-a-number where there was none.
    rows: Vec<f32>,
    next: usize,
    /// Number of the row under way.
    row: Option<u64>,
    sum: f64,
    count: u32,
    heard: u64,
    told: Option<Told>,
    until_row: u64,
}

impl Default for Unusual {
    fn default() -> Self {
        Self {
            detector: Detector::new(),
            rows: Vec::new(),
            next: 0,
            row: None,
            sum: 0.0,
            count: 0,
            heard: 0,
            told: None,
            until_row: 0,
        }
    }
}

impl Unusual {
    /// Takes a value; true when what is told changed.
    pub fn take(&mut self, series: &str, value: f64, now: &Now) -> bool {
        if !value.is_finite() {
            return false;
        }
        let row = now.clock_ms / ROW_MS;
        let mut changed = false;
        if let Some(before) = self.row.filter(|before| row > *before) {
            changed = self.close(series, before, row, now);
            (self.sum, self.count) = (0.0, 0);
        }
        self.row = Some(self.row.map_or(row, |before| before.max(row)));
        self.sum += value;
        self.count += 1;
        changed
    }

    /// Hears the row that ended, and those without values behind it.
    fn close(&mut self, series: &str, before: u64, row: u64, now: &Now) -> bool {
        let mean = self.sum / f64::from(self.count.max(1));
        let behind_ms = i64::try_from((row - before) * ROW_MS).unwrap_or(i64::MAX);
        let reading = self.hear(mean, now.wall_ms.saturating_sub(behind_ms));
        for _ in before + 1..row.min(before + 1 + u64::from(MEMORY_ROWS)) {
            self.remember(f32::NAN);
        }
        if reading.is_alarm() {
            self.until_row = row + u64::from(REST_ROWS);
            self.told = Some(self.state(series, mean, &reading, now));
            return true;
        }
        // A minute past its end, so that it does not go and come back when the next follows at once.
        row > self.until_row && self.told.take().is_some()
    }

    fn hear(&mut self, value: f64, wall_ms: i64) -> Reading {
        self.remember(value as f32);
        self.heard = self.heard.saturating_add(1);
        self.detector.push(Some(wall_ms.div_euclid(1000)), value)
    }

    fn remember(&mut self, value: f32) {
        if self.rows.len() < MEMORY_ROWS as usize {
            self.rows.push(value);
        } else {
            self.rows[self.next] = value;
        }
        self.next = (self.next + 1) % MEMORY_ROWS as usize;
    }

    fn state(&self, series: &str, value: f64, reading: &Reading, now: &Now) -> Told {
        let figure = |value: f64| words::figure(series, value);
        let rows = self.heard.min(u64::from(MEMORY_ROWS));
        let known = words::time(rows * ROW_MS);
        let mut evidence = vec![format!("{} over the last minute", figure(value))];
        if let Some(bounds) = reading.bounds {
            evidence.push(match reading.voice {
                Voice::Value => {
                    format!("between {} and {} in the {known} before", figure(bounds.low), figure(bounds.high))
                }
                Voice::Level => "a level that holds, and never held before".to_owned(),
                Voice::Shape => "a course unlike all that are remembered".to_owned(),
                Voice::Daily => "unlike what is usual at this hour of the day".to_owned(),
            });
        }
        let strangeness =
            if reading.strangeness >= 1e3 { "more than 1000".into() } else { format!("{:.2}", reading.strangeness) };
        evidence.push(format!("{strangeness} times as far out as it takes to be told"));
        Told {
            made_ms: now.wall_ms,
            expected_ms: None,
            earliest_ms: None,
            latest_ms: None,
            method: match reading.voice {
                Voice::Value => "record of the value",
                Voice::Level => "record of the level",
                Voice::Shape => "record of the shape",
                Voice::Daily => "record for the hour of the day",
            }
            .to_owned(),
            evidence,
            from_ms: now.wall_ms.saturating_sub_unsigned(rows * ROW_MS),
            to_ms: now.wall_ms,
            samples: rows,
        }
    }

    /// What is told now.
    pub fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    /// Withdraws what is told; true when there was something.
    pub fn withdraw(&mut self) -> bool {
        self.told.take().is_some()
    }

    /// When the series was last read, milliseconds of the predictor's clock.
    pub fn read_ms(&self) -> u64 {
        self.row.unwrap_or(0) * ROW_MS
    }

    /// The rows heard last, the oldest first; the last of them ended at [`Unusual::read_ms`].
    pub fn rows(&self) -> impl Iterator<Item = f32> {
        let from = if self.rows.len() < MEMORY_ROWS as usize { 0 } else { self.next };
        self.rows[from..].iter().chain(&self.rows[..from]).copied()
    }

    /// A detector that has heard these rows, of which the last one ended at `read_ms` of the predictor's clock.
    pub fn resume(rows: &[f32], read_ms: u64, now: &Now) -> Self {
        let mut unusual = Self::default();
        let rows = &rows[rows.len().saturating_sub(MEMORY_ROWS as usize)..];
        let passed = now.clock_ms.saturating_sub(read_ms);
        let ended = now.wall_ms.saturating_sub_unsigned(passed);
        for (behind, value) in (1..=rows.len() as u64).rev().zip(rows) {
            if value.is_finite() {
                unusual.hear(f64::from(*value), ended.saturating_sub_unsigned(behind * ROW_MS));
            } else {
                unusual.remember(f32::NAN);
            }
        }
        for _ in 0..(passed / ROW_MS).min(u64::from(MEMORY_ROWS)) {
            unusual.remember(f32::NAN);
        }
        unusual
    }

    /// Bytes of state, at most.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() - size_of::<Detector>() + self.detector.bytes() + MEMORY_ROWS as usize * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(row: u64) -> Now {
        Now { clock_ms: row * ROW_MS, wall_ms: 1_700_000_000_000 + (row * ROW_MS) as i64 }
    }

    fn usual(row: u64) -> f64 {
        (row % 7) as f64 / 7.0
    }

    fn play(unusual: &mut Unusual, rows: std::ops::Range<u64>, value: impl Fn(u64) -> f64) -> Vec<(u64, bool)> {
        rows.filter_map(|row| {
            let changed = unusual.take("load.one", value(row), &at(row));
            changed.then_some((row, unusual.told().is_some()))
        })
        .collect()
    }

    #[test]
    fn one_incident_is_one_anomaly_and_ends_with_the_rest() {
        let mut unusual = Unusual::default();
        assert!(play(&mut unusual, 0..1500, usual).is_empty());
        let changes = play(&mut unusual, 1500..1520, |_| 9.0);
        assert_eq!(changes, [(1501, true)]);
        let told = unusual.told().unwrap();
        assert!(told.method.contains("value") && told.evidence[1].contains("between 0"), "{told:?}");
        let ended = play(&mut unusual, 1520..1700, usual);
        assert_eq!(ended, [(1502 + u64::from(REST_ROWS), false)]);
    }

    #[test]
    fn a_detector_that_hears_its_rows_again_knows_what_it_knew() {
        let mut unusual = Unusual::default();
        play(&mut unusual, 0..6000, usual);
        let rows: Vec<f32> = unusual.rows().collect();
        assert_eq!(rows.len(), MEMORY_ROWS as usize);
        let mut again = Unusual::resume(&rows, unusual.read_ms(), &at(6003));
        assert_eq!(again.rows().filter(|row| row.is_nan()).count(), 4);
        assert_eq!(play(&mut again, 6003..6010, |_| 0.5), []);
        assert_eq!(play(&mut again, 6010..6015, |_| 9.0), [(6011, true)]);
    }

    #[test]
    fn state_is_bounded_whatever_the_clock_does() {
        let mut unusual = Unusual::default();
        for row in [0, 5, 3, u64::MAX / ROW_MS, 7, 100] {
            unusual.take("x", 1.0, &Now { clock_ms: row * ROW_MS, wall_ms: i64::MIN });
        }
        assert!(unusual.rows.len() <= MEMORY_ROWS as usize);
        assert!(unusual.bytes() <= 64 << 10, "{}", unusual.bytes());
    }
}
