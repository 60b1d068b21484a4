//! How single cells of a table are written: ages, selectors, lists that are cut short.

use jiff::Timestamp;
use serde_json::Value;

use crate::objects::meta;

pub(super) fn access_modes(modes: &[Value]) -> String {
    let short = modes.iter().filter_map(Value::as_str).map(|mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    short.collect::<Vec<_>>().join(",")
}

pub(super) fn selector_text(map: Option<&Value>) -> String {
    map.and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", shown(v)))
        .collect::<Vec<_>>()
        .join(",")
}

pub(super) fn joined(items: &[Value], field: &str) -> String {
    items.iter().map(|i| shown(&i[field])).collect::<Vec<_>>().join(",")
}

pub(super) fn none_if_empty(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

pub(super) fn some_of(mut items: Vec<String>) -> String {
    let more = items.len().saturating_sub(3);
    items.truncate(3);
    let text = none_if_empty(items.join(","));
    if more > 0 { format!("{text} + {more} more...") } else { text }
}

pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// The time since `when` as kubectl shows ages.
pub(super) fn age(when: &Value, now: Timestamp) -> String {
    let Some(when) = when.as_str().and_then(meta::parse_time) else { return "<unknown>".to_owned() };
    span(now.as_second().saturating_sub(when.as_second()))
}

/// A span of time as kubectl writes it.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 && seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 && minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 && hours % 24 > 0 => format!("{days}d{}h", hours % 24),
        () if days < 730 => format!("{days}d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let since = json!(meta::seconds(at(0)));
        for (seconds, text) in
            [(5, "5s"), (119, "119s"), (150, "2m30s"), (3_600, "60m"), (4 * 3600 + 60, "4h1m"), (86_400 * 3, "3d")]
        {
            assert_eq!(age(&since, at(seconds)), text);
        }
    }
}
