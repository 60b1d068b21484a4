//! Times at which a playbook starts: five fields of cron by the clock of a zone.
//!
//! A time that the clocks skip in spring fires right after the gap; one that comes twice in autumn fires once.

use std::str::FromStr;

use cron::Cron;
use evergreen_api::resources::ScheduleTrigger;
use jiff::{Timestamp, tz::TimeZone};

/// A schedule that is understood.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// A schedule that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The cron text is none.
    #[error("`{0}` is no schedule of five fields: {1}")]
    Cron(String, String),
    /// The zone is none.
    #[error("`{0}` is no known time zone; write it as in Asia/Shanghai")]
    Zone(String),
}

impl Schedule {
    /// Understands a schedule.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn new(trigger: &ScheduleTrigger) -> Result<Self, ScheduleError> {
        Self::of(&trigger.cron, &trigger.time_zone)
    }

    /// Understands a cron text in a zone.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn of(cron: &str, zone: &str) -> Result<Self, ScheduleError> {
        let wrong = |why: String| ScheduleError::Cron(cron.to_owned(), why);
        if cron.split_whitespace().count() != 5 {
            return Err(wrong("it must have five fields".to_owned()));
        }
        let parsed = Cron::from_str(cron).map_err(|error| wrong(error.to_string()))?;
        let zone = TimeZone::get(zone).map_err(|_| ScheduleError::Zone(zone.to_owned()))?;
        Ok(Self { cron: parsed, zone })
    }

    /// The last time at or before a moment.
    pub fn last(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.clone());
        self.cron.find_previous_occurrence(&now, true).ok().map(|at| at.timestamp())
    }

    /// The first time after a moment.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&now, false).ok().map(|at| at.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_by_the_clock_of_its_zone() {
        let schedule = Schedule::of("0 3 * * 1", "Asia/Shanghai").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        // Monday, 03:00 in Shanghai is Sunday, 19:00 UTC.
        assert_eq!(schedule.next(at("2026-11-21T00:00:00Z")), Some(at("2026-11-22T19:00:00Z")));
        assert_eq!(schedule.last(at("2026-11-22T19:00:00Z")), Some(at("2026-11-22T19:00:00Z")));
        assert!(Schedule::of("0 3 * *", "Asia/Shanghai").is_err());
        assert!(Schedule::of("0 3 * * 1", "Asia/Peking").is_err());
    }
}
