//! Events are served in two groups and stored once, in the core form.

use serde_json::{Map, Value};

/// (core field, events.k8s.io field)
const PAIRS: [(&str, &str); 8] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("apiVersion", "apiVersion"),
];

/// Core form to events.k8s.io form.
pub fn to_events_group(value: Value) -> Value {
    renamed(value, "events.k8s.io/v1", |name| PAIRS.iter().find(|(core, _)| *core == name).map(|(_, new)| *new))
}

/// events.k8s.io form to core form.
pub fn to_core(value: Value) -> Value {
    renamed(value, "v1", |name| PAIRS.iter().find(|(_, new)| *new == name).map(|(core, _)| *core))
}

fn renamed(value: Value, api_version: &str, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = value else { return value };
    let mut out = Map::new();
    out.insert("kind".to_owned(), Value::from("Event"));
    out.insert("apiVersion".to_owned(), Value::from(api_version));
    for (name, value) in fields {
        if name != "apiVersion" && name != "kind" {
            out.insert(rename(&name).map_or(name, str::to_owned), value);
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let core = json!({"apiVersion":"v1","kind":"Event","metadata":{"name":"e"},"involvedObject":{"kind":"Node"},
            "message":"m","reportingComponent":"c","count":2});
        let new = to_events_group(core.clone());
        assert_eq!(new["regarding"]["kind"], "Node");
        assert_eq!(new["note"], "m");
        assert_eq!(new["apiVersion"], "events.k8s.io/v1");
        assert_eq!(to_core(new), core);
    }
}
