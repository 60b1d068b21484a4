//! When a scheduled report is made and what it covers. Pure: now is given.
//!
//! Five fields of cron in a time zone, days of the week 0 or 7 for Sunday. A time that the clocks skip in spring fires
//! right after the gap; one that comes twice in autumn fires once. Runs that were missed (nobody led, the plane was away)
//! are caught up once: only the newest of them is made.

use std::str::FromStr;

use cron::Cron;
use evergreen_api::resources::{ReportPeriod, ReportSchedule};
use jiff::{Timestamp, ToSpan, Zoned, civil::Weekday, tz::TimeZone};

/// Missed runs that are counted; beyond it "many" is enough.
const MOST_MISSED: usize = 100;

/// A schedule that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// The cron text is none.
    #[error("`{cron}` is no cron schedule of five fields, as in `0 6 1 * *`: {why}")]
    Cron {
        /// The text.
        cron: String,
        /// What is wrong.
        why: String,
    },
    /// The zone is none.
    #[error("`{0}` is no known time zone; write it as in Asia/Shanghai")]
    Zone(String),
    /// It never fires.
    #[error("`{0}` never fires")]
    Never(String),
}

/// A schedule that is understood.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    text: String,
    zone: TimeZone,
    covers: ReportPeriod,
}

/// A run that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Time of the schedule.
    pub at: Timestamp,
    /// Start of what it covers.
    pub from: Timestamp,
    /// End of what it covers.
    pub to: Timestamp,
    /// Older runs that are not made any more.
    pub missed: usize,
}

impl Schedule {
    /// Understands a schedule.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn new(spec: &ReportSchedule) -> Result<Self, ScheduleError> {
        let wrong = |why: String| ScheduleError::Cron { cron: spec.cron.clone(), why };
        if spec.cron.split_whitespace().count() != 5 {
            return Err(wrong("it must have five fields".to_owned()));
        }
        let cron = Cron::from_str(&spec.cron).map_err(|error| wrong(error.to_string()))?;
        let zone = TimeZone::get(&spec.time_zone).map_err(|_| ScheduleError::Zone(spec.time_zone.clone()))?;
        Ok(Self { cron, text: spec.cron.clone(), zone, covers: spec.covers })
    }

    /// First time after `now`.
    ///
    /// # Errors
    /// When there is none.
    pub fn next(&self, now: Timestamp) -> Result<Timestamp, ScheduleError> {
        let now = now.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&now, false);
        next.map(|next| next.timestamp()).map_err(|_| ScheduleError::Never(self.text.clone()))
    }

    /// The newest run that is due at `now`: none when it was made already. Without a `last` run only one that came after
    /// the report was created is due.
    pub fn due(&self, last: Option<Timestamp>, created: Timestamp, now: Timestamp) -> Option<Due> {
        let since = last.unwrap_or(created);
        let newest = self.cron.find_previous_occurrence(&now.to_zoned(self.zone.clone()), true).ok()?;
        if newest.timestamp() <= since {
            return None;
        }
        let mut missed = 0;
        let mut at = newest.clone();
        while missed < MOST_MISSED {
            match self.cron.find_previous_occurrence(&at, false) {
                Ok(earlier) if earlier.timestamp() > since => {
                    missed += 1;
                    at = earlier;
                }
                _ => break,
            }
        }
        let (from, to) = covered(self.covers, &newest)?;
        Some(Due { at: newest.timestamp(), from, to, missed })
    }
}

/// The last whole period before a moment.
fn covered(period: ReportPeriod, at: &Zoned) -> Option<(Timestamp, Timestamp)> {
    let today = at.date();
    let (from, to) = match period {
        ReportPeriod::Day => (today.checked_sub(1.day()).ok()?, today),
        ReportPeriod::Week => {
            let monday = today.checked_sub(i64::from(today.weekday().since(Weekday::Monday)).days()).ok()?;
            (monday.checked_sub(7.days()).ok()?, monday)
        }
        ReportPeriod::Month => {
            let first = today.first_of_month();
            (first.checked_sub(1.month()).ok()?, first)
        }
        ReportPeriod::Quarter => {
            let month = (today.month() - 1) / 3 * 3 + 1;
            let first = jiff::civil::Date::new(today.year(), month, 1).ok()?;
            (first.checked_sub(3.months()).ok()?, first)
        }
        ReportPeriod::Year => {
            let first = today.first_of_year();
            (first.checked_sub(1.year()).ok()?, first)
        }
    };
    let start = |date: jiff::civil::Date| date.to_zoned(at.time_zone().clone()).ok().map(|z| z.timestamp());
    Some((start(from)?, start(to)?))
}

/// The period before `[from, to)` to compare with: the calendar's, where the period is whole days, months or years of the
/// zone, else one of the same length.
pub fn before(from: Timestamp, to: Timestamp, zone: &str) -> (Timestamp, Timestamp) {
    let same_length = || (from.checked_sub(to.duration_since(from)).unwrap_or(Timestamp::MIN), from);
    let Ok(tz) = TimeZone::get(zone) else { return same_length() };
    let (a, b) = (from.to_zoned(tz.clone()), to.to_zoned(tz.clone()));
    let midnight = |z: &Zoned| z.start_of_day().is_ok_and(|start| start == *z);
    if !midnight(&a) || !midnight(&b) {
        return same_length();
    }
    let (first, last) = (a.date(), b.date());
    let months = i64::from(last.year() - first.year()) * 12 + i64::from(last.month()) - i64::from(first.month());
    let earlier = if first.day() == 1 && last.day() == 1 && months > 0 {
        first.checked_sub(months.months())
    } else {
        let days = i64::from(first.until(last).map_or(0, |span| span.get_days()));
        first.checked_sub(days.days())
    };
    let start = earlier.ok().and_then(|date| date.to_zoned(tz).ok());
    start.map_or_else(same_length, |start| (start.timestamp(), from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, zone: &str, covers: ReportPeriod) -> Schedule {
        Schedule::new(&ReportSchedule { cron: cron.into(), time_zone: zone.into(), covers }).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_month_is_local_also_over_a_change_of_the_clocks() {
        let monthly = schedule("0 6 1 * *", "Europe/Berlin", ReportPeriod::Month);
        let due = monthly.due(None, at("2026-03-15T00:00:00Z"), at("2026-04-01T04:00:00Z")).unwrap();
        assert_eq!(due.at, at("2026-04-01T04:00:00Z"));
        assert_eq!((due.from, due.to), (at("2026-02-28T23:00:00Z"), at("2026-03-31T22:00:00Z")));
        assert_eq!(due.missed, 0);
    }

    #[test]
    fn a_skipped_hour_fires_once_and_a_doubled_hour_fires_once() {
        let nightly = schedule("30 2 * * *", "Europe/Berlin", ReportPeriod::Day);
        // 2026-03-29 02:00 -> 03:00: 02:30 is not there.
        let spring = nightly.next(at("2026-03-28T12:00:00Z")).unwrap();
        assert!((at("2026-03-29T00:59:00Z")..=at("2026-03-29T01:30:00Z")).contains(&spring), "{spring}");
        assert_eq!(nightly.next(spring).unwrap(), at("2026-03-30T00:30:00Z"));
        // 2026-10-25 03:00 -> 02:00: 02:30 is there twice.
        let autumn = nightly.next(at("2026-10-24T12:00:00Z")).unwrap();
        assert_eq!(autumn, at("2026-10-25T00:30:00Z"));
        assert_eq!(nightly.next(autumn).unwrap(), at("2026-10-26T01:30:00Z"));
    }

    #[test]
    fn missed_runs_are_caught_up_once_with_the_newest() {
        let daily = schedule("0 1 * * *", "Asia/Shanghai", ReportPeriod::Day);
        let due = daily.due(Some(at("2026-01-01T17:00:00Z")), at("2025-01-01T00:00:00Z"), at("2026-01-06T00:00:00Z"));
        let due = due.unwrap();
        assert_eq!((due.at, due.missed), (at("2026-01-05T17:00:00Z"), 3));
        assert_eq!((due.from, due.to), (at("2026-01-04T16:00:00Z"), at("2026-01-05T16:00:00Z")));
        assert_eq!(daily.due(Some(due.at), at("2025-01-01T00:00:00Z"), at("2026-01-06T00:00:00Z")), None);
        let ages = daily.due(Some(at("2000-01-01T00:00:00Z")), at("2000-01-01T00:00:00Z"), at("2026-01-06T00:00:00Z"));
        assert_eq!(ages.unwrap().missed, MOST_MISSED, "counting is bounded");
        assert_eq!(
            daily.due(None, at("2026-01-06T00:00:00Z"), at("2026-01-06T00:00:00Z")),
            None,
            "not before its time"
        );
    }

    #[test]
    fn weeks_quarters_and_years_are_whole() {
        let period = |covers| {
            let due =
                schedule("0 0 * * *", "UTC", covers).due(None, at("2026-05-13T00:00:00Z"), at("2026-05-14T08:00:00Z"));
            let due = due.unwrap();
            (due.from.to_string(), due.to.to_string())
        };
        assert_eq!(period(ReportPeriod::Week), ("2026-05-04T00:00:00Z".into(), "2026-05-11T00:00:00Z".into()));
        assert_eq!(period(ReportPeriod::Quarter), ("2026-01-01T00:00:00Z".into(), "2026-04-01T00:00:00Z".into()));
        assert_eq!(period(ReportPeriod::Year), ("2025-01-01T00:00:00Z".into(), "2026-01-01T00:00:00Z".into()));
    }

    #[test]
    fn the_period_before_a_month_is_a_month() {
        let (from, to) = before(at("2026-03-01T00:00:00Z"), at("2026-04-01T00:00:00Z"), "UTC");
        assert_eq!((from, to), (at("2026-02-01T00:00:00Z"), at("2026-03-01T00:00:00Z")));
        let (from, _) = before(at("2026-03-02T00:00:00Z"), at("2026-03-04T00:00:00Z"), "UTC");
        assert_eq!(from, at("2026-02-28T00:00:00Z"));
        let (from, _) = before(at("2026-03-02T01:00:00Z"), at("2026-03-02T02:00:00Z"), "UTC");
        assert_eq!(from, at("2026-03-02T00:00:00Z"));
    }

    #[test]
    fn a_wrong_schedule_says_what_is_wrong() {
        let wrong = |cron: &str, zone: &str| {
            let spec = ReportSchedule { cron: cron.into(), time_zone: zone.into(), covers: ReportPeriod::Day };
            Schedule::new(&spec).unwrap_err().to_string()
        };
        assert!(wrong("0 6 32 * *", "UTC").contains("0 6 32 * *"));
        assert!(wrong("0 0 6 1 * *", "UTC").contains("five fields"));
        assert!(wrong("0 6 1 * *", "Moon/Base").contains("Asia/Shanghai"));
    }
}
