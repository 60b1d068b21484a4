//! `metrics.k8s.io`: what `kubectl top` asks for, out of what the simulation last saw nodes and pods use.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::error::ApiError;
use super::server::ApiServer;
use crate::objects::meta;
use crate::objects::selectors::LabelSelector;

/// What something uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Cores.
    pub cores: f64,
    /// Bytes.
    pub memory_bytes: u64,
}

/// The last known use, by node name and by pod UID.
#[derive(Debug, Default)]
pub struct UsageBook {
    nodes: Mutex<BTreeMap<String, Usage>>,
    pods: Mutex<BTreeMap<String, Usage>>,
}

impl UsageBook {
    /// Notes what a node and its pods use; pods that are gone are forgotten by [`UsageBook::keep_pods`].
    pub fn note(&self, node: &str, total: Usage, pods: impl IntoIterator<Item = (String, Usage)>) {
        self.nodes.lock().insert(node.to_owned(), total);
        self.pods.lock().extend(pods);
    }

    /// Forgets pods of which `lives` does not know.
    pub fn keep_pods(&self, lives: impl Fn(&str) -> bool) {
        self.pods.lock().retain(|uid, _| lives(uid));
    }
}

fn usage(used: Usage) -> Value {
    let nanos = (used.cores * 1e9).round() as u64;
    json!({"cpu": format!("{nanos}n"), "memory": format!("{}Ki", used.memory_bytes / 1024)})
}

impl ApiServer {
    /// The answer to a read of the metrics group: a list, or one object.
    ///
    /// # Errors
    /// 400 for a selector that cannot be read, 404.
    pub fn metrics(&self, plural: &str, namespace: &str, name: &str, labels: &str) -> Result<Value, ApiError> {
        let selector = LabelSelector::parse(labels).map_err(ApiError::bad_request)?;
        let now = self.clock().seconds();
        let kind = match plural {
            "nodes" => "NodeMetrics",
            "pods" => "PodMetrics",
            _ => return Err(ApiError::no_such_path()),
        };
        let scope = Some(namespace).filter(|n| !n.is_empty());
        let book = &self.shared.usage;
        let mut items = Vec::new();
        for object in self.read_all("", plural, scope) {
            let own = &object["metadata"]["labels"];
            if !selector.fits(|key| own.get(key).and_then(Value::as_str))
                || (!name.is_empty() && meta::name(&object) != name)
            {
                continue;
            }
            let mut metadata = json!({"name": meta::name(&object), "creationTimestamp": now});
            if own.is_object() {
                metadata["labels"] = own.clone();
            }
            let mut item = json!({
                "kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
                "timestamp": now, "window": "10s",
            });
            if plural == "nodes" {
                let Some(used) = book.nodes.lock().get(meta::name(&object)).copied() else { continue };
                item["usage"] = usage(used);
            } else {
                let Some(used) = book.pods.lock().get(meta::uid(&object)).copied() else { continue };
                item["metadata"]["namespace"] = json!(meta::namespace(&object));
                let containers = meta::list(&object, &["spec", "containers"]);
                let share = Usage {
                    cores: used.cores / containers.len().max(1) as f64,
                    memory_bytes: used.memory_bytes / containers.len().max(1) as u64,
                };
                item["containers"] =
                    containers.iter().map(|c| json!({"name": c["name"], "usage": usage(share)})).collect();
            }
            items.push(item);
        }
        if !name.is_empty() {
            return items.pop().ok_or_else(|| ApiError::not_found("metrics.k8s.io", plural, name));
        }
        Ok(
            json!({"kind": format!("{kind}List"), "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}),
        )
    }
}
