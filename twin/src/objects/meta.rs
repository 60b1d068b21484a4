//! Small readers and writers for the parts that every Kubernetes object has.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The string at a path of field names, or `None`.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// The value at a path of field names, or `None`.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let mut current = value;
    for field in path {
        current = current.get(field)?;
    }
    Some(current)
}

/// The integer at a path of field names, or `None`.
pub fn integer(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path)?.as_i64()
}

/// The array at a path of field names; an absent one reads as empty.
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A mutable object field, created (or replaced when it is no object) on the way.
pub fn object_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = value
        .as_object_mut()
        .expect("made an object just above")
        .entry(field.to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object just above")
}

/// The mutable `metadata` of an object.
pub fn metadata_mut(value: &mut Value) -> &mut Map<String, Value> {
    object_mut(value, "metadata")
}

/// `metadata.name`, or the empty string.
pub fn name(value: &Value) -> &str {
    text(value, &["metadata", "name"]).unwrap_or_default()
}

/// `metadata.namespace`, or the empty string for cluster-scoped objects.
pub fn namespace(value: &Value) -> &str {
    text(value, &["metadata", "namespace"]).unwrap_or_default()
}

/// `metadata.uid`, or the empty string.
pub fn uid(value: &Value) -> &str {
    text(value, &["metadata", "uid"]).unwrap_or_default()
}

/// Whether `metadata.finalizers` names at least one.
pub fn has_finalizers(value: &Value) -> bool {
    !list(value, &["metadata", "finalizers"]).is_empty()
}

/// Whether deletion of the object has begun.
pub fn is_deleting(value: &Value) -> bool {
    at(value, &["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
}

/// Whether the label map at `path` of `value` fits all pairs of `selector` (a plain `matchLabels` map).
pub fn labels_fit(labels: Option<&Value>, selector: &Map<String, Value>) -> bool {
    selector.iter().all(|(key, wanted)| labels.and_then(|l| l.get(key)) == Some(wanted))
}

/// Kubernetes' time format with seconds, as `metadata.creationTimestamp` uses it.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Kubernetes' time format with microseconds, as Leases use it.
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Reads either of the two time formats.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// An owner reference with `controller` and `blockOwnerDeletion` set.
pub fn controller_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The uid of the owner that is marked as controller.
pub fn controller_uid(value: &Value) -> Option<&str> {
    list(value, &["metadata", "ownerReferences"])
        .iter()
        .find(|o| o["controller"] == Value::Bool(true))
        .and_then(|o| o["uid"].as_str())
}

/// Reads a Kubernetes quantity of CPU as thousandths of a core.
pub fn cpu_millis(quantity: &Value) -> Option<u64> {
    Some((number_with_suffix(quantity)? * 1000.0).ceil() as u64)
}

/// Reads a Kubernetes quantity of bytes (or of anything counted) as an integer.
pub fn whole(quantity: &Value) -> Option<u64> {
    Some(number_with_suffix(quantity)?.ceil() as u64)
}

fn number_with_suffix(quantity: &Value) -> Option<f64> {
    let text = match quantity {
        Value::Number(n) => return n.as_f64(),
        Value::String(s) => s.as_str(),
        _ => return None,
    };
    let split = text
        .char_indices()
        .find(|(i, c)| c.is_ascii_alphabetic() && !exponent_at(text, *i))
        .map_or(text.len(), |(i, _)| i);
    let (digits, suffix) = text.split_at(split);
    let scale = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|n| n * scale)
}

/// `1e3` and `1E3` are exponents, the lone suffix `E` (exa) is not accepted here.
fn exponent_at(text: &str, index: usize) -> bool {
    matches!(text.as_bytes()[index], b'e' | b'E')
        && text[index + 1..].starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        assert_eq!(cpu_millis(&json!("250m")), Some(250));
        assert_eq!(cpu_millis(&json!("2")), Some(2000));
        assert_eq!(cpu_millis(&json!(1.5)), Some(1500));
        assert_eq!(whole(&json!("64Mi")), Some(64 << 20));
        assert_eq!(whole(&json!("1e3")), Some(1000));
        assert_eq!(whole(&json!("4G")), Some(4_000_000_000));
        assert_eq!(whole(&json!("lots")), None);
    }

    #[test]
    fn times_have_the_two_formats_of_the_api() {
        let at = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        assert_eq!(seconds(at), "2023-11-14T22:13:20Z");
        assert_eq!(micros(at), "2023-11-14T22:13:20.123456Z");
        assert_eq!(parse_time(&micros(at)), Some(at));
    }
}
