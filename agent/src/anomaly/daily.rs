//! What the hour of the day leaves unexplained, in a series that the hour of the day explains.
//!
//! Each hour's usual value is a slow mean over days. The difference to it says something only where days are alike, and
//! is told only while the hours explain four fifths of the variance: so a series without days, or with weekends that
//! differ, is left alone. May not judge.

const DAY_S: i64 = 86_400;
const HOURS: usize = 24;
/// Share of the variance that hours must explain. Between 0.7 and 0.9 the result hardly changes.
const EXPLAINED: f64 = 0.8;
/// Weight of the latest day in an hour's usual value: about the last three days count.
const LATEST_DAY: f64 = 0.3;
/// Time over which variances are taken.
const VARIANCE_S: f64 = 2.0 * DAY_S as f64;

/// One hour of the day.
#[derive(Clone, Copy, Debug, Default)]
struct Hour {
    usual: f64,
    days: u32,
}

/// The usual course of a day, and how well it explains a series.
#[derive(Clone, Debug, Default)]
pub struct Daily {
    hours: [Hour; HOURS],
    /// The hour under way, its sum and its rows.
    now: usize,
    sum: f64,
    rows_in_hour: u32,
    last_s: Option<i64>,
    rows: u64,
    mean: f64,
    variance: f64,
    unexplained: f64,
}

impl Daily {
    /// Takes one finite value at a time in seconds, of any epoch that begins a day; how far the value is from what is
    /// usual at this hour, in its own unit, when hours explain the series.
    pub fn push(&mut self, time_s: i64, value: f64) -> Option<f64> {
        let hour = (time_s.rem_euclid(DAY_S) / (DAY_S / HOURS as i64)) as usize;
        if hour != self.now {
            self.close_hour();
            self.now = hour;
        }
        self.sum += value;
        self.rows_in_hour += 1;
        let is_explained = self.unexplained < (1.0 - EXPLAINED) * self.variance;
        let usual = self.hours[hour];
        let residual = (usual.days >= 2).then_some(value - usual.usual);
        self.learn(time_s, value, residual);
        residual.filter(|_| is_explained)
    }

    fn close_hour(&mut self) {
        if self.rows_in_hour > 0 {
            let hour = &mut self.hours[self.now];
            hour.days = hour.days.saturating_add(1);
            let weight = LATEST_DAY.max(1.0 / f64::from(hour.days));
            hour.usual += weight * (self.sum / f64::from(self.rows_in_hour) - hour.usual);
        }
        (self.sum, self.rows_in_hour) = (0.0, 0);
    }

    /// Clocks jump: no row weighs more than its share of a day, and none less than nothing.
    fn learn(&mut self, time_s: i64, value: f64, residual: Option<f64>) {
        let elapsed = self.last_s.replace(time_s).map_or(0, |last| time_s.saturating_sub(last).clamp(0, DAY_S));
        self.rows += 1;
        let weight = (elapsed as f64 / VARIANCE_S).max(1.0 / (self.rows as f64 + 1.0)).min(1.0);
        self.mean += weight * (value - self.mean);
        let deviation = value - self.mean;
        self.variance += weight * (deviation.powi(2) - self.variance);
        self.unexplained += weight * (residual.unwrap_or(deviation).powi(2) - self.unexplained);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten minutes a row, high in the middle third of the day.
    fn at(row: i64, value: impl Fn(i64) -> f64, daily: &mut Daily) -> Option<f64> {
        daily.push(row * 600, value(row * 600))
    }

    fn plateau(time_s: i64) -> f64 {
        if (28_800..57_600).contains(&(time_s % DAY_S)) { 80.0 } else { 20.0 }
    }

    #[test]
    fn a_peak_that_does_not_come_is_a_large_difference() {
        let mut daily = Daily::default();
        let usual = (0..144 * 6).filter_map(|row| at(row, plateau, &mut daily)).fold(0.0, |a: f64, b| a.max(b.abs()));
        assert!(usual < 1.0, "{usual}");
        let missing = (144 * 6..144 * 7).filter_map(|row| at(row, |_| 20.0, &mut daily)).fold(0.0, f64::min);
        assert!(missing < -50.0, "{missing}");
    }

    #[test]
    fn nothing_is_said_about_a_series_without_days() {
        let mut daily = Daily::default();
        let saw = |time_s: i64| ((time_s / 600) % 17) as f64;
        assert!((0..144 * 10).all(|row| at(row, saw, &mut daily).is_none()));
    }

    #[test]
    fn a_clock_that_jumps_does_no_harm() {
        let mut daily = Daily::default();
        for row in 0..2000 {
            let time_s = [i64::MIN, 0, i64::MAX, row, -row][row as usize % 5];
            assert!(daily.push(time_s, row as f64).is_none_or(f64::is_finite));
        }
    }
}
