//! `evergreen-agent anomaly`: rows on standard input, one score a row on standard output, flushed at once.
//!
//! A row is `timestamp,value`, or a value alone. A timestamp is a date with a time, taken as it is written, or seconds
//! since 1970; one that cannot be read is none. A first line that is not a row is a heading and gets no answer. Every
//! other line gets one, so that answers and rows stay in step: a value that cannot be read scores 0 and is counted.

use std::io::{BufRead, Write};

use anyhow::Context;
use jiff::{civil::DateTime, tz::TimeZone};

use crate::{anomaly::Detector, detect::read_bounded_line};

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows, each answered.
    pub rows: u64,
    /// Rows of them without a readable value.
    pub unreadable: u64,
}

/// Scores rows until the input ends.
///
/// # Errors
/// When the input cannot be read or the output not be written.
pub fn run(mut input: impl BufRead, output: &mut impl Write) -> anyhow::Result<Rows> {
    let mut detector = Detector::new();
    let mut told = Rows::default();
    let mut line = Vec::new();
    let mut first = true;
    while read_bounded_line(&mut input, &mut line).context("standard input cannot be read")? {
        let value = value_of(&line);
        if std::mem::take(&mut first) && value.is_none() {
            continue;
        }
        told.rows += 1;
        told.unreadable += u64::from(value.is_none());
        let score = value.map_or(0.0, |value| detector.push(time_of(&line), value).score);
        writeln!(output, "{score}").and_then(|()| output.flush()).context("standard output cannot be written")?;
    }
    Ok(told)
}

/// The number behind the last comma; not-a-number is none.
fn value_of(line: &[u8]) -> Option<f64> {
    let field = line.rsplit(|byte| *byte == b',').next()?;
    std::str::from_utf8(field).ok()?.trim().parse().ok().filter(|value: &f64| !value.is_nan())
}

/// Seconds since 1970 as the clock on the wall had it.
fn time_of(line: &[u8]) -> Option<i64> {
    let end = line.iter().position(|byte| *byte == b',')?;
    let field = std::str::from_utf8(&line[..end]).ok()?.trim();
    let wall = |time: DateTime| time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp().as_second());
    field.parse().ok().or_else(|| field.parse().ok().and_then(wall))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        assert_eq!(time_of(b"1970-01-02 00:00:01,5"), Some(86_401));
        assert_eq!(time_of(b"1970-01-02T00:00:01.5,5"), Some(86_401));
        assert_eq!(time_of(b"1400000000,5"), Some(1_400_000_000));
        assert_eq!(time_of(b"yesterday,5"), None);
        assert_eq!(time_of(b"5"), None, "a value alone is no time");
    }

    fn scores(input: &[u8]) -> (Vec<f64>, Rows) {
        let mut output = Vec::new();
        let rows = run(input, &mut output).unwrap();
        (String::from_utf8(output).unwrap().lines().map(|line| line.parse().unwrap()).collect(), rows)
    }

    #[test]
    fn a_heading_gets_no_answer_and_every_row_gets_one() {
        let (scores, rows) = scores(b"timestamp,value\n2014-04-01 00:00:00,20.0\n2014-04-01 00:05:00,0\n");
        assert_eq!(scores, [0.0, 0.0]);
        assert_eq!(rows, Rows { rows: 2, unreadable: 0 });
    }

    #[test]
    fn rows_without_a_heading_are_all_answered() {
        assert_eq!(scores(b"1\n2\n3").0.len(), 3);
    }

    #[test]
    fn an_unreadable_row_is_answered_and_counted() {
        let (scores, rows) = scores(b"timestamp,value\na,1\na,\n\xff\xfe\n\na,NaN\na,2\n");
        assert_eq!(scores.len(), 6);
        assert_eq!(rows, Rows { rows: 6, unreadable: 4 });
    }

    #[test]
    fn a_value_never_seen_before_is_an_alarm() {
        let mut text = String::from("timestamp,value\n");
        for row in 0..500 {
            text.push_str(&format!("t,{}\n", row % 7));
        }
        text.push_str("t,100\n");
        let (scores, _) = scores(text.as_bytes());
        assert!(scores[..500].iter().all(|score| *score < 0.5));
        assert!(scores[500] >= 0.5);
    }
}
