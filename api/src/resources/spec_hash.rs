//! Digest of a spec: sites compare it to find drift, and a planner uses a spec only if a majority holds the same.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 over the canonical JSON of a spec (keys sorted, no white space), hex, the first 16 bytes.
///
/// # Panics
/// Never for the specs of this crate: they are plain data.
pub fn spec_hash<T: Serialize>(spec: &T) -> String {
    let mut canonical = String::new();
    write_canonical(&serde_json::to_value(spec).expect("a spec is plain data"), &mut canonical);
    hex::encode(&Sha256::digest(canonical.as_bytes())[..16])
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(&object[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_of_keys_does_not_matter_but_values_do() {
        assert_eq!(spec_hash(&json!({"a": 1, "b": [1, 2]})), spec_hash(&json!({"b": [1, 2], "a": 1})));
        assert_ne!(spec_hash(&json!({"a": 1})), spec_hash(&json!({"a": 2})));
        assert_ne!(spec_hash(&json!([1, 2])), spec_hash(&json!([2, 1])));
    }
}
