//! Objects taken in as they are: a snapshot of another cluster, with its UIDs, statuses and resourceVersions.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::registry::Resource;
use super::server::ApiServer;
use super::store::key;
use crate::objects::meta;

/// An object that could not be taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its kind, as `apps/v1 Deployment`.
    pub kind: String,
    /// `namespace/name`.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

/// What became of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// How many objects were taken in.
    pub taken: usize,
    /// The others, in the order they came, those of unknown kinds last.
    pub refused: Vec<Refused>,
}

impl ApiServer {
    /// Takes objects in as they are. Nothing is defaulted, validated or told to watchers; a resourceVersion that is a
    /// number is kept, and later writes get higher ones. CustomResourceDefinitions among them are served first, so the
    /// order does not matter. Namespaces that are named and missing are made. Owners that are named and missing count
    /// as living. What is here under the same name is replaced.
    pub fn load(&self, objects: impl IntoIterator<Item = Value>) -> Loaded {
        let mut loaded = Loaded::default();
        let (mut seen, mut uids) = (BTreeSet::new(), BTreeSet::new());
        let mut spaces = BTreeSet::new();
        {
            let _serial = self.shared.write.lock();
            let mut later = Vec::new();
            let mut objects = objects.into_iter().filter_map(|object| {
                // What is not served yet waits for the CustomResourceDefinitions; the others are not held in memory.
                let kind = |field: &str| object[field].as_str().unwrap_or_default();
                let known = self.registry().by_kind(kind("apiVersion"), kind("kind")).is_some();
                if known {
                    return Some(object);
                }
                later.push(object);
                None
            });
            let mut take = |mut object: Value| match self.load_one(&mut object, &mut seen, &mut uids) {
                Ok(namespace) => {
                    loaded.taken += 1;
                    spaces.insert(namespace);
                }
                Err(why) => loaded.refused.push(Refused {
                    kind: format!("{} {}", text(&object["apiVersion"]), text(&object["kind"])),
                    key: key(meta::namespace(&object), meta::name(&object)),
                    why,
                }),
            };
            objects.by_ref().for_each(&mut take);
            drop(objects);
            later.into_iter().for_each(take);
        }
        for namespace in spaces.into_iter().filter(|n| !n.is_empty()) {
            if self.store().get("namespaces", &key("", &namespace)).is_none() {
                self.ensure_namespace(&namespace);
            }
        }
        self.store().loaded();
        loaded
    }

    fn load_one(
        &self,
        object: &mut Value,
        seen: &mut BTreeSet<(Arc<str>, String)>,
        uids: &mut BTreeSet<String>,
    ) -> Result<String, String> {
        let fields = object.as_object_mut().ok_or("it is not an object")?;
        let (api_version, kind) = (text(fields.get("apiVersion").unwrap_or(&Value::Null)), fields.get("kind"));
        let kind = text(kind.unwrap_or(&Value::Null));
        let resource: Arc<Resource> = self
            .registry()
            .by_kind(&api_version, &kind)
            .ok_or_else(|| format!("no kind \"{kind}\" is served in version \"{api_version}\""))?;
        if !fields.get("metadata").is_some_and(Value::is_object) {
            return Err("metadata: Required value".to_owned());
        }
        order(fields);
        if meta::name(object).is_empty() {
            return Err("metadata.name: Required value".to_owned());
        }
        if resource.namespaced == meta::namespace(object).is_empty() {
            let wanted = if resource.namespaced { "Required value" } else { "Forbidden: the kind has no namespaces" };
            return Err(format!("metadata.namespace: {wanted}"));
        }
        let own = key(meta::namespace(object), meta::name(object));
        if !seen.insert((resource.storage.clone(), own)) {
            return Err("it is in the snapshot twice".to_owned());
        }
        if meta::uid(object).is_empty() {
            let uid = self.new_uid();
            meta::metadata_mut(object).insert("uid".to_owned(), Value::from(uid));
        }
        if !uids.insert(meta::uid(object).to_owned()) {
            return Err(format!("metadata.uid: {} belongs to another object of the snapshot", meta::uid(object)));
        }
        if is_crd(object) {
            self.registry().register_crd(object)?;
        }
        let namespace = meta::namespace(object).to_owned();
        self.store().load(&resource, object);
        Ok(namespace)
    }
}

fn is_crd(object: &Value) -> bool {
    object["kind"] == "CustomResourceDefinition"
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Brings the fields into the stored order: apiVersion, kind, metadata, the others.
fn order(fields: &mut Map<String, Value>) {
    let mut ordered = Map::new();
    for name in ["apiVersion", "kind", "metadata"] {
        if let Some(value) = fields.shift_remove(name) {
            ordered.insert(name.to_owned(), value);
        }
    }
    ordered.extend(std::mem::take(fields));
    *fields = ordered;
}
