//! How lists and maps of a kind merge: one table for built-in kinds, the CRD's own schema for the rest.
//!
//! Server-side apply and strategic merge ask the same questions with slightly different answers, because the
//! real API declares them separately (`x-kubernetes-list-map-keys` and `x-kubernetes-patch-merge-key`).

use serde_json::Value;

/// How a list merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items are found by these keys.
    Map(Vec<String>),
}

/// The place in a schema that a value is read with.
#[derive(Debug, Clone)]
pub enum Schema<'a> {
    /// A built-in kind, at a path of field names (list steps leave no trace in the path).
    Builtin {
        /// Kind of the root object.
        kind: &'a str,
        /// Field names from the root.
        path: Vec<&'a str>,
    },
    /// A structural schema of a CRD, or nothing known (below a preserved field).
    Structural {
        /// The schema node.
        node: Option<&'a Value>,
        /// Whether this is the root, whose `metadata` follows the built-in rules.
        root: bool,
    },
}

impl<'a> Schema<'a> {
    /// The root schema of a built-in kind.
    pub fn builtin(kind: &'a str) -> Self {
        Schema::Builtin { kind, path: Vec::new() }
    }

    /// The root schema of a custom resource.
    pub fn structural(node: &'a Value) -> Self {
        Schema::Structural { node: Some(node), root: true }
    }

    /// The schema of a field.
    pub fn field(&self, name: &'a str) -> Schema<'a> {
        match self {
            Schema::Builtin { kind, path } => {
                let mut path = path.clone();
                path.push(name);
                Schema::Builtin { kind, path }
            }
            Schema::Structural { root: true, .. } if name == "metadata" => {
                Schema::Builtin { kind: "ObjectMeta", path: vec!["metadata"] }
            }
            Schema::Structural { node, .. } => {
                let node = node.and_then(|n| {
                    n.get("properties")
                        .and_then(|p| p.get(name))
                        .or_else(|| n.get("additionalProperties").filter(|a| a.is_object()))
                });
                Schema::Structural { node, root: false }
            }
        }
    }

    /// The schema of a list's items.
    pub fn item(&self) -> Schema<'a> {
        match self {
            Schema::Builtin { .. } => self.clone(),
            Schema::Structural { node, .. } => {
                Schema::Structural { node: node.and_then(|n| n.get("items")), root: false }
            }
        }
    }

    /// Whether a map at this place is owned and replaced as a whole.
    pub fn is_atomic_map(&self) -> bool {
        match self {
            Schema::Builtin { kind, path } => matches!(
                (path.last().copied(), *kind),
                (Some("nodeSelector" | "labelSelector" | "namespaceSelector"), _)
                    | (Some("selector"), _)
                    | (Some("fieldRef" | "resourceFieldRef" | "secretKeyRef" | "configMapKeyRef"), _)
            ),
            Schema::Structural { node, .. } => {
                node.and_then(|n| n.get("x-kubernetes-map-type")).and_then(Value::as_str) == Some("atomic")
            }
        }
    }

    /// How server-side apply merges a list at this place.
    pub fn list(&self) -> ListKind {
        match self {
            Schema::Builtin { kind, path } => builtin_list(kind, path),
            Schema::Structural { node, .. } => {
                let kind = node.and_then(|n| n.get("x-kubernetes-list-type")).and_then(Value::as_str);
                match kind {
                    Some("map") => {
                        let keys = node
                            .and_then(|n| n.get("x-kubernetes-list-map-keys"))
                            .and_then(Value::as_array)
                            .map(|keys| keys.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect::<Vec<_>>())
                            .unwrap_or_default();
                        if keys.is_empty() { ListKind::Atomic } else { ListKind::Map(keys) }
                    }
                    Some("set") => ListKind::Set,
                    _ => ListKind::Atomic,
                }
            }
        }
    }

    /// How a strategic merge patch merges a list at this place.
    pub fn strategic_list(&self) -> ListKind {
        let Schema::Builtin { kind, path } = self else { return ListKind::Atomic };
        let parent = path.len().checked_sub(2).map(|i| path[i]);
        match (path.last().copied().unwrap_or_default(), *kind, parent) {
            ("taints", "Node", _) => keys(&["key"]),
            ("ports", "Service", _) => keys(&["port"]),
            ("ports", _, Some("containers" | "initContainers" | "ephemeralContainers")) => keys(&["containerPort"]),
            ("topologySpreadConstraints", _, _) => keys(&["topologyKey"]),
            _ => builtin_list(kind, path),
        }
    }
}

fn keys(names: &[&str]) -> ListKind {
    ListKind::Map(names.iter().map(|n| (*n).to_owned()).collect())
}

fn builtin_list(kind: &str, path: &[&str]) -> ListKind {
    let parent = path.len().checked_sub(2).map(|i| path[i]);
    match (path.last().copied().unwrap_or_default(), kind, parent) {
        ("ownerReferences", ..) => keys(&["uid"]),
        ("finalizers", _, Some("metadata")) => ListKind::Set,
        ("containers" | "initContainers" | "ephemeralContainers" | "volumes" | "imagePullSecrets" | "env", ..) => {
            keys(&["name"])
        }
        ("schedulingGates" | "resourceClaims", ..) => keys(&["name"]),
        ("listeners", "Gateway", _) | ("secrets", "ServiceAccount", _) => keys(&["name"]),
        ("volumeMounts", ..) => keys(&["mountPath"]),
        ("volumeDevices", ..) => keys(&["devicePath"]),
        ("hostAliases" | "podIPs" | "hostIPs", ..) => keys(&["ip"]),
        ("topologySpreadConstraints", ..) => keys(&["topologyKey", "whenUnsatisfiable"]),
        ("conditions", ..) => keys(&["type"]),
        ("addresses", "Node", _) => keys(&["type"]),
        ("ports", "Service", _) => keys(&["port", "protocol"]),
        ("ports", _, Some("containers" | "initContainers" | "ephemeralContainers")) => {
            keys(&["containerPort", "protocol"])
        }
        _ => ListKind::Atomic,
    }
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
            .fold(Schema::builtin("Deployment"), |s, f| s.field(f));
        assert_eq!(ports.list(), keys(&["containerPort", "protocol"]));
        assert_eq!(ports.strategic_list(), keys(&["containerPort"]));
    }

    #[test]
    fn a_missing_protocol_is_tcp_in_a_key() {
        let key = item_key(&json!({"port": 80}), &["port".into(), "protocol".into()]);
        assert_eq!(key.as_deref(), Some(r#"{"port":80,"protocol":"TCP"}"#));
    }
}
