//! Times in logs whose layout is written by Go's reference time, `Mon Jan 2 15:04:05 MST 2006`.

use jiff::{
    Timestamp, Zoned,
    fmt::strtime::BrokenDownTime,
    tz::{Offset, TimeZone},
};

/// Parts of the reference time, longest first where one begins like another, and their names here.
const PARTS: [(&str, &str); 23] = [
    ("January", "%B"),
    ("Jan", "%b"),
    ("Monday", "%A"),
    ("Mon", "%a"),
    ("MST", "%Q"),
    ("2006", "%Y"),
    ("Z07:00", "%:z"),
    ("-07:00", "%:z"),
    ("Z0700", "%z"),
    ("-0700", "%z"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("PM", "%p"),
    ("pm", "%p"),
    ("_2", "%e"),
    ("1", "%m"),
    ("2", "%d"),
    ("3", "%I"),
];

/// A layout, translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    format: String,
    has_year: bool,
}

impl Layout {
    /// Translates a layout.
    pub fn new(layout: &str) -> Self {
        let mut format = String::with_capacity(layout.len() + 8);
        let mut rest = layout;
        'next: while let Some(first) = rest.chars().next() {
            let fraction = rest.get(1..).unwrap_or_default();
            let digits = fraction.bytes().take_while(|b| *b == b'0' || *b == b'9').count();
            if matches!(first, '.' | ',') && digits > 0 && format.ends_with("%S") {
                // Go takes a fraction that the layout does not name, and one of any length.
                rest = &rest[1 + digits..];
                continue;
            }
            for (part, name) in PARTS {
                if let Some(behind) = rest.strip_prefix(part) {
                    format.push_str(name);
                    rest = behind;
                    continue 'next;
                }
            }
            if first == '%' {
                format.push('%');
            }
            format.push(first);
            rest = &rest[first.len_utf8()..];
        }
        let has_year = format.contains("%Y") || format.contains("%y");
        Self { format: format.replace("%S", "%S%.f"), has_year }
    }

    /// Reads a time. One without a year is of this year or, when that were to come, of the last; one without a zone is
    /// in the node's.
    pub fn parse(&self, text: &str, now: Timestamp) -> Option<Timestamp> {
        let zone = TimeZone::system();
        let this_year = now.to_zoned(zone.clone()).year();
        if self.has_year {
            return self.read(text, &self.format, zone);
        }
        let of = |year: i16| self.read(&format!("{year} {text}"), &format!("%Y {}", self.format), zone.clone());
        let day = jiff::SignedDuration::from_hours(24);
        of(this_year).filter(|time| *time <= now + day).or_else(|| of(this_year - 1))
    }

    fn read(&self, text: &str, format: &str, zone: TimeZone) -> Option<Timestamp> {
        // `Z` is how Go reads and writes an offset of zero under `Z07:00`.
        let utc = text.strip_suffix('Z').filter(|_| format.ends_with("%:z") || format.ends_with("%z"));
        let owned = utc.map(|text| format!("{text}{}", if format.ends_with("%:z") { "+00:00" } else { "+0000" }));
        let time = BrokenDownTime::parse(format, owned.as_deref().unwrap_or(text)).ok()?;
        let civil = time.to_datetime().ok()?;
        let zoned: Zoned = match time.offset() {
            Some(offset) => civil.to_zoned(Offset::to_time_zone(offset)).ok()?,
            None => civil.to_zoned(zone).ok()?,
        };
        Some(zoned.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(layout: &str, text: &str) -> Option<String> {
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        Layout::new(layout).parse(text, now).map(|time| time.to_string())
    }

    #[test]
    fn layouts_of_common_logs_are_understood() {
        let nanos = "2006-01-02T15:04:05.999999999-07:00";
        assert_eq!(read(nanos, "2026-02-03T04:05:06.789+01:00").as_deref(), Some("2026-02-03T03:05:06.789Z"));
        assert_eq!(read("2006-01-02T15:04:05Z07:00", "2026-02-03T04:05:06Z").as_deref(), Some("2026-02-03T04:05:06Z"));
        assert_eq!(read(nanos, "yesterday"), None);
    }

    #[test]
    fn a_time_without_a_year_is_never_in_the_future() {
        let of = |text| read("Jan _2 15:04:05", text).map(|time| time[..4].to_owned());
        assert_eq!(of("Feb  3 04:05:06").as_deref(), Some("2026"));
        assert_eq!(of("Dec 30 04:05:06").as_deref(), Some("2025"));
    }
}
