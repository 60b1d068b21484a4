//! ChangeWindows: when nothing may be changed. Pure: now is given.
//!
//! A freeze is a span between two moments, or comes again: it begins at the times of a cron in a zone and lasts. A window
//! may be narrowed to workdays or to days off by the calendar that it carries: weekends, holidays, and the weekend days
//! that are worked instead (调休).

use evergreen_api::{
    FieldError,
    resources::{ChangeWindowSpec, DayKind, Freeze},
};
use jiff::{SignedDuration, Timestamp, civil::Date, civil::Weekday, tz::TimeZone};

use crate::{planner::later, schedule::Schedule};

/// A ChangeWindow that was understood.
#[derive(Clone, Debug)]
pub struct Window {
    name: String,
    spec: ChangeWindowSpec,
    zone: TimeZone,
    holidays: Vec<Date>,
    workdays: Vec<Date>,
    freezes: Vec<Span>,
}

#[derive(Clone, Debug)]
enum Span {
    Between(Timestamp, Timestamp),
    Again { schedule: Schedule, lasts: std::time::Duration, days: Option<DayKind> },
}

/// A freeze that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// Why, for people.
    pub why: String,
    /// When it ends.
    pub until: Timestamp,
}

/// Longest freeze that comes again: a longer one is a span between two moments.
const MAX_LASTS_SECONDS: u64 = 31 * 86_400;
/// Most freezes, and days of a calendar, in one window.
const MAX_ENTRIES: usize = 400;

impl Window {
    /// Checks and understands.
    ///
    /// # Errors
    /// Everything that is wrong with the spec.
    pub fn new(name: impl Into<String>, spec: ChangeWindowSpec) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let zone = TimeZone::get(&spec.time_zone).unwrap_or_else(|_| {
            let message = format!("`{}` is no known time zone; write it as in Asia/Shanghai", spec.time_zone);
            errors.push(FieldError::new("spec.timeZone", message));
            TimeZone::UTC
        });
        if spec.freezes.is_empty() {
            errors.push(FieldError::new("spec.freezes", "name at least one freeze"));
        }
        for (path, count) in [
            ("spec.freezes", spec.freezes.len()),
            ("spec.calendar.holidays", spec.calendar.holidays.len()),
            ("spec.calendar.workdays", spec.calendar.workdays.len()),
        ] {
            if count > MAX_ENTRIES {
                errors.push(FieldError::new(path, format!("{count} entries are too many: at most {MAX_ENTRIES}")));
            }
        }
        let holidays = dates("spec.calendar.holidays", &spec.calendar.holidays, &mut errors);
        let workdays = dates("spec.calendar.workdays", &spec.calendar.workdays, &mut errors);
        let freezes: Vec<Span> = spec
            .freezes
            .iter()
            .enumerate()
            .filter_map(|(index, freeze)| {
                Span::of(freeze, &spec.time_zone)
                    .map_err(|(field, why)| errors.push(FieldError::new(format!("spec.freezes[{index}]{field}"), why)))
                    .ok()
            })
            .collect();
        if errors.is_empty() {
            Ok(Self { name: name.into(), spec, zone, holidays, workdays, freezes })
        } else {
            Err(errors)
        }
    }

    /// The freeze that holds now for a playbook, the one that ends last.
    pub fn frozen(&self, playbook: &str, now: Timestamp) -> Option<Frozen> {
        if !self.spec.playbooks.is_empty() && !self.spec.playbooks.iter().any(|name| name == playbook) {
            return None;
        }
        let until = self.freezes.iter().filter_map(|freeze| self.until(freeze, now)).max()?;
        Some(Frozen { why: format!("change freeze {}: {} (until {until})", self.name, self.spec.summary), until })
    }

    fn until(&self, freeze: &Span, now: Timestamp) -> Option<Timestamp> {
        match freeze {
            Span::Between(from, to) => (*from <= now && now < *to).then_some(*to),
            Span::Again { schedule, lasts, days } => {
                // A freeze that began longer ago than it lasts is over; several may overlap.
                let mut at = schedule.last(now)?;
                let mut until = None;
                for _ in 0..MAX_ENTRIES {
                    let end = later(at, *lasts);
                    if end <= now {
                        break;
                    }
                    if days.is_none_or(|kind| self.day_kind(at) == kind) {
                        until = until.max(Some(end));
                    }
                    at = schedule.last(at.checked_sub(SignedDuration::from_secs(1)).ok()?)?;
                }
                until
            }
        }
    }

    /// Whether a day is worked: the calendar's own days first, then the week.
    fn day_kind(&self, at: Timestamp) -> DayKind {
        let date = at.to_zoned(self.zone.clone()).date();
        if self.workdays.contains(&date) {
            DayKind::Workday
        } else if self.holidays.contains(&date) || matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) {
            DayKind::DayOff
        } else {
            DayKind::Workday
        }
    }
}

impl Span {
    fn of(freeze: &Freeze, zone: &str) -> Result<Self, (&'static str, String)> {
        match freeze {
            Freeze { from: Some(from), to: Some(to), cron: None, lasts: None, days: None } => {
                let moment = |field, text: &str| {
                    text.parse::<Timestamp>().map_err(|_| {
                        (field, format!("`{text}` is no moment: write it as in 2026-12-31T00:00:00+08:00"))
                    })
                };
                let (from, to) = (moment(".from", from)?, moment(".to", to)?);
                if to <= from {
                    return Err((".to", "it ends before it begins".to_owned()));
                }
                Ok(Self::Between(from, to))
            }
            Freeze { from: None, to: None, cron: Some(cron), lasts: Some(lasts), days } => {
                let schedule = Schedule::of(cron, zone).map_err(|error| (".cron", error.to_string()))?;
                let seconds = lasts.get().as_secs();
                if seconds == 0 || seconds > MAX_LASTS_SECONDS {
                    return Err((".lasts", "give 1s to 31d".to_owned()));
                }
                Ok(Self::Again { schedule, lasts: lasts.get(), days: *days })
            }
            _ => Err(("", "give either `from` and `to`, or `cron` and `lasts`".to_owned())),
        }
    }
}

fn dates(path: &str, texts: &[String], errors: &mut Vec<FieldError>) -> Vec<Date> {
    let parsed = texts.iter().enumerate().filter_map(|(index, text)| {
        text.parse::<Date>()
            .map_err(|_| {
                let message = format!("`{text}` is no date: write it as in 2026-10-01");
                errors.push(FieldError::new(format!("{path}[{index}]"), message));
            })
            .ok()
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use evergreen_api::{HumanDuration, resources::Calendar};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn batch() -> ChangeWindowSpec {
        ChangeWindowSpec {
            summary: "end-of-day batch".into(),
            time_zone: "Asia/Shanghai".into(),
            freezes: vec![Freeze {
                cron: Some("0 22 * * *".into()),
                lasts: Some(HumanDuration::seconds(4 * 3600)),
                days: Some(DayKind::Workday),
                ..Freeze::default()
            }],
            calendar: Calendar {
                holidays: vec!["2026-10-01".into(), "2026-10-02".into()],
                workdays: vec!["2026-10-10".into()],
            },
            playbooks: Vec::new(),
        }
    }

    #[test]
    fn a_batch_freezes_the_evenings_of_workdays_by_the_local_calendar() {
        let window = Window::new("batch", batch()).unwrap();
        let frozen = |text: &str| window.frozen("any", at(text)).map(|frozen| frozen.until);
        // Wednesday, 23:00 in Shanghai, and 01:59 and 02:00 of the next day.
        assert_eq!(frozen("2026-09-30T23:00:00+08:00"), Some(at("2026-10-01T02:00:00+08:00")));
        assert_eq!(frozen("2026-10-01T01:59:00+08:00"), Some(at("2026-10-01T02:00:00+08:00")));
        assert_eq!(frozen("2026-10-01T02:00:00+08:00"), None);
        // A holiday, an ordinary Saturday, and a Saturday that is worked instead.
        assert_eq!(frozen("2026-10-01T23:00:00+08:00"), None);
        assert_eq!(frozen("2026-10-17T23:00:00+08:00"), None);
        assert!(frozen("2026-10-10T23:00:00+08:00").is_some());
    }

    #[test]
    fn a_closing_freezes_between_two_moments_and_only_what_it_names() {
        let mut spec = batch();
        spec.playbooks = vec!["node-lost".into()];
        spec.freezes = vec![Freeze {
            from: Some("2026-12-30T00:00:00+08:00".into()),
            to: Some("2027-01-03T00:00:00+08:00".into()),
            ..Freeze::default()
        }];
        let window = Window::new("closing", spec).unwrap();
        assert!(window.frozen("node-lost", at("2026-12-31T12:00:00+08:00")).is_some());
        assert!(window.frozen("other", at("2026-12-31T12:00:00+08:00")).is_none());
        assert!(window.frozen("node-lost", at("2027-01-03T00:00:00+08:00")).is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut spec = batch();
        spec.time_zone = "Asia/Peking".into();
        spec.calendar.holidays = vec!["2026-13-01".into()];
        spec.freezes[0].from = Some("tomorrow".into());
        let errors = Window::new("x", spec).unwrap_err();
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["spec.timeZone", "spec.calendar.holidays[0]", "spec.freezes[0]"]);
    }
}
