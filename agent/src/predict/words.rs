//! Figures as people read them.

/// A figure of a series, with the unit that its name says.
pub fn figure(series: &str, value: f64) -> String {
    if series.contains("bytes") {
        return bytes(value);
    }
    if series.ends_with(".utilization") || series.starts_with("pressure.") || series.ends_with(".busy") {
        return format!("{:.1} %", value * 100.0);
    }
    if series.ends_with("celsius") {
        return format!("{value:.1} °C");
    }
    if value.abs() >= 100.0 || value == value.trunc() { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut rest, mut unit) = (value, 0);
    while rest.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        rest /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{rest:.0} B") } else { format!("{rest:.1} {}", UNITS[unit]) }
}

/// A length of time to two places: `2 d 4 h`, `36 min`, `9 s`.
pub fn time(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = ms / 1000;
    let Some(first) = UNITS.iter().position(|(length, _)| seconds >= *length) else { return "0 s".into() };
    let (length, name) = UNITS[first];
    let mut text = format!("{} {name}", seconds / length);
    if let Some((smaller, name)) = UNITS.get(first + 1)
        && seconds % length / smaller > 0
    {
        text.push_str(&format!(" {} {name}", seconds % length / smaller));
    }
    text
}

/// A wall-clock time, Unix milliseconds, as RFC 3339 to the second.
pub fn rfc3339(wall_ms: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(wall_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{moment:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_unit_of_their_series() {
        assert_eq!(figure("fs./var.used_bytes", 1.5 * 1024.0 * 1024.0), "1.5 MiB");
        assert_eq!(figure("cpu.utilization", 0.345), "34.5 %");
        assert_eq!(figure("fd.used", 1234.4), "1234");
        assert_eq!(figure("load.one", 0.25), "0.250");
    }

    #[test]
    fn times_are_told_to_two_places() {
        let told: Vec<_> = [0, 9_000, 90_000, 3_600_000, 187_200_000].into_iter().map(time).collect();
        assert_eq!(told, ["0 s", "9 s", "1 min 30 s", "1 h", "2 d 4 h"]);
        assert_eq!(rfc3339(1_700_000_000_400), "2023-11-14T22:13:20Z");
    }
}
