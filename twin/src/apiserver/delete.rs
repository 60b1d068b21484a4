//! Deletion: preconditions, grace, finalizers, collections.

use std::sync::Arc;

use serde_json::Value;

use super::error::{ApiError, deleted_status};
use super::registry::Resource;
use super::server::ApiServer;
use super::store::{Entry, Filter};
use crate::objects::meta;

/// Options of a deletion.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds; `None` takes the kind's default.
    pub grace_seconds: Option<i64>,
    /// `Foreground`, `Background` or `Orphan`.
    pub propagation: Option<String>,
    /// UID that the object must have.
    pub uid: Option<String>,
    /// resourceVersion that the object must have.
    pub version: Option<String>,
    /// Nothing is deleted.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads a DeleteOptions body.
    pub fn from_body(body: &Value) -> Self {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        DeleteOptions {
            grace_seconds: body["gracePeriodSeconds"].as_i64(),
            propagation: text(&body["propagationPolicy"])
                .or_else(|| (body["orphanDependents"] == true).then(|| "Orphan".to_owned())),
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: body["dryRun"].as_array().is_some_and(|a| !a.is_empty()),
        }
    }
}

impl ApiServer {
    /// Deletes an object; the answer is the object (deletion began) or a Status (it is gone).
    ///
    /// # Errors
    /// 404, 409.
    pub fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ApiError> {
        let _serial = self.shared.write.lock();
        self.delete_locked(resource, namespace, name, options)
    }

    pub(crate) fn delete_locked(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ApiError> {
        let current = self.get(resource, namespace, name)?;
        let refuse = |why: String| Err(ApiError::conflict(&resource.group, &resource.kind, name, &why));
        if let Some(uid) = options.uid.as_deref().filter(|uid| **uid != *current.uid) {
            return refuse(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                current.uid
            ));
        }
        if let Some(version) = options.version.as_deref().filter(|v| **v != current.version.to_string()) {
            return refuse(format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
                current.version
            ));
        }
        let mut object = current.value();
        let status = deleted_status(&resource.group, &resource.plural, name, &current.uid);
        let grace = self.grace_seconds(resource, &object, options);
        let already = meta::is_deleting(&object);
        let metadata = meta::metadata_mut(&mut object);
        // Kinds of the first hour leave their dependents alone unless asked otherwise.
        let by_default = matches!(resource.plural.as_str(), "jobs" | "replicationcontrollers").then_some("Orphan");
        let finalizer = match options.propagation.as_deref().or(by_default) {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer.filter(|_| !already) {
            let list = metadata.entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
            if let Some(list) = list.as_array_mut().filter(|l| !l.iter().any(|f| f == finalizer)) {
                list.push(Value::from(finalizer));
            }
        }
        let previous = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
        let shorter = previous.is_none_or(|before| grace < before);
        if !already || shorter {
            let until = self
                .clock()
                .now()
                .saturating_add(jiff::SignedDuration::from_secs(grace))
                .unwrap_or(jiff::Timestamp::MAX);
            metadata.insert("deletionTimestamp".to_owned(), Value::from(meta::seconds(until)));
            if !resource.is("", "namespaces") {
                metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(grace));
            }
            if !already && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
                metadata.insert("generation".to_owned(), Value::from(generation + 1));
            }
        }
        if resource.is("", "namespaces") {
            object["status"]["phase"] = Value::from("Terminating");
        } else if !meta::has_finalizers(&object) && grace == 0 {
            if !options.dry_run {
                self.remove(resource, &current.key);
            }
            return Ok(match resource.plural.as_str() {
                "pods" | "persistentvolumeclaims" => object,
                "serviceaccounts" | "persistentvolumes" | "podtemplates" | "resourcequotas" => current.value(),
                _ => status,
            });
        }
        if already && !shorter {
            return Ok(current.value());
        }
        if options.dry_run {
            return Ok(object);
        }
        let entry = self.shared.store.put(resource, &mut object);
        Ok(super::server::served_value(resource, &entry))
    }

    /// Deletes all fitting objects; the answer is what they were.
    pub fn delete_collection(&self, resource: &Resource, filter: &Filter, options: &DeleteOptions) -> Vec<Arc<Entry>> {
        let _serial = self.shared.write.lock();
        let (found, _) = self.shared.store.list(&resource.storage, filter);
        found.into_iter().filter(|e| self.delete_locked(resource, e.namespace(), e.name(), options).is_ok()).collect()
    }

    /// Removes an object from the store, whatever holds it.
    pub(crate) fn remove(&self, resource: &Resource, key: &str) {
        if let Some(entry) = self.shared.store.remove(resource, key)
            && resource.is("apiextensions.k8s.io", "customresourcedefinitions")
        {
            let crd = entry.value();
            let served = self.registry().by_storage(entry.name());
            self.shared.registry.unregister_crd(&crd);
            for instance in served.iter().flat_map(|r| self.shared.store.list(&r.storage, &Filter::default()).0) {
                if let Some(resource) = &served {
                    self.shared.store.remove(resource, &instance.key);
                }
            }
        }
    }

    fn grace_seconds(&self, resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
        if !resource.is("", "pods") {
            return 0;
        }
        let scheduled = meta::text(object, &["spec", "nodeName"]).is_some();
        let finished = matches!(meta::text(object, &["status", "phase"]), Some("Succeeded" | "Failed"));
        if !scheduled || finished {
            return 0;
        }
        options
            .grace_seconds
            .or_else(|| meta::integer(object, &["spec", "terminationGracePeriodSeconds"]))
            .unwrap_or(30)
            .max(0)
    }
}
