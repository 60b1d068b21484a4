//! What data gates answer, read into one shape.

use std::time::Duration;

use serde_json::Value;

use crate::failover::facts::DataPosition;

/// Answer of `POST <url>/position`: `{"position": 7 | "0/3000060", "lagSeconds": 0.2, "complete": true, "leads": false}`.
pub(super) fn hook(answer: &Value) -> Result<DataPosition, String> {
    let flag = |key: &str| answer.get(key).and_then(Value::as_bool).unwrap_or(false);
    Ok(DataPosition {
        position: answer.get("position").map(position).transpose()?.flatten(),
        lag: lag(answer.get("lagSeconds").ok_or("the answer has no lagSeconds")?)?,
        complete: flag("complete"),
        leads: flag("leads"),
        age: Duration::ZERO,
    })
}

/// Answer of a Prometheus instant query: exactly one number, the lag in seconds.
pub(super) fn metric(answer: &Value) -> Result<DataPosition, String> {
    let result = answer.pointer("/data/result").ok_or("this is no answer of a Prometheus API")?;
    let value = match answer.pointer("/data/resultType").and_then(Value::as_str) {
        Some("scalar") => result.get(1),
        _ => match result.as_array().map(Vec::as_slice) {
            Some([one]) => one.pointer("/value/1"),
            Some(series) => return Err(format!("the query answers {} series instead of one", series.len())),
            None => None,
        },
    };
    Ok(DataPosition { lag: lag(value.ok_or("the query answers no number")?)?, ..DataPosition::default() })
}

/// Answer of an SQL-over-HTTP endpoint: one row with `lag_seconds`, and `position`, `complete` and `leads` if it can, in a
/// list or in `rows`.
pub(super) fn sql(answer: &Value) -> Result<DataPosition, String> {
    let rows = answer.get("rows").unwrap_or(answer).as_array().ok_or("the answer has no rows")?;
    let [row] = rows.as_slice() else {
        return Err(format!("the statement answers {} rows instead of one", rows.len()));
    };
    let flag = |key: &str| row.get(key).and_then(Value::as_bool).unwrap_or(false);
    Ok(DataPosition {
        position: row.get("position").map(position).transpose()?.flatten(),
        lag: lag(row.get("lag_seconds").ok_or("the row has no lag_seconds")?)?,
        complete: flag("complete"),
        leads: flag("leads"),
        age: Duration::ZERO,
    })
}

/// A number, or a log position as PostgreSQL writes it.
pub(in crate::failover) fn position(value: &Value) -> Result<Option<u64>, String> {
    let wrong = || format!("`{value}` is no position: a number, or as in 0/3000060");
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => number.as_u64().map(Some).ok_or_else(wrong),
        Value::String(text) => match text.split_once('/') {
            Some((high, low)) => {
                let part = |text: &str| u32::from_str_radix(text, 16).map_err(|_| wrong());
                Ok(Some(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
            }
            None => text.parse().map(Some).map_err(|_| wrong()),
        },
        _ => Err(wrong()),
    }
}

fn lag(value: &Value) -> Result<Duration, String> {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    // NaN, infinity and what is negative is no lag; a clock that runs ahead must not pass a gate.
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("`{value}` is no lag: a number of seconds, not negative"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_source_is_read_into_one_shape() {
        let at = hook(&json!({"position": "1/10", "lagSeconds": 0.25, "complete": true})).unwrap();
        assert_eq!((at.position, at.lag, at.complete), (Some((1 << 32) + 16), Duration::from_millis(250), true));
        let vector = json!({"data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "2.5"]}]}});
        assert_eq!(metric(&vector).unwrap().lag, Duration::from_millis(2_500));
        assert_eq!(metric(&json!({"data": {"resultType": "scalar", "result": [1, "3"]}})).unwrap().lag.as_secs(), 3);
        assert_eq!(sql(&json!({"rows": [{"lag_seconds": "4", "position": 7}]})).unwrap().position, Some(7));
    }

    #[test]
    fn what_says_nothing_clear_says_nothing() {
        for wrong in [
            json!({}),
            json!({"lagSeconds": -1}),
            json!({"lagSeconds": "NaN"}),
            json!({"lagSeconds": 0, "position": -1}),
        ] {
            assert!(hook(&wrong).is_err(), "{wrong}");
        }
        let series = |all: Value| json!({"data": {"resultType": "vector", "result": all}});
        let one = json!({"value": [1, "+Inf"]});
        for wrong in [series(json!([])), series(json!([one])), series(json!([one, one])), json!("text")] {
            assert!(metric(&wrong).is_err(), "{wrong}");
        }
        assert!(sql(&json!([])).is_err() && sql(&json!([{"lag_seconds": null}])).is_err());
    }
}
