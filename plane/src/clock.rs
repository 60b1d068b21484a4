//! The plane's own clock and the text form of times.

use jiff::Timestamp;

/// Now, Unix milliseconds.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// RFC 3339 with milliseconds, UTC; out of range reads as the nearest time there is.
pub fn rfc3339_ms(unix_ms: i64) -> String {
    let time =
        Timestamp::from_millisecond(unix_ms).unwrap_or(if unix_ms < 0 { Timestamp::MIN } else { Timestamp::MAX });
    format!("{time:.3}")
}

/// RFC 3339 with microseconds, UTC.
pub fn rfc3339_ns(unix_ns: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_ns)) {
        Ok(time) => format!("{time:.6}"),
        Err(_) => rfc3339_ms(unix_ns / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_a_fixed_fraction() {
        assert_eq!(rfc3339_ms(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(rfc3339_ns(1_700_000_000_000_001_500), "2023-11-14T22:13:20.000001Z");
    }
}
