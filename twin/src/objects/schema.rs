//! How lists and maps of a kind merge: one table for built-in kinds, the CRD's own schema for the rest.
//!
//! Server-side apply and strategic merge ask the same questions with slightly different answers, because the
//! real API declares them separately (`x-kubernetes-list-map-keys` and `x-kubernetes-patch-merge-key`).

use std::borrow::Cow;

use serde_json::Value;

use super::kinds::{Field, FieldType, ListRule, Message, Presence, Shape, table};

/// How a list merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind<'a> {
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items are found by these keys.
    Map(Cow<'a, [String]>),
}

/// The place in a schema that a value is read with.
#[derive(Debug, Clone, Copy)]
pub enum Schema<'a> {
    /// A message of the table of built-in kinds.
    Message(&'static Message),
    /// A field of one.
    Field(&'static Field),
    /// An item of a list field, or a value of a map field.
    Item(&'static Field),
    /// A structural schema of a CRD, or nothing known (below a preserved field).
    Structural {
        /// The schema node.
        node: Option<&'a Value>,
        /// Whether this is the root, whose `metadata` follows the built-in rules.
        root: bool,
    },
    /// A kind that is served without a schema: its lists are told by their names.
    Named {
        /// Name of the field.
        name: &'a str,
        /// Whether this is the root.
        root: bool,
    },
}

impl<'a> Schema<'a> {
    /// The root schema of a built-in kind; unknown ones have a few well-known lists only.
    pub fn builtin(api_version: &str, kind: &str) -> Self {
        match table().kind(api_version, kind) {
            Some(message) => Schema::Message(message),
            None => Schema::Named { name: "", root: true },
        }
    }

    /// The root schema of a custom resource.
    pub fn structural(node: &'a Value) -> Self {
        Schema::Structural { node: Some(node), root: true }
    }

    fn message(&self) -> Option<&'static Message> {
        let field = match self {
            Schema::Message(message) => return Some(message),
            Schema::Field(field) if field.shape == Shape::One => field,
            Schema::Item(field) => field,
            _ => return None,
        };
        match field.kind {
            FieldType::Message(index) => Some(table().message(index)),
            _ => None,
        }
    }

    /// The schema of a field.
    pub fn field(&self, name: &'a str) -> Schema<'a> {
        if let Schema::Field(field) = self
            && field.shape == Shape::Map
        {
            return Schema::Item(field);
        }
        if let Some(message) = self.message() {
            return message.field(name).map_or(Schema::Structural { node: None, root: false }, Schema::Field);
        }
        match self {
            Schema::Structural { root: true, .. } | Schema::Named { root: true, .. } if name == "metadata" => {
                Schema::Message(table().object_meta())
            }
            Schema::Structural { node, .. } => {
                let node = node.and_then(|n| {
                    n.get("properties")
                        .and_then(|p| p.get(name))
                        .or_else(|| n.get("additionalProperties").filter(|a| a.is_object()))
                });
                Schema::Structural { node, root: false }
            }
            Schema::Named { .. } => Schema::Named { name, root: false },
            _ => Schema::Structural { node: None, root: false },
        }
    }

    /// The schema of a list's items.
    pub fn item(&self) -> Schema<'a> {
        match self {
            Schema::Field(field) => Schema::Item(field),
            Schema::Structural { node, .. } => {
                Schema::Structural { node: node.and_then(|n| n.get("items")), root: false }
            }
            other => *other,
        }
    }

    /// Whether a map at this place is owned and replaced as a whole.
    pub fn is_atomic_map(&self) -> bool {
        match self {
            Schema::Message(message) => message.atomic,
            Schema::Field(field) => field.atomic || self.message().is_some_and(|m| m.atomic),
            // The keys of a keyed list's item are owned one by one whatever the item's type says of itself.
            Schema::Item(field) => field.list == ListRule::Atomic && self.message().is_some_and(|m| m.atomic),
            Schema::Structural { node, .. } => {
                node.and_then(|n| n.get("x-kubernetes-map-type")).and_then(Value::as_str) == Some("atomic")
            }
            Schema::Named { .. } => false,
        }
    }

    /// Whether a write that brings this map or list for the first time owns the map or list itself as well.
    pub fn is_counted_itself(&self) -> bool {
        match self {
            Schema::Field(field) => match field.shape {
                Shape::One => field.presence == Presence::Pointer,
                Shape::List | Shape::Map => field.presence != Presence::Written,
            },
            Schema::Message(_) | Schema::Item(_) => false,
            Schema::Structural { root, .. } | Schema::Named { root, .. } => !root,
        }
    }

    /// How server-side apply merges a list at this place.
    pub fn list(&self) -> ListKind<'a> {
        match self {
            Schema::Field(field) => match &field.list {
                ListRule::Atomic => ListKind::Atomic,
                ListRule::Set => ListKind::Set,
                ListRule::Map(keys) => ListKind::Map(Cow::Borrowed(keys)),
            },
            Schema::Message(_) | Schema::Item(_) => ListKind::Atomic,
            Schema::Structural { node, .. } => {
                let kind = node.and_then(|n| n.get("x-kubernetes-list-type")).and_then(Value::as_str);
                match kind {
                    Some("map") => {
                        let keys = node
                            .and_then(|n| n.get("x-kubernetes-list-map-keys"))
                            .and_then(Value::as_array)
                            .map(|keys| keys.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect::<Vec<_>>())
                            .unwrap_or_default();
                        if keys.is_empty() { ListKind::Atomic } else { ListKind::Map(keys.into()) }
                    }
                    Some("set") => ListKind::Set,
                    _ => ListKind::Atomic,
                }
            }
            Schema::Named { name: "conditions", .. } => keys(&["type"]),
            Schema::Named { name: "listeners", .. } => keys(&["name"]),
            Schema::Named { .. } => ListKind::Atomic,
        }
    }

    /// How a strategic merge patch merges a list at this place.
    pub fn strategic_list(&self) -> ListKind<'a> {
        match self {
            Schema::Field(Field { merge: None, .. }) => ListKind::Atomic,
            Schema::Field(Field { merge: Some(""), .. }) => ListKind::Set,
            Schema::Field(Field { merge: Some(key), .. }) => keys(&[key]),
            Schema::Named { .. } => self.list(),
            _ => ListKind::Atomic,
        }
    }

    /// Whether a strategic merge patch drops the fields that it does not name.
    pub fn retains_keys(&self) -> bool {
        matches!(self, Schema::Field(Field { retain_keys: true, .. }))
    }
}

fn keys<'a>(names: &[&str]) -> ListKind<'a> {
    ListKind::Map(names.iter().map(|n| (*n).to_owned()).collect())
}

/// The key of a list item as `k:{...}` writes it: sorted keys, defaults filled in (`protocol` is `TCP`).
/// `None` when the item is no object or lacks a key.
pub fn item_key(item: &Value, keys: &[String]) -> Option<String> {
    let mut sorted: Vec<&String> = keys.iter().collect();
    sorted.sort();
    let mut parts = Vec::with_capacity(sorted.len());
    for key in sorted {
        let value = match item.get(key) {
            Some(value) => value.clone(),
            None if key == "protocol" => Value::from("TCP"),
            None => return None,
        };
        parts.push(format!("{}:{}", Value::from(key.as_str()), value));
    }
    item.is_object().then(|| format!("{{{}}}", parts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn container_ports_are_keyed_by_port_and_protocol_for_apply_and_by_port_for_strategic_merge() {
        let ports = ["spec", "template", "spec", "containers", "ports"]
            .into_iter()
            .fold(Schema::builtin("apps/v1", "Deployment"), |s, f| if f == "ports" { s.item() } else { s }.field(f));
        assert_eq!(ports.list(), keys(&["containerPort", "protocol"]));
        assert_eq!(ports.strategic_list(), keys(&["containerPort"]));
    }

    #[test]
    fn a_missing_protocol_is_tcp_in_a_key() {
        let key = item_key(&json!({"port": 80}), &["port".into(), "protocol".into()]);
        assert_eq!(key.as_deref(), Some(r#"{"port":80,"protocol":"TCP"}"#));
    }
}
