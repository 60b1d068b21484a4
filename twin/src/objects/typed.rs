//! Objects of built-in kinds as the server's types hold them: wrong types refused, unknown fields dropped and named,
//! quantities and times in the one spelling that is stored.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::kinds::{Field, FieldType, Message, Presence, Shape, table};
use super::protobuf::is_zero;
use super::{meta, quantity};

/// Brings an object into its stored form. Returns the paths of the fields that its kind does not have.
///
/// # Errors
/// The first value of a wrong type, in the words of the server's decoder.
pub fn normalise(message: &'static Message, object: &mut Value) -> Result<Vec<String>, String> {
    let mut walk = Walk { unknown: Vec::new(), path: String::new() };
    if let Value::Object(fields) = object {
        walk.message(message, fields, true)?;
    }
    Ok(walk.unknown)
}

/// Does the same for a part of an object, such as the metadata of a custom resource.
///
/// # Errors
/// As [`normalise`].
pub fn normalise_part(message: &'static Message, name: &str, part: &mut Value) -> Result<Vec<String>, String> {
    let mut walk = Walk { unknown: Vec::new(), path: name.to_owned() };
    match part {
        Value::Object(fields) => walk.message(message, fields, false)?,
        Value::Null => {}
        other => return Err(mismatch(other, "", name, message.short_name())),
    }
    Ok(walk.unknown)
}

struct Walk {
    unknown: Vec<String>,
    path: String,
}

impl Walk {
    fn message(
        &mut self,
        message: &'static Message,
        fields: &mut Map<String, Value>,
        root: bool,
    ) -> Result<(), String> {
        let mut failure = None;
        let length = self.path.len();
        fields.retain(|name, value| {
            if failure.is_some() || (root && matches!(name.as_str(), "apiVersion" | "kind")) {
                return true;
            }
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
            let keep = match message.field(name) {
                None => {
                    self.unknown.push(self.path.clone());
                    false
                }
                Some(_) if value.is_null() => false,
                Some(field) => match self.field(message, field, value) {
                    Ok(()) => !is_left_out(field, value),
                    Err(error) => {
                        failure = Some(error);
                        true
                    }
                },
            };
            self.path.truncate(length);
            keep
        });
        failure.map_or(Ok(()), Err)
    }

    fn field(&mut self, message: &'static Message, field: &'static Field, value: &mut Value) -> Result<(), String> {
        let length = self.path.len();
        match (field.shape, &mut *value) {
            (Shape::One, value) => self.value(message, field, value),
            (Shape::List, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{index}]"));
                    self.value(message, field, item)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
            (Shape::Map, Value::Object(entries)) => {
                for (name, item) in entries.iter_mut() {
                    self.path.push('.');
                    self.path.push_str(name);
                    self.value(message, field, item)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
            (_, other) => Err(mismatch(other, message.short_name(), &self.path, &type_name(field))),
        }
    }

    fn value(&mut self, message: &'static Message, field: &'static Field, value: &mut Value) -> Result<(), String> {
        let wrong = |value: &Value| Err(mismatch(value, message.short_name(), &self.path, &type_name(field)));
        match (field.kind, &mut *value) {
            (FieldType::Message(index), Value::Object(fields)) => {
                return self.message(table().message(index), fields, false);
            }
            // An absent text in a list or map is an empty one.
            (FieldType::String, Value::Null) => *value = Value::from(""),
            (FieldType::Message(_), Value::Null) | (FieldType::Raw, _) => {}
            (FieldType::String | FieldType::Duration, Value::String(_))
            | (FieldType::Bool, Value::Bool(_))
            | (FieldType::Double, Value::Number(_))
            | (FieldType::IntOrString, Value::String(_))
            | (FieldType::Strings, Value::Array(_)) => {}
            (FieldType::Int32 | FieldType::IntOrString, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (FieldType::Int64, Value::Number(n)) if n.is_i64() => {}
            (FieldType::Bytes, Value::String(text)) => {
                if let Err(error) = base64::engine::general_purpose::STANDARD.decode(text.as_bytes()) {
                    let at = match error {
                        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                        _ => text.len(),
                    };
                    return Err(format!("illegal base64 data at input byte {at}"));
                }
            }
            (FieldType::Time | FieldType::MicroTime, Value::String(text)) => {
                let Some(time) = meta::parse_time(text) else {
                    return Err(format!(
                        "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""
                    ));
                };
                *text = if field.kind == FieldType::Time { meta::seconds(time) } else { meta::micros(time) };
            }
            (FieldType::Time | FieldType::MicroTime, Value::Null) => {}
            (FieldType::Quantity, amount) => {
                let text = match amount {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    Value::Null => "0".to_owned(),
                    other => return wrong(other),
                };
                let Some(canonical) = quantity::canonical(&text) else {
                    return Err(
                        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                            .to_owned(),
                    );
                };
                if canonical != text || !amount.is_string() {
                    *amount = Value::from(canonical);
                }
            }
            (_, other) => return wrong(other),
        }
        Ok(())
    }
}

/// Whether the server would not write this value at all.
fn is_left_out(field: &Field, value: &Value) -> bool {
    if field.presence == Presence::Written || field.required {
        return false;
    }
    match field.shape {
        Shape::List => value.as_array().is_some_and(Vec::is_empty),
        Shape::Map => value.as_object().is_some_and(Map::is_empty),
        Shape::One => field.presence == Presence::ZeroIsAbsent && field.kind != FieldType::Quantity && is_zero(value),
    }
}

fn type_name(field: &Field) -> String {
    let one = match field.kind {
        FieldType::String | FieldType::Quantity => "string".to_owned(),
        FieldType::Bool => "bool".to_owned(),
        FieldType::Int32 => "int32".to_owned(),
        FieldType::Int64 => "int64".to_owned(),
        FieldType::Double => "float64".to_owned(),
        FieldType::Bytes => "[]uint8".to_owned(),
        FieldType::Time => "v1.Time".to_owned(),
        FieldType::MicroTime => "v1.MicroTime".to_owned(),
        FieldType::Duration => "v1.Duration".to_owned(),
        FieldType::IntOrString => "intstr.IntOrString".to_owned(),
        FieldType::Raw => "runtime.RawExtension".to_owned(),
        FieldType::Strings => "[]string".to_owned(),
        FieldType::Message(index) => {
            let name = table().message(index).name;
            name.rsplit('/').next().unwrap_or(name).to_owned()
        }
    };
    match field.shape {
        Shape::One => one,
        Shape::List => format!("[]{one}"),
        Shape::Map => format!("map[string]{one}"),
    }
}

fn mismatch(value: &Value, owner: &str, path: &str, wanted: &str) -> String {
    let is = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) if wanted.starts_with("int") => format!("number {n}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    // The decoder names places without the indices of lists.
    let mut plain = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    format!("json: cannot unmarshal {is} into Go struct field {owner}.{plain} of type {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn normal(mut object: Value) -> (Value, Vec<String>) {
        let message = table().kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
        let unknown = normalise(message, &mut object).unwrap();
        (object, unknown)
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let (pod, unknown) = normal(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "color": 1},
            "spec": {"hostNetwork": false, "containers": [{"name": "c", "imagge": "i", "env": []}]}}));
        assert_eq!(unknown, ["metadata.color", "spec.containers[0].imagge"]);
        assert_eq!(pod["spec"], json!({"containers": [{"name": "c"}]}), "and zero values are left out");
    }

    #[test]
    fn quantities_and_times_get_one_spelling() {
        let (pod, _) = normal(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": "2026-01-01T01:00:00.5+01:00"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}]}}),
        );
        assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
    }

    #[test]
    fn a_wrong_type_is_told_as_the_server_tells_it() {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "three"}});
        let error = normalise(table().kind("apps/v1", "Deployment").unwrap(), &mut object).unwrap_err();
        assert_eq!(
            error,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
    }

    #[test]
    fn an_explicit_zero_behind_a_pointer_stays() {
        let (deployment, _) =
            normal(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0, "paused": false}}));
        assert_eq!(deployment["spec"], json!({"replicas": 0}));
    }
}
