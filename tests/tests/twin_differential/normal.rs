//! Takes out of an answer what no two servers have in common: times, versions, identities, addresses.

use serde_json::Value;

const TIMES: [&str; 9] = [
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
    "lastUpdateTime",
    "time",
    "startTime",
    "timestamp",
    "expirationTimestamp",
    "lastHeartbeatTime",
];

pub fn normal(mut body: Value, namespace: &str, owners: bool) -> Value {
    clean(&mut body, namespace, owners);
    body
}

fn clean(value: &mut Value, namespace: &str, owners: bool) {
    match value {
        Value::Object(fields) => {
            if !owners {
                fields.shift_remove("managedFields");
            }
            if let Some(Value::Array(entries)) = fields.get_mut("managedFields") {
                entries
                    .sort_by_key(|e| (e["operation"].to_string(), e["manager"].to_string(), e["fieldsV1"].to_string()));
            }
            // Older servers write what newer ones leave out.
            fields.shift_remove("selfLink");
            if fields.get("creationTimestamp").is_some_and(Value::is_null) {
                fields.shift_remove("creationTimestamp");
            }
            if let Some(prefix) = fields.get("generateName").and_then(Value::as_str).map(str::to_owned)
                && let Some(name) =
                    fields.get_mut("name").filter(|n| n.as_str().is_some_and(|n| n.starts_with(&prefix)))
            {
                *name = Value::from(format!("{prefix}<suffix>"));
            }
            for (name, below) in fields.iter_mut() {
                match name.as_str() {
                    "uid" if below.is_string() => *below = Value::from("<uid>"),
                    "resourceVersion" if below.as_str().is_some_and(|v| !v.is_empty() && v != "0") => {
                        *below = Value::from("<version>");
                    }
                    "continue" if below.as_str().is_some_and(|v| !v.is_empty()) => *below = Value::from("<token>"),
                    "clusterIP" if below.as_str().is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit())) => {
                        *below = Value::from("<address>");
                    }
                    "clusterIPs" if below[0] != "None" => *below = Value::from("<addresses>"),
                    "nodePort" => *below = Value::from("<port>"),
                    "description" => *below = Value::from("<text>"),
                    name if TIMES.contains(&name) && below.is_string() => *below = Value::from("<time>"),
                    _ => clean(below, namespace, owners),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|i| clean(i, namespace, owners)),
        Value::String(text) => {
            let mut shown = text.replace(namespace, "<namespace>");
            if is_age(&shown) {
                shown = "<age>".to_owned();
            }
            *text = hide_numbers(&shown);
        }
        _ => {}
    }
}

fn is_age(text: &str) -> bool {
    text.strip_suffix('s').is_some_and(|n| n.len() < 4 && n.parse::<u32>().is_ok())
}

/// Hides numbers of three digits and more, and identities, in messages.
fn hide_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let is_uid = word.len() == 36 && word.matches('-').count() == 4;
        let is_number = word.len() > 2 && word.chars().all(|c| c.is_ascii_digit());
        match (is_uid, is_number) {
            (true, _) => out.push_str("<uid>"),
            (_, true) => out.push_str("<number>"),
            _ => out.push_str(word),
        }
        word.clear();
    };
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '-' {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}
