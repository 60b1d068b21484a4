//! When a drill's schedule fires and whether a moment lies in its windows. Pure: now is given.

use std::{str::FromStr, time::Duration};

use cron::Cron;
use evergreen_api::resources::{DRILL_DAYS, DrillSchedule, DrillWindow, FailoverDrillSpec};
use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};

/// First time after `now`.
///
/// # Errors
/// When the cron text or the zone is none, or it never fires.
pub fn next_run(schedule: &DrillSchedule, now: Timestamp) -> Result<Timestamp, String> {
    let zone = zone(&schedule.time_zone)?;
    let cron =
        Cron::from_str(&schedule.cron).map_err(|error| format!("`{}` is no cron schedule: {error}", schedule.cron))?;
    let next = cron.find_next_occurrence(&now.to_zoned(zone), false);
    next.map(|next| next.timestamp()).map_err(|_| format!("`{}` never fires", schedule.cron))
}

/// Whether the schedule fired in (since, now]. What was missed while nobody looked counts once.
///
/// # Errors
/// As [`next_run`].
pub fn fired(schedule: &DrillSchedule, since: Timestamp, now: Timestamp) -> Result<bool, String> {
    Ok(next_run(schedule, since)? <= now)
}

/// Whether a drill that takes `needs` may start now; why not otherwise.
///
/// # Errors
/// When the zone is none.
pub fn may_start(spec: &FailoverDrillSpec, now: Timestamp, needs: Duration) -> Result<Result<(), String>, String> {
    if spec.windows.is_empty() {
        return Ok(Ok(()));
    }
    let zone = zone(spec.schedule.as_ref().map_or("UTC", |schedule| &schedule.time_zone))?;
    let local = now.to_zoned(zone);
    let left = spec.windows.iter().filter_map(|window| left_in(window, &local)).max();
    Ok(match left {
        None => Err("no window is open".to_owned()),
        Some(left) if left < needs => {
            let minutes = |duration: Duration| duration.as_secs().div_ceil(60);
            Err(format!("{} min are left in the window, the drill may take {} min", minutes(left), minutes(needs)))
        }
        Some(_) => Ok(()),
    })
}

/// How long a window is still open; none when it is not.
fn left_in(window: &DrillWindow, now: &Zoned) -> Option<Duration> {
    let (from, to) = window.minutes()?;
    // One that began yesterday may last over midnight.
    [0, 1].into_iter().find_map(|days_ago: i64| {
        let day = now.date().checked_sub(days_ago.days()).ok()?;
        let name = DRILL_DAYS[usize::try_from(day.weekday().to_monday_zero_offset()).ok()?];
        if !window.days.is_empty() && window.days.iter().all(|one| one != name) {
            return None;
        }
        let at = |day: jiff::civil::Date, minute: u32| {
            let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
            day.at(hour, minute, 0, 0).to_zoned(now.time_zone().clone()).ok()
        };
        let begin = at(day, from)?;
        let last = if to <= from { day.checked_add(1.day()).ok()? } else { day };
        let end = at(last, to)?;
        let open = begin.timestamp() <= now.timestamp() && now.timestamp() < end.timestamp();
        open.then(|| Duration::try_from(end.timestamp().duration_since(now.timestamp())).ok()).flatten()
    })
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("`{name}` is no known time zone; write it as in Asia/Shanghai"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn spec(days: &[&str], from: &str, to: &str) -> FailoverDrillSpec {
        serde_json::from_value(serde_json::json!({"site": "a", "windows": [{"days": days, "from": from, "to": to}],
            "schedule": {"cron": "0 2 * * 6", "timeZone": "Asia/Shanghai"}}))
        .unwrap()
    }

    #[test]
    fn saturday_at_two_in_shanghai_is_friday_evening_elsewhere() {
        let schedule = spec(&[], "02:00", "04:00").schedule.unwrap();
        assert_eq!(next_run(&schedule, at("2026-11-23T00:00:00Z")), Ok(at("2026-11-27T18:00:00Z")));
        assert_eq!(fired(&schedule, at("2026-11-27T17:59:00Z"), at("2026-11-27T18:00:00Z")), Ok(true));
        assert_eq!(fired(&schedule, at("2026-11-27T18:00:00Z"), at("2026-11-27T18:01:00Z")), Ok(false));
        let broken = DrillSchedule { cron: "0 2 * * 6".into(), time_zone: "Mars/Base".into() };
        assert!(next_run(&broken, at("2026-11-23T00:00:00Z")).is_err());
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let spec = spec(&["fri"], "22:00", "04:00");
        let hour = Duration::from_secs(3_600);
        // Saturday 01:00 in Shanghai: three hours are left of Friday's window.
        let night = at("2026-11-27T17:00:00Z");
        assert_eq!(may_start(&spec, night, hour * 3), Ok(Ok(())));
        assert!(may_start(&spec, night, hour * 3 + Duration::from_secs(1)).unwrap().is_err());
        // Sunday 01:00: Saturday has no window.
        assert!(may_start(&spec, at("2026-11-28T17:00:00Z"), hour).unwrap().unwrap_err().contains("no window"));
    }
}
