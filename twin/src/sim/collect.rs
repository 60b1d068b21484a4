//! Garbage collection by owner references, finalizers of deletion, and the end of namespaces.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use crate::apiserver::delete::DeleteOptions;
use crate::apiserver::registry::Resource;
use crate::apiserver::store::Filter;
use crate::apiserver::write::WriteContext;
use crate::objects::meta;

/// Events that nobody has touched for this long are forgotten, in seconds; the API server's default.
const EVENT_LIFE: i64 = 3600;

/// Finished pods that are kept (`--terminated-pod-gc-threshold`).
const FINISHED_PODS: usize = 12_500;

impl Simulation {
    pub(crate) fn expire_events(&self) {
        let resource = self.api().builtin("", "events");
        let now = self.api().clock().now().as_second();
        for event in self.api().read_all("", "events", None) {
            let times = [
                &event["lastTimestamp"],
                &event["series"]["lastObservedTime"],
                &event["metadata"]["creationTimestamp"],
            ];
            let last = times.into_iter().filter_map(|t| meta::parse_time(t.as_str()?)).max();
            if last.is_none_or(|last| now - last.as_second() > EVENT_LIFE) {
                // Refused means gone already.
                let _ = self.api().delete(
                    &resource,
                    meta::namespace(&event),
                    meta::name(&event),
                    &DeleteOptions::default(),
                );
            }
        }
    }

    /// Of more finished pods than the threshold the oldest go.
    pub(crate) fn collect_finished_pods(&mut self) {
        let surplus = self.cache.over.len().saturating_sub(FINISHED_PODS);
        if surplus == 0 {
            return;
        }
        let mut over: Vec<_> = self.cache.over.iter().filter_map(|key| self.cache.pods.get(key)).cloned().collect();
        over.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key)));
        over.iter().take(surplus).for_each(|pod| self.delete_pod(pod, Some(0)));
    }

    pub(crate) fn collect(&mut self) {
        let suspects = std::mem::take(&mut self.cache.suspects);
        for uid in suspects {
            match self.api().store().find_uid(&uid) {
                None if self.api().store().owner_lives(&uid) => {}
                None => self.drop_dependents(&uid),
                Some((table, key)) => self.finish_deletion(&uid, &table, &key),
            }
        }
    }

    /// The owner is gone: dependents without another living owner are deleted, the others lose the reference.
    fn drop_dependents(&mut self, uid: &str) {
        for (table, key) in self.api().store().dependents(uid) {
            let Some((resource, value)) = self.find(&table, &key) else { continue };
            let owners = meta::list(&value, &["metadata", "ownerReferences"]);
            let living = owners.iter().any(|o| o["uid"].as_str().is_some_and(|u| self.api().store().owner_lives(u)));
            if living {
                self.remove_owner(&resource, &value, uid);
            } else if !meta::is_deleting(&value) {
                let options = DeleteOptions { uid: Some(meta::uid(&value).to_owned()), ..DeleteOptions::default() };
                // Refused means deleted or adopted meanwhile.
                let _ = self.api().delete(&resource, meta::namespace(&value), meta::name(&value), &options);
            }
        }
    }

    /// `foregroundDeletion` waits for the dependents that block, `orphan` lets them go.
    fn finish_deletion(&mut self, uid: &str, table: &Arc<str>, key: &str) {
        let Some((resource, value)) = self.find(table, key) else { return };
        if !meta::is_deleting(&value) {
            return;
        }
        let has = |name: &str| meta::list(&value, &["metadata", "finalizers"]).iter().any(|f| f == name);
        let dependents = self.api().store().dependents(uid);
        if has("orphan") {
            for (table, key) in &dependents {
                if let Some((resource, dependent)) = self.find(table, key) {
                    self.remove_owner(&resource, &dependent, uid);
                }
            }
            self.remove_finalizer(&resource, &value, "orphan");
        } else if has("foregroundDeletion") {
            let mut waiting = false;
            for (table, key) in &dependents {
                let Some((resource, dependent)) = self.find(table, key) else { continue };
                let blocks = meta::list(&dependent, &["metadata", "ownerReferences"])
                    .iter()
                    .any(|o| o["uid"] == uid && o["blockOwnerDeletion"] == true);
                waiting |= blocks;
                if !meta::is_deleting(&dependent) {
                    let propagation = Some("Foreground".to_owned()).filter(|_| !resource.is("", "pods"));
                    let options = DeleteOptions { propagation, ..DeleteOptions::default() };
                    let _ = self.api().delete(&resource, meta::namespace(&dependent), meta::name(&dependent), &options);
                }
            }
            if !waiting || self.api().store().dependents(uid).is_empty() {
                self.remove_finalizer(&resource, &value, "foregroundDeletion");
            }
        }
    }

    fn find(&self, table: &Arc<str>, key: &str) -> Option<(Arc<Resource>, Value)> {
        let resource = self.resource_of(table)?;
        Some((resource, self.api().store().get(table, key)?.value()))
    }

    fn resource_of(&self, table: &str) -> Option<Arc<Resource>> {
        // Events are stored in the core form.
        if table == "events" { Some(self.api().builtin("", "events")) } else { self.api().registry().by_storage(table) }
    }

    fn edit(&self, resource: &Resource, value: &Value, change: impl FnOnce(&mut Value)) {
        // Refused means gone or changed meanwhile; the change comes back as a new suspicion.
        let _ =
            self.api().update(resource, meta::namespace(value), meta::name(value), &WriteContext::default(), |old| {
                let mut new = old.clone();
                change(&mut new);
                Ok(new)
            });
    }

    fn remove_owner(&self, resource: &Resource, value: &Value, uid: &str) {
        self.edit(resource, value, |new| {
            if let Some(owners) = new["metadata"]["ownerReferences"].as_array_mut() {
                owners.retain(|o| o["uid"] != uid);
            }
        });
    }

    fn remove_finalizer(&self, resource: &Resource, value: &Value, name: &str) {
        self.edit(resource, value, |new| {
            if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|f| f != name);
            }
        });
    }

    /// Empties namespaces that are terminating and lets them go when nothing is left; gives new ones their ConfigMap
    /// and ServiceAccount.
    pub(crate) fn finish_namespaces(&mut self) {
        let namespaces = self.api().read_all("", "namespaces", None);
        self.cache.terminating_namespaces = false;
        for namespace in &namespaces {
            let name = meta::name(namespace);
            if !meta::is_deleting(namespace) {
                if self.api().read("", "serviceaccounts", name, "default").is_none() {
                    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
                    // Refused means that it has just been created.
                    let _ = self.api().create_object(&account);
                }
                continue;
            }
            let mut left = 0;
            for table in self.api().store().tables() {
                let Some(resource) = self.resource_of(&table).filter(|r| r.namespaced) else { continue };
                let filter = Filter { namespace: Some(name.to_owned()), ..Filter::default() };
                for entry in self.api().store().list(&table, &filter).0 {
                    if !meta::is_deleting(&entry.value()) {
                        let _ = self.api().delete(&resource, name, entry.name(), &DeleteOptions::default());
                    }
                    left += usize::from(self.api().store().get(&table, &entry.key).is_some());
                }
            }
            if left == 0 {
                let resource = self.api().builtin("", "namespaces");
                let context = WriteContext { subresource: Some("finalize"), ..WriteContext::default() };
                let _ = self.api().update(&resource, "", name, &context, |old| {
                    let mut new = old.clone();
                    new["spec"]["finalizers"] = json!([]);
                    Ok(new)
                });
            } else {
                self.cache.terminating_namespaces = true;
            }
        }
    }
}
