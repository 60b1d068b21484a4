//! What a sensor at the wall teaches, for the time when it is gone: wall power as a line over what the parts take, and
//! wall power over the load.

use serde::{Deserialize, Serialize};

/// Meters are not read at the same moment, and one of a controller is late by seconds: what is compared is the mean over
/// this long, milliseconds.
const MEAN_OVER_MS: u64 = 10_000;
/// Weight that such a mean keeps for the next one: half is gone after about two hours.
const MEMORY: f64 = 0.999;
/// Means before anything is believed: ten minutes.
const ENOUGH: f64 = 58.0;
/// A supply that loses more is broken, watts at the wall a watt of the parts.
const STEEPEST: f64 = 1.6;
/// Variance of the parts' power, relative to its square, before a slope is believed: a deviation of 3 %.
const MIN_SPREAD: f64 = 0.0009;
/// Loads that are kept apart: 0 to 10 %, ... 90 to 100 %.
const BINS: usize = 10;
/// Means before a bin is believed.
const ENOUGH_IN_BIN: f64 = 5.5;

/// Everything that a meter at the wall teaches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lessons {
    /// Wall power over the power of the parts.
    pub wall: WallLine,
    /// Wall power over the load.
    pub load: LoadCurve,
    #[serde(skip)]
    mean: Mean,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Mean {
    milliseconds: u64,
    parts: u64,
    whole: u64,
    load: f64,
    without_parts: bool,
}

impl Lessons {
    /// Takes an interval in which the wall was metered: energy of the whole machine and of its processors and memory (0
    /// where they have no meter), both without accelerators, in microjoules.
    pub fn learn(&mut self, milliseconds: u64, whole: u64, parts: u64, load: f64, teacher: &str) {
        let mean = &mut self.mean;
        mean.milliseconds = mean.milliseconds.saturating_add(milliseconds);
        mean.whole = mean.whole.saturating_add(whole);
        mean.parts = mean.parts.saturating_add(parts);
        mean.load += load * milliseconds as f64;
        mean.without_parts |= parts == 0;
        if mean.milliseconds < MEAN_OVER_MS {
            return;
        }
        let mean = std::mem::take(mean);
        let watts = |microjoules: u64| microjoules as f64 / mean.milliseconds as f64 / 1_000.0;
        if !mean.without_parts {
            self.wall.learn(watts(mean.parts), watts(mean.whole), teacher);
        }
        self.load.learn((mean.load / mean.milliseconds as f64).clamp(0.0, 1.0), watts(mean.whole), teacher);
    }
}

/// Wall power over the power of processor and memory: what supplies, fans, disks and board add.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WallLine {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
    /// Which sensor taught it.
    pub teacher: String,
}

/// A straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Watts that are always there.
    pub base_watts: f64,
    /// Watts at the wall a watt of the parts.
    pub slope: f64,
    /// Root mean square of what it misses, watts.
    pub error_watts: f64,
}

impl Line {
    /// Watts at the wall.
    pub fn watts(&self, parts_watts: f64) -> f64 {
        (self.base_watts + self.slope * parts_watts).max(parts_watts)
    }
}

impl WallLine {
    /// Takes a moment in which both were metered, watts.
    pub fn learn(&mut self, parts_watts: f64, wall_watts: f64, teacher: &str) {
        if !(parts_watts.is_finite() && wall_watts.is_finite() && wall_watts > 0.0) {
            return;
        }
        if self.teacher != teacher {
            *self = Self { teacher: teacher.to_owned(), ..Self::default() };
        }
        let (x, y) = (parts_watts, wall_watts);
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
            (&mut self.yy, y * y),
        ] {
            *sum = *sum * MEMORY + value;
        }
    }

    /// The line, once enough was seen.
    pub fn line(&self) -> Option<Line> {
        let n = self.weight;
        if n < ENOUGH {
            return None;
        }
        let (x, y) = (self.x / n, self.y / n);
        let (variance, covariance) = (self.xx / n - x * x, self.xy / n - x * y);
        // With a load that never changed only the distance is known.
        let slope = if variance > MIN_SPREAD * x * x { (covariance / variance).clamp(1.0, STEEPEST) } else { 1.0 };
        let base = y - slope * x;
        if base < 0.0 {
            return None;
        }
        let missed = self.yy / n - y * y - 2.0 * slope * covariance + slope * slope * variance;
        Some(Line { base_watts: base, slope, error_watts: missed.max(0.0).sqrt() })
    }
}

/// Wall power over the load, where a sensor showed it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadCurve {
    bins: [Bin; BINS],
    /// Which sensor taught it.
    pub teacher: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bin {
    weight: f64,
    load: f64,
    watts: f64,
}

impl LoadCurve {
    /// Takes a moment in which the wall was metered.
    pub fn learn(&mut self, load: f64, watts: f64, teacher: &str) {
        if !((0.0..=1.0).contains(&load) && watts.is_finite() && watts > 0.0) {
            return;
        }
        if self.teacher != teacher {
            *self = Self { teacher: teacher.to_owned(), ..Self::default() };
        }
        let bin = &mut self.bins[((load * BINS as f64) as usize).min(BINS - 1)];
        for (sum, value) in [(&mut bin.weight, 1.0), (&mut bin.load, load), (&mut bin.watts, watts)] {
            *sum = *sum * MEMORY + value;
        }
    }

    /// Mean load and watts of the bins that were seen enough, lowest load first.
    pub fn points(&self) -> Vec<(f64, f64)> {
        let seen = self.bins.iter().filter(|bin| bin.weight >= ENOUGH_IN_BIN);
        seen.map(|bin| (bin.load / bin.weight, bin.watts / bin.weight)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_power_is_learned_as_a_line_over_the_parts() {
        let mut line = WallLine::default();
        for n in 0..120 {
            assert_eq!(line.line().is_some(), n >= 60, "believed after ten minutes: {n}");
            let parts = 50.0 + f64::from(n % 100);
            line.learn(parts, 40.0 + 1.12 * parts, "ipmi-dcmi");
        }
        let line = line.line().unwrap();
        assert!((line.base_watts - 40.0).abs() < 0.1 && (line.slope - 1.12).abs() < 0.01, "{line:?}");
        assert!(line.error_watts < 0.1);
    }

    #[test]
    fn a_load_that_never_changed_teaches_the_distance_only() {
        let mut line = WallLine::default();
        (0..1_000).for_each(|_| line.learn(60.0, 110.0, "ipmi-dcmi"));
        let line = line.line().unwrap();
        assert_eq!((line.slope, line.base_watts.round()), (1.0, 50.0));
    }

    #[test]
    fn another_teacher_begins_anew_and_a_wall_below_its_parts_teaches_nothing() {
        let mut line = WallLine::default();
        (0..1_000).for_each(|_| line.learn(60.0, 40.0, "ipmi-dcmi"));
        assert_eq!(line.line(), None);
        line.learn(60.0, 100.0, "acpi-power-meter");
        assert_eq!((line.weight, line.teacher.as_str()), (1.0, "acpi-power-meter"));
    }

    #[test]
    fn a_meter_that_is_late_by_a_second_teaches_the_same() {
        let mut lessons = Lessons::default();
        let parts = |n: u64| (40 + (n % 80).abs_diff(40)) * 1_000_000;
        for n in 1..2_000 {
            lessons.learn(1_000, 40_000_000 + parts(n - 1) * 11 / 10, parts(n), 0.5, "ipmi-dcmi");
        }
        let line = lessons.wall.line().unwrap();
        assert!((line.base_watts - 40.0).abs() < 4.0 && (line.slope - 1.1).abs() < 0.06, "{line:?}");
    }

    #[test]
    fn bins_are_believed_when_they_were_seen_enough() {
        let mut curve = LoadCurve::default();
        (0..7).for_each(|_| curve.learn(0.05, 100.0, "ipmi-dcmi"));
        curve.learn(0.95, 300.0, "ipmi-dcmi");
        curve.learn(f64::NAN, 300.0, "ipmi-dcmi");
        let points = curve.points();
        assert_eq!(points.len(), 1);
        assert!((points[0].0 - 0.05).abs() < 1e-9 && (points[0].1 - 100.0).abs() < 1e-6);
    }
}
