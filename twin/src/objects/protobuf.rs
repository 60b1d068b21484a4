//! Request bodies in Kubernetes' protobuf form, read into JSON. Answers are always JSON.
//!
//! The form is four bytes of magic and a `runtime.Unknown` that names the kind of what it wraps.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::kinds::{Field, FieldType, Message, Presence, Shape, Slot, table};
use super::meta;

const MAGIC: &[u8] = b"k8s\0";
/// Deeper nesting than any kind has; a bound against bodies made to exhaust the stack.
const MAX_DEPTH: usize = 64;

/// Whether a body claims to be in this form.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Reads a body.
///
/// # Errors
/// Says what in it cannot be read, or that the kind has no known form on the wire.
pub fn decode(body: &[u8]) -> Result<Value, String> {
    let envelope = body.strip_prefix(MAGIC).ok_or("the body does not begin with k8s\\0")?;
    let (mut api_version, mut kind, mut raw, mut content_type) = (String::new(), String::new(), &[][..], String::new());
    for part in Parts(envelope) {
        match part? {
            (1, Part::Bytes(type_meta)) => {
                for inner in Parts(type_meta) {
                    match inner? {
                        (1, Part::Bytes(text)) => api_version = utf8(text)?,
                        (2, Part::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Part::Bytes(bytes)) => raw = bytes,
            (4, Part::Bytes(text)) => content_type = utf8(text)?,
            _ => {}
        }
    }
    if content_type.starts_with("application/json") {
        return serde_json::from_slice(raw).map_err(|e| e.to_string());
    }
    let message = table()
        .kind(&api_version, &kind)
        .or_else(|| table().kind_in_any_version(&kind))
        .ok_or_else(|| format!("{kind} of {api_version} is only understood as JSON"))?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    read_message(message, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed(u64),
}

/// The fields of a message, in the order of the wire.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or("the body ends inside a number")?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is longer than 64 bits".to_owned())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("the body ends inside a field")?;
        self.0 = rest;
        Ok(taken)
    }

    fn read(&mut self) -> Result<(u32, Part<'a>), String> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|e| e.to_string())?;
        let fixed = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        let part = match key & 7 {
            0 => Part::Number(self.varint()?),
            1 => Part::Fixed(fixed(self.take(8)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|e| e.to_string())?;
                Part::Bytes(self.take(length)?)
            }
            5 => Part::Fixed(fixed(self.take(4)?)),
            other => return Err(format!("field {number} has the unknown wire type {other}")),
        };
        Ok((number, part))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Part<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

fn read_message(
    message: &'static Message,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("the body is nested too deep".to_owned());
    }
    for part in Parts(bytes) {
        let (number, part) = part?;
        match message.slot(number) {
            // A newer client's field.
            None => {}
            Some(Slot::Inline(index)) => {
                if let Part::Bytes(bytes) = part {
                    read_message(table().message(index), bytes, into, depth + 1)?;
                }
            }
            Some(Slot::Field(index)) => read_field(message.own_field(index), part, into, depth)?,
        }
    }
    Ok(())
}

fn read_field(
    field: &'static Field,
    part: Part<'_>,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    match field.shape {
        Shape::One => {
            let value = read_value(field.kind, part, depth)?;
            if !value.is_null() && (field.presence != Presence::ZeroIsAbsent || !is_zero(&value)) {
                into.insert(field.name.to_owned(), value);
            }
        }
        Shape::List => {
            let Some(list) = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() else {
                return Ok(());
            };
            match (field.kind, part) {
                // Packed numbers.
                (FieldType::Int32 | FieldType::Int64, Part::Bytes(bytes)) => {
                    let mut parts = Parts(bytes);
                    while !parts.0.is_empty() {
                        list.push(Value::from(parts.varint()? as i64));
                    }
                }
                (kind, part) => list.push(read_value(kind, part, depth)?),
            }
        }
        Shape::Map => {
            let Part::Bytes(entry) = part else { return Err(format!("{} is no map", field.name)) };
            let (mut key, mut value) = (String::new(), None);
            for part in Parts(entry) {
                match part? {
                    (1, Part::Bytes(text)) => key = utf8(text)?,
                    (2, part) => value = Some(read_value(field.kind, part, depth)?),
                    _ => {}
                }
            }
            let value = value.unwrap_or_else(|| match field.kind {
                FieldType::String | FieldType::Bytes | FieldType::Quantity => Value::from(""),
                _ => Value::Object(Map::new()),
            });
            if let Some(map) = into.entry(field.name).or_insert_with(|| Value::Object(Map::new())).as_object_mut() {
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

/// Whether a value is what Go leaves out when it cannot tell it from an absent one.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn read_value(kind: FieldType, part: Part<'_>, depth: usize) -> Result<Value, String> {
    Ok(match (kind, part) {
        (FieldType::Bool, Part::Number(n)) => Value::from(n != 0),
        (FieldType::Int32 | FieldType::Int64, Part::Number(n)) => Value::from(n as i64),
        (FieldType::Double, Part::Fixed(bits)) => Value::from(f64::from_bits(bits)),
        (FieldType::String, Part::Bytes(text)) => Value::from(utf8(text)?),
        (FieldType::Bytes, Part::Bytes(bytes)) => Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
        (FieldType::Time | FieldType::MicroTime, Part::Bytes(bytes)) => read_time(kind, bytes)?,
        (FieldType::Quantity, Part::Bytes(bytes)) => first_text(bytes)?.map_or(Value::from("0"), Value::from),
        (FieldType::Raw, Part::Bytes(bytes)) => match Parts(bytes).next() {
            None => Value::Null,
            Some(part) => match part? {
                (1, Part::Bytes(json)) => serde_json::from_slice(json).map_err(|e| e.to_string())?,
                _ => return Err("embedded content is only understood as JSON".to_owned()),
            },
        },
        (FieldType::Strings, Part::Bytes(bytes)) => Parts(bytes)
            .map(|part| match part? {
                (_, Part::Bytes(text)) => utf8(text).map(Value::from),
                _ => Err("a list of texts holds something else".to_owned()),
            })
            .collect::<Result<_, _>>()?,
        (FieldType::IntOrString, Part::Bytes(bytes)) => {
            let (mut is_text, mut number, mut text) = (false, 0i64, String::new());
            for part in Parts(bytes) {
                match part? {
                    (1, Part::Number(n)) => is_text = n == 1,
                    (2, Part::Number(n)) => number = n as i64,
                    (3, Part::Bytes(t)) => text = utf8(t)?,
                    _ => {}
                }
            }
            if is_text { Value::from(text) } else { Value::from(number) }
        }
        (FieldType::Message(index), Part::Bytes(bytes)) => {
            let mut map = Map::new();
            read_message(table().message(index), bytes, &mut map, depth + 1)?;
            Value::Object(map)
        }
        (kind, _) => return Err(format!("a field of type {kind:?} has another form on the wire")),
    })
}

fn read_time(kind: FieldType, bytes: &[u8]) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    for part in Parts(bytes) {
        match part? {
            (1, Part::Number(n)) => seconds = n as i64,
            (2, Part::Number(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    Ok(Value::from(if kind == FieldType::Time { meta::seconds(time) } else { meta::micros(time) }))
}

fn first_text(bytes: &[u8]) -> Result<Option<String>, String> {
    match Parts(bytes).next().transpose()? {
        Some((1, Part::Bytes(text))) => utf8(text).map(Some),
        _ => Ok(None),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|e| format!("a text is no UTF-8: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn text(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [text(1, api_version.as_bytes()), text(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), text(1, &type_meta), text(2, raw)].concat()
    }

    #[test]
    fn a_config_map_is_read_and_empty_texts_are_absent() {
        let metadata = [text(1, b"a"), text(2, b""), text(8, b"")].concat();
        let entry = [text(1, b"key"), text(2, b"value")].concat();
        let body = envelope("v1", "ConfigMap", &[text(1, &metadata), text(2, &entry)].concat());
        assert_eq!(
            decode(&body).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "value"}})
        );
    }

    #[test]
    fn a_grace_period_of_zero_is_not_lost() {
        let body = envelope("policy/v1", "DeleteOptions", &[1 << 3, 0]);
        assert_eq!(decode(&body).unwrap()["gracePeriodSeconds"], 0);
    }

    #[test]
    fn a_kind_without_a_known_form_is_refused_by_name() {
        let refused = decode(&envelope("example.org/v1", "Lamp", b"")).unwrap_err();
        assert!(refused.contains("Lamp of example.org/v1"), "{refused}");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_but_never_a_crash(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[MAGIC, &bytes].concat());
            let body = bytes[..bytes.len().min(100)].to_vec();
            let _ = decode(&envelope("v1", "Pod", &body));
        }
    }
}
