//! The store: one resourceVersion counter, one ordered map and one bounded ring of changes per resource.
//!
//! Objects are kept as JSON bytes plus the few fields that lists, watches and owners are looked up by.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::registry::Resource;
use crate::objects::meta;
use crate::objects::selectors::{FieldSelector, LabelSelector};

/// Changes that a resource remembers for its watchers; who lags further behind gets 410.
pub const DEFAULT_RING: usize = 4096;

/// A stored object, immutable.
#[derive(Debug)]
pub struct Entry {
    /// `namespace/name`; the namespace is empty for cluster-scoped objects.
    pub key: Arc<str>,
    /// resourceVersion.
    pub version: u64,
    /// UID.
    pub uid: Arc<str>,
    /// The object.
    pub bytes: Bytes,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(Box<str>, Box<str>)]>,
    owners: Box<[Arc<str>]>,
}

impl Entry {
    fn new(resource: &Resource, key: Arc<str>, version: u64, value: &Value) -> Self {
        let pairs = |map: Option<&Value>| {
            map.and_then(Value::as_object)
                .map(|m| m.iter().filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect())
                .unwrap_or_default()
        };
        let fields = resource.selectable.iter().filter_map(|path| {
            let parts: Vec<&str> = path.split('.').collect();
            let text = match meta::at(value, &parts)? {
                Value::String(s) => s.clone(),
                Value::Object(_) | Value::Array(_) | Value::Null => return None,
                other => other.to_string(),
            };
            Some((path.as_str().into(), text.into()))
        });
        Entry {
            key,
            version,
            uid: meta::uid(value).into(),
            labels: pairs(meta::at(value, &["metadata", "labels"])),
            fields: fields.collect(),
            owners: meta::list(value, &["metadata", "ownerReferences"])
                .iter()
                .filter_map(|o| o["uid"].as_str().map(Arc::from))
                .collect(),
            bytes: serde_json::to_vec(value).expect("a JSON value can always be written").into(),
        }
    }

    /// An entry that is in no table, for answers to dry runs.
    pub(crate) fn unstored(value: &Value) -> Self {
        Entry {
            key: key(meta::namespace(value), meta::name(value)).into(),
            version: 0,
            uid: meta::uid(value).into(),
            labels: Box::default(),
            fields: Box::default(),
            owners: Box::default(),
            bytes: serde_json::to_vec(value).expect("a JSON value can always be written").into(),
        }
    }

    /// Namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(ns, _)| ns)
    }

    /// Name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// A selectable field's value; absent reads as empty.
    pub fn field(&self, path: &str) -> &str {
        match path {
            "metadata.name" => self.name(),
            "metadata.namespace" => self.namespace(),
            _ => {
                // Truths that are not written are told as false.
                let absent = if matches!(path, "spec.unschedulable" | "spec.hostNetwork") { "false" } else { "" };
                self.fields.iter().find(|(k, _)| &**k == path).map_or(absent, |(_, v)| v)
            }
        }
    }

    /// UIDs of the owners.
    pub fn owners(&self) -> &[Arc<str>] {
        &self.owners
    }

    /// The object, parsed.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("the store wrote these bytes")
    }
}

/// Which objects a list or watch wants.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only these labels.
    pub labels: LabelSelector,
    /// Only these fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Whether an object is wanted.
    pub fn fits(&self, entry: &Entry) -> bool {
        self.namespace.as_deref().is_none_or(|ns| entry.namespace() == ns)
            && self.labels.fits(|key| entry.label(key))
            && self.fields.fits(|path| entry.field(path))
    }
}

/// A change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// The state before; none for a new object.
    pub before: Option<Arc<Entry>>,
    /// The state after. For a deletion: the last state, with the deletion's own resourceVersion.
    pub after: Arc<Entry>,
    /// Whether the object is gone.
    pub deleted: bool,
}

/// A watcher fell behind what the ring remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun {
    /// The oldest resourceVersion from which a watch can still start.
    pub oldest: u64,
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Change>,
    forgotten: u64,
    changed: watch::Sender<u64>,
}

impl Default for Table {
    fn default() -> Self {
        Table { objects: BTreeMap::new(), ring: VecDeque::new(), forgotten: 0, changed: watch::Sender::new(0) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    tables: HashMap<Arc<str>, Table>,
    uids: HashMap<Arc<str>, (Arc<str>, Arc<str>)>,
    dependents: HashMap<Arc<str>, BTreeSet<(Arc<str>, Arc<str>)>>,
    /// UIDs whose owners or dependents the garbage collector has to look at.
    suspects: BTreeSet<Arc<str>>,
}

/// All objects of a data center.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    ring: usize,
    changed: watch::Sender<u64>,
}

/// `namespace/name`.
pub fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl Store {
    /// An empty store that remembers `ring` changes per resource.
    pub fn new(ring: usize) -> Self {
        Store { inner: Mutex::default(), ring: ring.max(1), changed: watch::Sender::new(0) }
    }

    /// The last resourceVersion that was given out.
    pub fn version(&self) -> u64 {
        self.inner.lock().version
    }

    /// Tells of every change of any resource (the value is the resourceVersion).
    pub fn any_change(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells of every change of one resource.
    pub fn changes_of(&self, storage: &Arc<str>) -> watch::Receiver<u64> {
        self.inner.lock().tables.entry(storage.clone()).or_default().changed.subscribe()
    }

    /// One object.
    pub fn get(&self, storage: &str, key: &str) -> Option<Arc<Entry>> {
        self.inner.lock().tables.get(storage)?.objects.get(key).cloned()
    }

    /// Where the object with a UID is: (table, key).
    pub fn find_uid(&self, uid: &str) -> Option<(Arc<str>, Arc<str>)> {
        self.inner.lock().uids.get(uid).cloned()
    }

    /// Objects that name this UID as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Arc<str>)> {
        self.inner.lock().dependents.get(uid).map(|set| set.iter().cloned().collect()).unwrap_or_default()
    }

    /// Takes the UIDs of which an owner, a dependent or a finalizer has changed since the last call.
    pub fn take_suspects(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.inner.lock().suspects).into_iter().collect()
    }

    /// Names of all tables.
    pub fn tables(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.inner.lock().tables.keys().cloned().collect();
        names.sort();
        names
    }

    /// How many objects a table holds.
    pub fn count(&self, storage: &str) -> usize {
        self.inner.lock().tables.get(storage).map_or(0, |t| t.objects.len())
    }

    /// All fitting objects in the order of their keys, and the resourceVersion of this view.
    pub fn list(&self, storage: &str, filter: &Filter) -> (Vec<Arc<Entry>>, u64) {
        let inner = self.inner.lock();
        let version = inner.version;
        let Some(table) = inner.tables.get(storage) else { return (Vec::new(), version) };
        let found = match &filter.namespace {
            // '0' follows '/' in ASCII: the range holds exactly the keys that start with "namespace/".
            Some(ns) => {
                let (from, to) = (format!("{ns}/"), format!("{ns}0"));
                let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
                table.objects.range::<str, _>(range).map(|(_, e)| e).filter(|e| filter.fits(e)).cloned().collect()
            }
            None => table.objects.values().filter(|e| filter.fits(e)).cloned().collect(),
        };
        (found, version)
    }

    /// Writes an object; `value` gets its resourceVersion. The caller holds the server's write lock.
    pub fn put(&self, resource: &Resource, value: &mut Value) -> Arc<Entry> {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = inner.version;
        meta::metadata_mut(value).insert("resourceVersion".to_owned(), Value::from(version.to_string()));
        let key: Arc<str> = key(meta::namespace(value), meta::name(value)).into();
        let entry = Arc::new(Entry::new(resource, key.clone(), version, value));
        let before =
            inner.tables.entry(resource.storage.clone()).or_default().objects.insert(key.clone(), entry.clone());
        if let Some(before) = &before {
            inner.forget_owners(&resource.storage, before);
        }
        for owner in entry.owners.iter() {
            if !inner.uids.contains_key(owner) {
                inner.suspects.insert(owner.clone());
            }
            inner.dependents.entry(owner.clone()).or_default().insert((resource.storage.clone(), key.clone()));
        }
        if meta::is_deleting(value) && meta::has_finalizers(value) {
            inner.suspects.insert(entry.uid.clone());
        }
        inner.uids.insert(entry.uid.clone(), (resource.storage.clone(), key));
        self.announce(&mut inner, &resource.storage, Change { before, after: entry.clone(), deleted: false });
        drop(inner);
        self.changed.send_replace(version);
        entry
    }

    /// Removes an object; watchers see its last state with a new resourceVersion.
    pub fn remove(&self, resource: &Resource, key: &str) -> Option<Arc<Entry>> {
        let mut inner = self.inner.lock();
        let before = inner.tables.get_mut(&resource.storage)?.objects.remove(key)?;
        inner.version += 1;
        let version = inner.version;
        let mut value = before.value();
        meta::metadata_mut(&mut value).insert("resourceVersion".to_owned(), Value::from(version.to_string()));
        let after = Arc::new(Entry::new(resource, before.key.clone(), version, &value));
        inner.forget_owners(&resource.storage, &before);
        inner.uids.remove(&before.uid);
        if inner.dependents.contains_key(&before.uid) {
            inner.suspects.insert(before.uid.clone());
        }
        inner.suspects.extend(before.owners.iter().cloned());
        let change = Change { before: Some(before), after: after.clone(), deleted: true };
        self.announce(&mut inner, &resource.storage, change);
        drop(inner);
        self.changed.send_replace(version);
        Some(after)
    }

    fn announce(&self, inner: &mut Inner, storage: &Arc<str>, change: Change) {
        let version = change.after.version;
        let table = inner.tables.entry(storage.clone()).or_default();
        table.ring.push_back(change);
        while table.ring.len() > self.ring {
            if let Some(old) = table.ring.pop_front() {
                table.forgotten = old.after.version;
            }
        }
        table.changed.send_replace(version);
    }

    /// The changes of a resource after `since`, at most `limit` of them.
    ///
    /// # Errors
    /// [`Overrun`] when some of them are forgotten already.
    pub fn changes_since(&self, storage: &str, since: u64, limit: usize) -> Result<Vec<Change>, Overrun> {
        let inner = self.inner.lock();
        let Some(table) = inner.tables.get(storage) else { return Ok(Vec::new()) };
        if since < table.forgotten {
            return Err(Overrun { oldest: table.forgotten });
        }
        let start = table.ring.partition_point(|c| c.after.version <= since);
        Ok(table.ring.range(start..).take(limit).cloned().collect())
    }

    /// Forgets all past changes, so that every watch from before now gets 410.
    pub fn compact(&self) {
        let mut inner = self.inner.lock();
        // One step forward, so that even a watcher that has seen everything up to now is too old.
        inner.version += 1;
        let version = inner.version;
        for table in inner.tables.values_mut() {
            table.ring.clear();
            table.forgotten = version;
            table.changed.send_replace(version);
        }
        drop(inner);
        self.changed.send_replace(version);
    }
}

impl Inner {
    fn forget_owners(&mut self, storage: &Arc<str>, entry: &Entry) {
        for owner in entry.owners.iter() {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(&(storage.clone(), entry.key.clone()));
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::registry::Registry;
    use proptest::prelude::*;
    use serde_json::json;

    fn config(name: &str, value: u32) -> Value {
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"namespace":"d","uid":name},"data":{"v":value.to_string()}})
    }

    #[test]
    fn a_reader_that_fell_behind_the_ring_is_told_so() {
        let (store, registry) = (Store::new(2), Registry::default());
        let resource = registry.get("", "v1", "configmaps").unwrap();
        for i in 0..4 {
            store.put(&resource, &mut config("a", i));
        }
        assert_eq!(store.changes_since("configmaps", 1, 10).unwrap_err(), Overrun { oldest: 2 });
        assert_eq!(store.changes_since("configmaps", 2, 10).unwrap().len(), 2);
    }

    #[test]
    fn a_namespace_is_not_confused_with_one_whose_name_it_starts() {
        let (store, registry) = (Store::new(8), Registry::default());
        let resource = registry.get("", "v1", "configmaps").unwrap();
        for namespace in ["a", "a-b", "ab", "b"] {
            let mut value = config("x", 1);
            value["metadata"]["namespace"] = json!(namespace);
            value["metadata"]["uid"] = json!(namespace);
            store.put(&resource, &mut value);
        }
        let filter = Filter { namespace: Some("a".into()), ..Filter::default() };
        assert_eq!(store.list("configmaps", &filter).0.len(), 1);
    }

    proptest! {
        #[test]
        fn versions_only_grow_and_a_replay_of_the_changes_gives_the_same_objects(
            steps in prop::collection::vec((0usize..4, any::<bool>(), 0u32..9), 1..60)
        ) {
            let (store, registry) = (Store::new(1000), Registry::default());
            let resource = registry.get("", "v1", "configmaps").unwrap();
            let names = ["a", "b", "c", "d"];
            for (which, delete, value) in steps {
                if delete {
                    store.remove(&resource, &key("d", names[which]));
                } else {
                    store.put(&resource, &mut config(names[which], value));
                }
            }
            let mut replayed: BTreeMap<Arc<str>, Bytes> = BTreeMap::new();
            let mut last = 0;
            for change in store.changes_since("configmaps", 0, usize::MAX).unwrap() {
                prop_assert!(change.after.version > last);
                last = change.after.version;
                if change.deleted {
                    replayed.remove(&change.after.key);
                } else {
                    replayed.insert(change.after.key.clone(), change.after.bytes.clone());
                }
            }
            let (listed, version) = store.list("configmaps", &Filter::default());
            prop_assert_eq!(version, last.max(version));
            prop_assert_eq!(listed.iter().map(|e| (e.key.clone(), e.bytes.clone())).collect::<BTreeMap<_, _>>(), replayed);
        }
    }
}
