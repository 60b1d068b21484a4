//! The built-in kinds' fields as one table: numbers on the wire, JSON names, types, merge rules.
//!
//! `kinds.txt` beside this file holds the facts and is written by `scripts/twin-schema`. Strategic merge,
//! server-side apply, type checks, pruning, protobuf bodies and `explain` all read this one table.

use std::collections::HashMap;
use std::sync::LazyLock;

const TEXT: &str = include_str!("kinds.txt");

/// What a single value of a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Text.
    String,
    /// Truth.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Go's duration text.
    Duration,
    /// Amount with a suffix.
    Quantity,
    /// Number or text.
    IntOrString,
    /// Any JSON.
    Raw,
    /// A list of texts in a message of its own.
    Strings,
    /// A message, by its place in the table.
    Message(usize),
}

/// How often a field's value occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Once.
    One,
    /// In a list.
    List,
    /// In a map with text keys.
    Map,
}

/// How server-side apply merges a list field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListRule {
    /// As a whole.
    Atomic,
    /// As a set of scalars.
    Set,
    /// Item by item, found by these keys.
    Map(Vec<String>),
}

/// How Go tells an absent field from a zero one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It does not: zero values are left out.
    ZeroIsAbsent,
    /// By a pointer.
    Pointer,
    /// It does not, and zero values are written.
    Written,
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    /// Number on the wire.
    pub number: u32,
    /// One, list or map.
    pub shape: Shape,
    /// Type of one value.
    pub kind: FieldType,
    /// Whether the OpenAPI document lists it as required.
    pub required: bool,
    /// How server-side apply merges it.
    pub list: ListRule,
    /// Key of strategic merge: `Some("")` for lists of scalars, `None` for lists that are replaced.
    pub merge: Option<&'static str>,
    /// Strategic merge: fields that the patch does not name go.
    pub retain_keys: bool,
    /// Owned and replaced as a whole.
    pub atomic: bool,
    /// Absent or zero.
    pub presence: Presence,
    /// Text of the default value, as JSON.
    pub default: Option<&'static str>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    Field(usize),
    /// The fields of that message stand where this one does.
    Inline(usize),
}

/// One message: a kind or a part of one.
#[derive(Debug)]
pub struct Message {
    /// `package/version.Name`.
    pub name: &'static str,
    /// Owned and replaced as a whole.
    pub atomic: bool,
    fields: Vec<Field>,
    names: HashMap<&'static str, usize>,
    numbers: HashMap<u32, Slot>,
    inline: Vec<usize>,
}

impl Message {
    /// The name without package and version.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The field of that JSON name, also one of an embedded message.
    pub fn field(&'static self, name: &str) -> Option<&'static Field> {
        match self.names.get(name) {
            Some(index) => Some(&self.fields[*index]),
            None => self.inline.iter().find_map(|i| table().messages[*i].field(name)),
        }
    }

    /// All fields, those of embedded messages included.
    pub fn all_fields(&'static self) -> Vec<&'static Field> {
        let embedded = self.inline.iter().flat_map(|i| table().messages[*i].all_fields());
        self.fields.iter().chain(embedded).collect()
    }

    pub(super) fn slot(&self, number: u32) -> Option<Slot> {
        self.numbers.get(&number).copied()
    }

    pub(super) fn own_field(&'static self, index: usize) -> &'static Field {
        &self.fields[index]
    }
}

/// The table.
#[derive(Debug)]
pub struct Kinds {
    messages: Vec<Message>,
    kinds: HashMap<(&'static str, &'static str), usize>,
    by_name: HashMap<&'static str, usize>,
}

impl Kinds {
    /// The root message of a kind.
    pub fn kind(&'static self, api_version: &str, kind: &str) -> Option<&'static Message> {
        self.kinds.get(&(api_version, kind)).map(|index| &self.messages[*index])
    }

    /// The root message of a kind in whatever version has it.
    pub fn kind_in_any_version(&'static self, kind: &str) -> Option<&'static Message> {
        let found = self.kinds.iter().filter(|((_, k), _)| *k == kind).max_by_key(|(key, _)| **key);
        found.map(|(_, index)| &self.messages[*index])
    }

    /// The message with that place.
    pub fn message(&'static self, index: usize) -> &'static Message {
        &self.messages[index]
    }

    /// `metav1.ObjectMeta`.
    pub fn object_meta(&'static self) -> &'static Message {
        &self.messages[self.by_name["meta/v1.ObjectMeta"]]
    }
}

/// The one table.
pub fn table() -> &'static Kinds {
    static TABLE: LazyLock<Kinds> = LazyLock::new(|| read(TEXT).expect("the test of this module reads the same text"));
    &TABLE
}

fn read(text: &'static str) -> Result<Kinds, String> {
    let lines = || text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut by_name = HashMap::new();
    for line in lines() {
        if let Some(rest) = line.strip_prefix("message ") {
            let name = rest.split(' ').next().unwrap_or(rest);
            by_name.insert(name, by_name.len());
        }
    }
    let find = |name: &str| by_name.get(name).copied().ok_or_else(|| format!("no message {name}"));
    let (mut kinds, mut messages) = (HashMap::new(), Vec::<Message>::new());
    for line in lines() {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["kind", version, kind, message] => {
                kinds.insert((*version, *kind), find(message)?);
            }
            ["message", name, flags @ ..] => messages.push(Message {
                name,
                atomic: flags.contains(&"atomic"),
                fields: Vec::new(),
                names: HashMap::new(),
                numbers: HashMap::new(),
                inline: Vec::new(),
            }),
            [number, name, kind, flags @ ..] => {
                let message = messages.last_mut().ok_or_else(|| format!("a field before all messages: {line}"))?;
                let number: u32 = number.parse().map_err(|e| format!("{line}: {e}"))?;
                if *name == "~" {
                    message.numbers.insert(number, Slot::Inline(find(kind)?));
                    message.inline.push(find(kind)?);
                } else {
                    let index = message.fields.len();
                    message.fields.push(read_field(number, name, kind, flags, &find)?);
                    message.names.insert(name, index);
                    message.numbers.insert(number, Slot::Field(index));
                }
            }
            _ => return Err(format!("unreadable: {line}")),
        }
    }
    Ok(Kinds { messages, kinds, by_name })
}

fn read_field(
    number: u32,
    name: &'static str,
    kind: &'static str,
    flags: &[&'static str],
    find: &impl Fn(&str) -> Result<usize, String>,
) -> Result<Field, String> {
    let (shape, kind) = match (kind.strip_prefix("[]"), kind.strip_prefix("{}")) {
        (Some(inner), _) => (Shape::List, inner),
        (_, Some(inner)) => (Shape::Map, inner),
        _ => (Shape::One, kind),
    };
    let kind = match kind {
        "string" => FieldType::String,
        "bool" => FieldType::Bool,
        "int32" => FieldType::Int32,
        "int64" => FieldType::Int64,
        "double" => FieldType::Double,
        "bytes" => FieldType::Bytes,
        "time" => FieldType::Time,
        "microtime" => FieldType::MicroTime,
        "duration" => FieldType::Duration,
        "quantity" => FieldType::Quantity,
        "intorstring" => FieldType::IntOrString,
        "raw" => FieldType::Raw,
        "strings" => FieldType::Strings,
        other => FieldType::Message(find(other)?),
    };
    let value = |key: &str| flags.iter().find_map(|flag| flag.strip_prefix(key));
    let has = |flag: &str| flags.contains(&flag);
    Ok(Field {
        name,
        number,
        shape,
        kind,
        required: has("required"),
        list: match value("map=") {
            Some(keys) => ListRule::Map(keys.split(',').map(str::to_owned).collect()),
            None if has("set") => ListRule::Set,
            None => ListRule::Atomic,
        },
        merge: value("merge=").or(has("merge").then_some("")),
        retain_keys: has("retainKeys"),
        atomic: has("atomic"),
        presence: match (has("pointer"), has("written")) {
            (true, _) => Presence::Pointer,
            (_, true) => Presence::Written,
            _ => Presence::ZeroIsAbsent,
        },
        default: value("default="),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_and_knows_embedded_fields() {
        read(TEXT).unwrap();
        let container = table().kind("v1", "Pod").and_then(|pod| pod.field("spec")).map(|spec| spec.kind);
        let Some(FieldType::Message(spec)) = container else { panic!("spec is a message") };
        let Some(FieldType::Message(volume)) = table().message(spec).field("volumes").map(|f| f.kind) else {
            panic!("volumes are messages")
        };
        assert!(table().message(volume).field("emptyDir").is_some(), "volume sources are embedded in volumes");
        assert_eq!(table().message(spec).field("containers").unwrap().merge, Some("name"));
    }

    #[test]
    fn every_list_key_is_a_field_of_its_items() {
        for message in &table().messages {
            for field in &message.fields {
                let (ListRule::Map(keys), FieldType::Message(item)) = (&field.list, field.kind) else { continue };
                for key in keys {
                    assert!(table().message(item).field(key).is_some(), "{}.{} by {key}", message.name, field.name);
                }
            }
        }
    }
}
