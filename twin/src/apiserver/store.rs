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

use super::interner::{Digest, Interner};
use super::registry::Resource;
use super::status::Parts;
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
    labels: Pairs,
    fields: Pairs,
    owners: Arc<[Arc<str>]>,
}

/// Names and values, shared among all entries that have the same.
pub(crate) type Pairs = Arc<[(Arc<str>, Arc<str>)]>;

impl Entry {
    fn new(
        resource: &Resource,
        key: Arc<str>,
        version: u64,
        value: &Value,
        before: Option<&Entry>,
        names: &mut Interner,
    ) -> Self {
        Entry::written(resource, key, version, value, before, names, written(value), false)
    }

    /// The entry of an object that is written already; `partly` when `value` has metadata and status only and the
    /// other parts are those of `before`.
    fn written(
        resource: &Resource,
        key: Arc<str>,
        version: u64,
        value: &Value,
        before: Option<&Entry>,
        names: &mut Interner,
        bytes: Bytes,
        partly: bool,
    ) -> Self {
        let labels = meta::at(value, &["metadata", "labels"]).and_then(Value::as_object);
        let labels: Vec<(&str, &str)> =
            labels.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect();
        let mut texts: Vec<(&str, std::borrow::Cow<'_, str>)> = Vec::with_capacity(resource.selectable.len());
        for path in &resource.selectable {
            if let Some(before) = before.filter(|_| partly && !path.starts_with("status.")) {
                if let Some((_, text)) = before.fields.iter().find(|(known, _)| **known == **path) {
                    texts.push((path.as_str(), (**text).into()));
                }
                continue;
            }
            let found = path.split('.').try_fold(value, |at, field| at.get(field));
            let text = match found {
                Some(Value::String(s)) => s.as_str().into(),
                None | Some(Value::Object(_) | Value::Array(_) | Value::Null) => continue,
                Some(other) => other.to_string().into(),
            };
            texts.push((path.as_str(), text));
        }
        let fields: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (*path, &**text)).collect();
        let owners = meta::list(value, &["metadata", "ownerReferences"]);
        let owners: Vec<&str> = owners.iter().filter_map(|o| o["uid"].as_str()).collect();
        let uid = meta::uid(value);
        let same_owners = |b: &&Entry| b.owners.iter().map(|o| &**o).eq(owners.iter().copied());
        Entry {
            key,
            version,
            uid: before.filter(|b| *b.uid == *uid).map_or_else(|| uid.into(), |b| b.uid.clone()),
            labels: names.pairs(&labels, before.map(|b| &b.labels)),
            fields: names.pairs(&fields, before.map(|b| &b.fields)),
            owners: match before.filter(same_owners) {
                Some(before) => before.owners.clone(),
                None => owners.iter().map(|o| names.one(o)).collect(),
            },
            bytes,
        }
    }

    /// An entry that is in no table, for answers to dry runs.
    pub(crate) fn unstored(value: &Value) -> Self {
        Entry {
            key: key(meta::namespace(value), meta::name(value)).into(),
            version: 0,
            uid: meta::uid(value).into(),
            labels: Arc::default(),
            fields: Arc::default(),
            owners: Arc::default(),
            bytes: written(value),
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

    /// One top-level field of the object, parsed; null if it has none.
    pub fn part(&self, name: &str) -> Value {
        Parts::of(&self.bytes).map_or_else(|| self.value()[name].take(), |parts| parts.part(name))
    }

    /// The object, parsed.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("the store wrote these bytes")
    }
}

/// An object's bytes, without room to spare.
fn written(value: &Value) -> Bytes {
    let bytes = serde_json::to_vec(value).expect("a JSON value can always be written");
    Bytes::from(bytes.into_boxed_slice())
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
    /// Whether it fits everything.
    pub fn is_empty(&self) -> bool {
        self.namespace.is_none() && self.labels.is_empty() && self.fields.is_empty()
    }

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

type Objects = BTreeMap<Arc<str>, Arc<Entry>>;
/// (table, key) of an object.
type Place = (Arc<str>, Arc<str>);

/// The maps are shared with forks until one side writes.
#[derive(Debug)]
struct Table {
    objects: Arc<Objects>,
    ring: VecDeque<Change>,
    forgotten: u64,
    changed: watch::Sender<u64>,
}

impl Default for Table {
    fn default() -> Self {
        Table { objects: Arc::default(), ring: VecDeque::new(), forgotten: 0, changed: watch::Sender::new(0) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    tables: HashMap<Arc<str>, Table>,
    uids: Arc<HashMap<Arc<str>, Place>>,
    dependents: Arc<HashMap<Arc<str>, BTreeSet<Place>>>,
    /// UIDs whose owners or dependents the garbage collector has to look at.
    suspects: BTreeSet<Arc<str>>,
    /// Owners that loaded objects name and that were not loaded: they count as living.
    foreign: Arc<BTreeSet<Arc<str>>>,
    names: Interner,
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

    /// A store with the same objects at the same resourceVersion, whatever becomes of either afterwards. Nothing is
    /// copied now: the first write to a table on either side copies its index (not its objects). Past changes are not
    /// taken along: a watch from before the fork gets 410.
    pub fn fork(&self) -> Store {
        let inner = self.inner.lock();
        let tables = inner.tables.iter().map(|(name, table)| {
            let fork = Table { objects: table.objects.clone(), forgotten: inner.version, ..Table::default() };
            (name.clone(), fork)
        });
        let fork = Inner {
            version: inner.version,
            tables: tables.collect(),
            uids: inner.uids.clone(),
            dependents: inner.dependents.clone(),
            suspects: inner.suspects.clone(),
            foreign: inner.foreign.clone(),
            names: Interner::default(),
        };
        Store { changed: watch::Sender::new(inner.version), inner: Mutex::new(fork), ring: self.ring }
    }

    /// Takes the objects and the version of another store over; past changes are forgotten.
    pub(super) fn restore(&self, past: &Store) {
        let Inner { version, tables, uids, dependents, foreign, .. } = past.fork().inner.into_inner();
        {
            let mut guard = self.inner.lock();
            let inner = &mut *guard;
            inner.version = version;
            (inner.uids, inner.dependents, inner.foreign) = (uids, dependents, foreign);
            inner.suspects.clear();
            for (name, table) in &mut inner.tables {
                table.objects = tables.get(name).map(|t| t.objects.clone()).unwrap_or_default();
                table.ring.clear();
                table.forgotten = version;
                table.changed.send_replace(version);
            }
        }
        self.changed.send_replace(version);
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

    /// Whether somebody waits for changes of one resource.
    pub fn is_watched(&self, storage: &str) -> bool {
        self.inner.lock().tables.get(storage).is_some_and(|t| t.changed.receiver_count() > 0)
    }

    /// One object.
    pub fn get(&self, storage: &str, key: &str) -> Option<Arc<Entry>> {
        self.inner.lock().tables.get(storage)?.objects.get(key).cloned()
    }

    /// Where the object with a UID is: (table, key).
    pub fn find_uid(&self, uid: &str) -> Option<Place> {
        self.inner.lock().uids.get(uid).cloned()
    }

    /// Whether an owner lives: its object is here, or it was named by loaded objects and never was here.
    pub fn owner_lives(&self, uid: &str) -> bool {
        let inner = self.inner.lock();
        inner.uids.contains_key(uid) || inner.foreign.contains(uid)
    }

    /// Objects that name this UID as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Place> {
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
        let (objects, version) = {
            let inner = self.inner.lock();
            let Some(table) = inner.tables.get(storage) else { return (Vec::new(), inner.version) };
            // A namespace is a short range; a whole table is looked through without holding up writers.
            if let Some(namespace) = &filter.namespace {
                let (from, to) = range_of(namespace);
                let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
                let found =
                    table.objects.range::<str, _>(range).map(|(_, e)| e).filter(|e| filter.fits(e)).cloned().collect();
                return (found, inner.version);
            }
            if filter.is_empty() {
                return (table.objects.values().cloned().collect(), inner.version);
            }
            (table.objects.clone(), inner.version)
        };
        (objects.values().filter(|e| filter.fits(e)).cloned().collect(), version)
    }

    /// Writes an object; `value` gets its resourceVersion. The caller holds the server's write lock.
    pub fn put(&self, resource: &Resource, value: &mut Value) -> Arc<Entry> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.version += 1;
        let version = inner.version;
        meta::metadata_mut(value).insert("resourceVersion".to_owned(), Value::from(version.to_string()));
        let (entry, before) = inner.insert(resource, version, value);
        if meta::is_deleting(value) && meta::has_finalizers(value) {
            inner.suspects.insert(entry.uid.clone());
        }
        self.announce(inner, &resource.storage, Change { before, after: entry.clone(), deleted: false });
        drop(guard);
        self.changed.send_replace(version);
        entry
    }

    /// Writes metadata and status of an object whose other parts stay; `new` gets its resourceVersion. The caller
    /// holds the server's write lock and has read `current` under it.
    pub(super) fn put_status(
        &self,
        resource: &Resource,
        current: &Arc<Entry>,
        parts: &Parts<'_>,
        new: &mut Value,
    ) -> Arc<Entry> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.version += 1;
        let version = inner.version;
        meta::metadata_mut(new).insert("resourceVersion".to_owned(), Value::from(version.to_string()));
        let bytes = Bytes::from(parts.with(new).into_boxed_slice());
        let key = current.key.clone();
        let entry = Entry::written(resource, key, version, new, Some(current), &mut inner.names, bytes, true);
        let entry = inner.place(resource, Arc::new(entry), Some(current));
        let change = Change { before: Some(current.clone()), after: entry.clone(), deleted: false };
        self.announce(inner, &resource.storage, change);
        drop(guard);
        self.changed.send_replace(version);
        entry
    }

    /// Takes an object in as it is, with its resourceVersion if it has one that is a number and higher ones otherwise;
    /// nobody is told. Owners that are not here count as living until [`Store::loaded`].
    pub fn load(&self, resource: &Resource, value: &mut Value) -> Arc<Entry> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let given = meta::text(value, &["metadata", "resourceVersion"]).and_then(|v| v.parse::<u64>().ok());
        let version = given.filter(|v| *v > 0).unwrap_or(inner.version + 1);
        inner.version = inner.version.max(version);
        meta::metadata_mut(value).insert("resourceVersion".to_owned(), Value::from(version.to_string()));
        inner.insert(resource, version, value).0
    }

    /// Ends a loading: whoever is named as an owner and is not here, counts as living for ever; past changes are
    /// forgotten.
    pub fn loaded(&self) {
        {
            let mut guard = self.inner.lock();
            let inner = &mut *guard;
            let foreign = Arc::make_mut(&mut inner.foreign);
            foreign.extend(inner.dependents.keys().filter(|uid| !inner.uids.contains_key(*uid)).cloned());
            inner.suspects.clear();
        }
        self.compact();
    }

    /// Removes an object; watchers see its last state with a new resourceVersion.
    pub fn remove(&self, resource: &Resource, key: &str) -> Option<Arc<Entry>> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let table = inner.tables.get_mut(&resource.storage).filter(|t| t.objects.contains_key(key))?;
        let before = Arc::make_mut(&mut table.objects).remove(key)?;
        inner.version += 1;
        let version = inner.version;
        let mut value = before.value();
        meta::metadata_mut(&mut value).insert("resourceVersion".to_owned(), Value::from(version.to_string()));
        let after =
            Arc::new(Entry::new(resource, before.key.clone(), version, &value, Some(&before), &mut inner.names));
        inner.forget_owners(&resource.storage, &before);
        Arc::make_mut(&mut inner.uids).remove(&before.uid);
        if inner.dependents.contains_key(&before.uid) {
            inner.suspects.insert(before.uid.clone());
        }
        inner.suspects.extend(before.owners.iter().cloned());
        let change = Change { before: Some(before), after: after.clone(), deleted: true };
        self.announce(inner, &resource.storage, change);
        drop(guard);
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
        if table.ring.back().is_none_or(|c| c.after.version <= since) {
            return Ok(Vec::new());
        }
        let start = table.ring.partition_point(|c| c.after.version <= since);
        Ok(table.ring.range(start..).take(limit).cloned().collect())
    }

    /// A number that two stores share exactly when they hold the same objects, byte for byte, at the same versions.
    /// FNV-1a over tables, keys and objects in their order.
    pub fn digest(&self) -> u64 {
        let mut hash = Digest::default();
        for table in self.tables() {
            hash.add(table.as_bytes());
            for entry in self.list(&table, &Filter::default()).0 {
                hash.add(entry.key.as_bytes());
                hash.add(&entry.version.to_le_bytes());
                hash.add(&entry.bytes);
            }
        }
        hash.finish()
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

/// The range of keys of a namespace: '0' follows '/' in ASCII, so it holds exactly those that start with "namespace/".
fn range_of(namespace: &str) -> (String, String) {
    (format!("{namespace}/"), format!("{namespace}0"))
}

impl Inner {
    /// Puts an entry in its place and keeps the indexes right.
    fn insert(&mut self, resource: &Resource, version: u64, value: &Value) -> (Arc<Entry>, Option<Arc<Entry>>) {
        if !self.tables.contains_key(&resource.storage) {
            self.tables.insert(resource.storage.clone(), Table::default());
        }
        let table = &self.tables[&resource.storage];
        let text = key(meta::namespace(value), meta::name(value));
        let before = table.objects.get(text.as_str()).cloned();
        let key = before.as_ref().map_or_else(|| text.into(), |b| b.key.clone());
        let entry = Entry::new(resource, key, version, value, before.as_deref(), &mut self.names);
        (self.place(resource, Arc::new(entry), before.as_ref()), before)
    }

    fn place(&mut self, resource: &Resource, entry: Arc<Entry>, before: Option<&Arc<Entry>>) -> Arc<Entry> {
        let key = entry.key.clone();
        let table = self.tables.entry(resource.storage.clone()).or_default();
        Arc::make_mut(&mut table.objects).insert(key.clone(), entry.clone());
        if before.is_some_and(|b| b.uid == entry.uid && b.owners == entry.owners) {
            return entry;
        }
        if let Some(before) = before {
            self.forget_owners(&resource.storage, before);
            Arc::make_mut(&mut self.uids).remove(&before.uid);
        }
        for owner in entry.owners.iter() {
            if !self.uids.contains_key(owner) && !self.foreign.contains(owner) {
                self.suspects.insert(owner.clone());
            }
            let place = (resource.storage.clone(), key.clone());
            Arc::make_mut(&mut self.dependents).entry(owner.clone()).or_default().insert(place);
        }
        Arc::make_mut(&mut self.uids).insert(entry.uid.clone(), (resource.storage.clone(), key));
        entry
    }

    fn forget_owners(&mut self, storage: &Arc<str>, entry: &Entry) {
        for owner in entry.owners.iter() {
            let dependents = Arc::make_mut(&mut self.dependents);
            if let Some(set) = dependents.get_mut(owner) {
                set.remove(&(storage.clone(), entry.key.clone()));
                if set.is_empty() {
                    dependents.remove(owner);
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
