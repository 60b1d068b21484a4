//! The local days of a period in a time zone. A day that the clocks change on has 23 or 25 hours; the first and the last
//! day may be parts of days.

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

/// Longest period: ten years.
const MOST_DAYS: usize = 3_660;

/// A period that has no days.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeriodError {
    /// The end is not after the start.
    #[error("the period ends at {to}, which is not after its start {from}")]
    Backwards {
        /// Start.
        from: Timestamp,
        /// End.
        to: Timestamp,
    },
    /// The zone is none.
    #[error("`{0}` is no known time zone; write it as in Asia/Shanghai, Europe/Berlin or UTC")]
    Zone(String),
    /// It is too long.
    #[error("the period has more than {MOST_DAYS} days; report it in parts")]
    TooLong,
}

/// The days of `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Days {
    from_ms: i64,
    to_ms: i64,
    zone: String,
    starts_ms: Vec<i64>,
    dates: Vec<Date>,
}

impl Days {
    /// The days of `[from, to)` in a zone.
    ///
    /// # Errors
    /// [`PeriodError`].
    pub fn new(from: Timestamp, to: Timestamp, zone: &str) -> Result<Self, PeriodError> {
        if from >= to {
            return Err(PeriodError::Backwards { from, to });
        }
        let tz = TimeZone::get(zone).map_err(|_| PeriodError::Zone(zone.to_owned()))?;
        let mut date = from.to_zoned(tz.clone()).date();
        let (mut starts_ms, mut dates) = (vec![from.as_millisecond()], vec![date]);
        loop {
            date = date.checked_add(1.day()).map_err(|_| PeriodError::TooLong)?;
            let start = date.to_zoned(tz.clone()).map_err(|_| PeriodError::TooLong)?.timestamp();
            if start >= to {
                break;
            }
            if dates.len() >= MOST_DAYS {
                return Err(PeriodError::TooLong);
            }
            starts_ms.push(start.as_millisecond());
            dates.push(date);
        }
        let (from_ms, to_ms) = (from.as_millisecond(), to.as_millisecond());
        Ok(Self { from_ms, to_ms, zone: zone.to_owned(), starts_ms, dates })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.dates.len()
    }

    /// Whether there are none; never.
    pub fn is_empty(&self) -> bool {
        self.dates.is_empty()
    }

    /// Their dates.
    pub fn dates(&self) -> &[Date] {
        &self.dates
    }

    /// The zone's name.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// Start of the period, Unix milliseconds.
    pub fn from_ms(&self) -> i64 {
        self.from_ms
    }

    /// End of the period, not included, Unix milliseconds.
    pub fn to_ms(&self) -> i64 {
        self.to_ms
    }

    /// Start of each day, Unix milliseconds.
    pub fn starts_ms(&self) -> &[i64] {
        &self.starts_ms
    }

    /// The day that a moment of the period is in.
    pub fn index(&self, time_ms: i64) -> usize {
        self.starts_ms.partition_point(|start| *start <= time_ms).saturating_sub(1)
    }

    /// The days of `[from, to)` as indices, as far as they are in the period; whether all of it is.
    pub fn range(&self, from: Date, to: Date) -> (std::ops::Range<usize>, bool) {
        let first = self.dates.partition_point(|date| *date < from);
        let last = self.dates.partition_point(|date| *date < to);
        let whole = self.dates.first().is_some_and(|date| *date <= from)
            && self.dates.last().is_some_and(|date| to <= date.saturating_add(1.day()));
        (first..last.max(first), whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(from: &str, to: &str, zone: &str) -> Days {
        Days::new(from.parse().unwrap(), to.parse().unwrap(), zone).unwrap()
    }

    #[test]
    fn days_are_local_and_the_clocks_may_change() {
        let march = days("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", "Europe/Berlin");
        assert_eq!((march.len(), march.dates()[0].to_string()), (31, "2026-03-01".to_owned()));
        let hours = |index: usize| (march.starts_ms()[index + 1] - march.starts_ms()[index]) / 3_600_000;
        assert_eq!((hours(27), hours(28), hours(29)), (24, 23, 24));
        assert_eq!(march.index(march.starts_ms()[28]), 28);
        assert_eq!(march.index(march.starts_ms()[28] - 1), 27);
    }

    #[test]
    fn a_period_backwards_and_an_unknown_zone_are_refused() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (a, b) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
        assert!(matches!(Days::new(b, a, "UTC"), Err(PeriodError::Backwards { .. })));
        assert_eq!(Days::new(a, b, "Moon/Base"), Err(PeriodError::Zone("Moon/Base".into())));
    }

    #[test]
    fn a_range_tells_whether_it_lies_within() {
        let days = days("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "UTC");
        let date = |text: &str| text.parse::<Date>().unwrap();
        assert_eq!(days.range(date("2026-01-10"), date("2026-01-12")), (9..11, true));
        assert_eq!(days.range(date("2025-12-01"), date("2026-01-03")), (0..2, false));
        assert_eq!(days.range(date("2026-01-01"), date("2026-02-01")), (0..31, true));
    }
}
