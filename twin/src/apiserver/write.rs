//! Writes: create, update in all its forms, delete. One function per verb, one rule set for all kinds.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::defaults;
use super::error::{ApiError, Cause, deleted_status};
use super::events;
use super::registry::{Resource, read_crd};
use super::server::ApiServer;
use super::store::{Entry, Filter, key};
use crate::objects::apply::{Writer, track};
use crate::objects::meta;

/// Who writes, and how.
#[derive(Debug, Clone, Default)]
pub struct WriteContext {
    /// Field manager; `None` for the simulation's own controllers, whose writes are not tracked.
    pub manager: Option<String>,
    /// Nothing is stored.
    pub dry_run: bool,
    /// `status` or another subresource that the write goes through.
    pub subresource: Option<&'static str>,
    /// A replace: without a resourceVersion it is refused for kinds that ask for one.
    pub replace: bool,
    /// Field ownership is recorded by the change itself (server-side apply).
    pub owners_recorded: bool,
}

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
    /// Creates an object of a built-in kind or of a registered CRD, for set-up and for the simulation.
    ///
    /// # Errors
    /// As the API would answer; 404 for an unknown kind.
    pub fn create_object(&self, body: &Value) -> Result<Arc<Entry>, ApiError> {
        let api_version = body["apiVersion"].as_str().unwrap_or_default();
        let resource = self
            .registry()
            .by_kind(api_version, body["kind"].as_str().unwrap_or_default())
            .ok_or_else(ApiError::no_such_path)?;
        let namespace = if resource.namespaced { meta::namespace(body).to_owned() } else { String::new() };
        self.create(&resource, &namespace, body.clone(), &WriteContext::default())
    }

    /// Creates an object.
    ///
    /// # Errors
    /// 400, 403, 404 (no such namespace), 409, 422.
    pub fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        body: Value,
        context: &WriteContext,
    ) -> Result<Arc<Entry>, ApiError> {
        let _serial = self.shared.write.lock();
        self.create_locked(resource, namespace, body, context)
    }

    pub(crate) fn create_locked(
        &self,
        resource: &Resource,
        namespace: &str,
        body: Value,
        context: &WriteContext,
    ) -> Result<Arc<Entry>, ApiError> {
        let mut object = self.read_body(resource, namespace, body)?;
        let metadata = meta::metadata_mut(&mut object);
        if metadata.get("resourceVersion").is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty() && s != "0")) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() {
            let Some(prefix) = metadata.get("generateName").and_then(Value::as_str).filter(|p| !p.is_empty()) else {
                let cause =
                    cause("metadata.name", "FieldValueRequired", "Required value: name or generateName is required");
                return Err(ApiError::invalid(&resource.group, &resource.kind, "", vec![cause]));
            };
            let name = format!("{prefix}{}", self.random_suffix(5));
            metadata.insert("name".to_owned(), Value::from(name));
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        self.check_name(resource, &name)?;
        self.check_namespace(resource, namespace)?;
        if self.store().get(&resource.storage, &key(namespace, &name)).is_some() {
            return Err(ApiError::already_exists(&resource.group, &resource.plural, &name));
        }
        for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            metadata.shift_remove(field);
        }
        if !context.owners_recorded {
            metadata.shift_remove("managedFields");
        }
        metadata.insert("uid".to_owned(), Value::from(self.new_uid()));
        metadata.insert("creationTimestamp".to_owned(), Value::from(self.clock().seconds()));
        if resource.has_generation {
            metadata.insert("generation".to_owned(), Value::from(1));
        }
        defaults::before_create(resource, &mut object, self);
        self.complete(resource, None, &mut object)?;
        if let Some(manager) = context.manager.as_deref().filter(|_| !context.owners_recorded) {
            self.track(resource, None, &mut object, manager, context.subresource);
        }
        self.commit(resource, &mut object, context)
    }

    /// Changes an object: `change` gets the current state and gives the wanted one.
    ///
    /// # Errors
    /// 404, 409, 422 and whatever `change` refuses with.
    pub fn update(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        context: &WriteContext,
        change: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Entry>, ApiError> {
        let _serial = self.shared.write.lock();
        self.update_locked(resource, namespace, name, context, change)
    }

    pub(crate) fn update_locked(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        context: &WriteContext,
        change: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Entry>, ApiError> {
        let current = self.get(resource, namespace, name)?;
        let old = current.value();
        // Objects of a CRD with several versions are stored in the version of the last write.
        let mut seen = super::server::served_value(resource, &current);
        if resource.group == "events.k8s.io" {
            seen = events::to_events_group(old.clone());
        }
        let mut new = self.read_body(resource, namespace, change(&seen)?)?;
        if meta::name(&new) != name {
            if !meta::name(&new).is_empty() {
                let message = format!(
                    "the name of the object ({}) does not match the name on the URL ({name})",
                    meta::name(&new)
                );
                return Err(ApiError::bad_request(message));
            }
            meta::metadata_mut(&mut new).insert("name".to_owned(), Value::from(name));
        }
        self.check_versions(resource, &old, &new, context)?;
        keep_system_fields(&old, &mut new);
        split_status(resource, &old, &mut new, context.subresource);
        defaults::before_update(resource, &old, &mut new, context.subresource)
            .map_err(|c| ApiError::invalid(&resource.group, &resource.kind, name, c))?;
        self.complete(resource, Some(&old), &mut new)?;
        if resource.has_generation && spec_differs(&old, &new) {
            let generation = meta::integer(&old, &["metadata", "generation"]).unwrap_or(0) + 1;
            meta::metadata_mut(&mut new).insert("generation".to_owned(), Value::from(generation));
        }
        match context.manager.as_deref().filter(|_| !context.owners_recorded) {
            Some(manager) => self.track(resource, Some(&old), &mut new, manager, context.subresource),
            None if !context.owners_recorded => copy_field(&old, &mut new, "managedFields"),
            None => {}
        }
        if new == old {
            return Ok(current);
        }
        if meta::is_deleting(&new) && !meta::has_finalizers(&new) && may_go(resource, &new) {
            if context.dry_run {
                return Ok(current);
            }
            let entry = self.commit(resource, &mut new, context)?;
            self.remove(resource, &entry.key);
            return Ok(entry);
        }
        self.commit(resource, &mut new, context)
    }

    /// Writes a new state for the simulation: no ownership, no resourceVersion check. Returns whether it was there.
    pub(crate) fn amend(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: Option<&'static str>,
        change: impl FnOnce(&mut Value),
    ) -> bool {
        let resource = self.builtin(group, plural);
        let context = WriteContext { subresource, ..WriteContext::default() };
        let written = self.update(&resource, namespace, name, &context, |old| {
            let mut new = old.clone();
            change(&mut new);
            Ok(new)
        });
        match written {
            Ok(_) => true,
            Err(error) => {
                if error.code != 404 {
                    tracing::warn!(site = self.site(), %error, plural, name, "the simulation's write was refused");
                }
                false
            }
        }
    }

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
        let refuse = |why: String| Err(ApiError::conflict(&resource.group, &resource.plural, name, &why));
        if let Some(uid) = options.uid.as_deref().filter(|uid| **uid != *current.uid) {
            return refuse(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                current.uid
            ));
        }
        if let Some(version) = options.version.as_deref().filter(|v| **v != current.version.to_string()) {
            return refuse(format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                current.version
            ));
        }
        let mut object = current.value();
        let status = deleted_status(&resource.group, &resource.plural, name, &current.uid);
        if options.dry_run {
            return Ok(status);
        }
        let grace = self.grace_seconds(resource, &object, options);
        let already = meta::is_deleting(&object);
        let metadata = meta::metadata_mut(&mut object);
        let finalizer = match options.propagation.as_deref() {
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
            metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(grace));
            if !already && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
                metadata.insert("generation".to_owned(), Value::from(generation + 1));
            }
        }
        if resource.is("", "namespaces") {
            object["status"]["phase"] = Value::from("Terminating");
        } else if !meta::has_finalizers(&object) && grace == 0 {
            self.remove(resource, &current.key);
            return Ok(if resource.is("", "pods") { current.value() } else { status });
        }
        if already && !shorter {
            return Ok(current.value());
        }
        let entry = self.shared.store.put(resource, &mut object);
        Ok(super::server::served_value(resource, &entry))
    }

    /// Deletes all fitting objects; the answer is how many there were.
    pub fn delete_collection(&self, resource: &Resource, filter: &Filter, options: &DeleteOptions) -> usize {
        let _serial = self.shared.write.lock();
        let (found, _) = self.shared.store.list(&resource.storage, filter);
        found.iter().filter(|e| self.delete_locked(resource, e.namespace(), e.name(), options).is_ok()).count()
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

    fn commit(&self, resource: &Resource, object: &mut Value, context: &WriteContext) -> Result<Arc<Entry>, ApiError> {
        if context.dry_run {
            return Ok(Arc::new(Entry::unstored(object)));
        }
        let is_crd = resource.is("apiextensions.k8s.io", "customresourcedefinitions");
        if is_crd {
            self.registry().register_crd(object).map_err(|why| self.invalid_crd(object, &why))?;
        }
        Ok(self.shared.store.put(resource, object))
    }

    fn invalid_crd(&self, crd: &Value, why: &str) -> ApiError {
        let (field, message) = why.split_once(": ").unwrap_or(("spec", why));
        let cause = cause(field, "FieldValueInvalid", message);
        ApiError::invalid("apiextensions.k8s.io", "CustomResourceDefinition", meta::name(crd), vec![cause])
    }

    /// Defaults, pruning, validation: what create and update share.
    fn complete(&self, resource: &Resource, old: Option<&Value>, object: &mut Value) -> Result<(), ApiError> {
        let name = meta::name(object).to_owned();
        if let Some(custom) = &resource.custom {
            custom.schema.prune(object);
            custom.schema.default(object);
            let problems = custom.schema.validate(object);
            if !problems.is_empty() {
                let causes = problems.into_iter().map(|p| cause(&p.field, p.reason, &p.message)).collect();
                return Err(ApiError::invalid(&resource.group, &resource.kind, &name, causes));
            }
            return Ok(());
        }
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            read_crd(object).map_err(|why| self.invalid_crd(object, &why))?;
            defaults::establish_crd(object, self);
        }
        defaults::fill(resource, object, self);
        let causes = defaults::validate(resource, old, object);
        if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(&resource.group, &resource.kind, &name, causes)) }
    }

    fn track(
        &self,
        resource: &Resource,
        old: Option<&Value>,
        new: &mut Value,
        manager: &str,
        subresource: Option<&str>,
    ) {
        let (time, api_version) = (self.clock().seconds(), resource.api_version());
        let writer = Writer { manager, api_version: &api_version, subresource, time: &time };
        track(old, new, &resource.schema(), &writer);
    }

    /// Checks kind and namespace of a body and brings its fields into the stored order.
    fn read_body(&self, resource: &Resource, namespace: &str, body: Value) -> Result<Value, ApiError> {
        let api_version = resource.api_version();
        let Value::Object(mut fields) = body else {
            return Err(ApiError::bad_request("the body of the request is not an object"));
        };
        for (field, expected) in [("apiVersion", api_version.as_str()), ("kind", resource.kind.as_str())] {
            if let Some(given) = fields.get(field).and_then(Value::as_str).filter(|g| !g.is_empty() && *g != expected) {
                let message = format!(
                    "{field} of the object ({given}) does not match the one that the request's path serves ({expected})"
                );
                return Err(ApiError::bad_request(message));
            }
        }
        let mut ordered = Map::new();
        ordered.insert("apiVersion".to_owned(), Value::from(api_version));
        ordered.insert("kind".to_owned(), Value::from(resource.kind.as_str()));
        ordered.insert(
            "metadata".to_owned(),
            fields.shift_remove("metadata").unwrap_or_else(|| Value::Object(Map::new())),
        );
        for (name, value) in fields {
            if !ordered.contains_key(&name) && !value.is_null() {
                ordered.insert(name, value);
            }
        }
        let mut object = Value::Object(ordered);
        defaults::check_types(resource, &object).map_err(|why| {
            ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: {why}",
                resource.kind, resource.version, resource.kind
            ))
        })?;
        let metadata = meta::metadata_mut(&mut object);
        metadata.retain(|_, v| !v.is_null());
        if resource.namespaced {
            match metadata.get("namespace").and_then(Value::as_str) {
                Some(given) if given != namespace && !given.is_empty() => {
                    return Err(ApiError::bad_request(format!(
                        "the namespace of the provided object does not match the namespace sent on the request ({given}, {namespace})"
                    )));
                }
                _ => metadata.insert("namespace".to_owned(), Value::from(namespace)),
            };
        } else {
            metadata.shift_remove("namespace");
        }
        Ok(if resource.group == "events.k8s.io" { events::to_core(object) } else { object })
    }

    fn check_name(&self, resource: &Resource, name: &str) -> Result<(), ApiError> {
        let lax = resource.group == "rbac.authorization.k8s.io";
        let fine = name.len() <= 253
            && (lax && !name.contains('/')
                || name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
                    && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && name.ends_with(|c: char| c.is_ascii_alphanumeric()));
        if fine {
            return Ok(());
        }
        let why = format!(
            "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
        );
        Err(ApiError::invalid(
            &resource.group,
            &resource.kind,
            name,
            vec![cause("metadata.name", "FieldValueInvalid", &why)],
        ))
    }

    fn check_namespace(&self, resource: &Resource, namespace: &str) -> Result<(), ApiError> {
        if !resource.namespaced {
            return Ok(());
        }
        let entry = self
            .store()
            .get("namespaces", &key("", namespace))
            .ok_or_else(|| ApiError::not_found("", "namespaces", namespace))?;
        if entry.field("status.phase") == "Terminating" {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err(ApiError::forbidden(&resource.group, &resource.plural, "", &why).because(
                "NamespaceTerminating",
                &format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(())
    }

    fn check_versions(
        &self,
        resource: &Resource,
        old: &Value,
        new: &Value,
        context: &WriteContext,
    ) -> Result<(), ApiError> {
        let name = meta::name(old);
        let given = meta::text(new, &["metadata", "resourceVersion"]).filter(|v| !v.is_empty());
        match given {
            Some(version) if Some(version) != meta::text(old, &["metadata", "resourceVersion"]) => {
                return Err(ApiError::stale(&resource.group, &resource.plural, name));
            }
            None if context.replace && !resource.unconditional_update => {
                let cause = cause(
                    "metadata.resourceVersion",
                    "FieldValueInvalid",
                    "Invalid value: 0: must be specified for an update",
                );
                return Err(ApiError::invalid(&resource.group, &resource.kind, name, vec![cause]));
            }
            _ => {}
        }
        match meta::text(new, &["metadata", "uid"]).filter(|u| !u.is_empty() && *u != meta::uid(old)) {
            Some(uid) => {
                let why =
                    format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(old));
                Err(ApiError::conflict(&resource.group, &resource.plural, name, &why))
            }
            None => Ok(()),
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

/// A cause in the order field, reason, message.
pub(crate) fn cause(field: &str, reason: &str, message: &str) -> Cause {
    Cause { reason: reason.to_owned(), message: message.to_owned(), field: field.to_owned() }
}

fn copy_field(old: &Value, new: &mut Value, field: &str) {
    let metadata = meta::metadata_mut(new);
    match meta::at(old, &["metadata", field]) {
        Some(value) => {
            metadata.insert(field.to_owned(), value.clone());
        }
        None => {
            metadata.shift_remove(field);
        }
    }
}

fn keep_system_fields(old: &Value, new: &mut Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generateName",
        "selfLink",
    ] {
        copy_field(old, new, field);
    }
}

/// A write to the main resource keeps the status; a write to the status keeps all else.
fn split_status(resource: &Resource, old: &Value, new: &mut Value, subresource: Option<&str>) {
    let Some(fields) = new.as_object_mut() else { return };
    if subresource == Some("status") {
        let status = fields.shift_remove("status");
        let metadata = fields.shift_remove("metadata");
        let mut kept = old.as_object().cloned().unwrap_or_default();
        match metadata {
            // Built-in kinds let labels and annotations be written along with the status.
            Some(given) if resource.custom.is_none() => {
                kept.insert("metadata".to_owned(), given);
            }
            Some(mut given) => {
                if let (Some(owners), Some(own)) = (
                    given.as_object_mut().and_then(|m| m.shift_remove("managedFields")),
                    kept.get_mut("metadata").and_then(Value::as_object_mut),
                ) {
                    own.insert("managedFields".to_owned(), owners);
                }
            }
            None => {}
        }
        match status {
            Some(status) => kept.insert("status".to_owned(), status),
            None => kept.shift_remove("status"),
        };
        *new = Value::Object(kept);
    } else if resource.has_status {
        match old.get("status") {
            Some(status) => fields.insert("status".to_owned(), status.clone()),
            None => fields.shift_remove("status"),
        };
    }
}

fn spec_differs(old: &Value, new: &Value) -> bool {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let counted = |name: &str| !matches!(name, "metadata" | "status");
    old.iter().any(|(k, v)| counted(k) && new.get(k) != Some(v))
        || new.keys().any(|k| counted(k) && !old.contains_key(k))
}

/// Whether nothing but finalizers kept a deleted object.
fn may_go(resource: &Resource, object: &Value) -> bool {
    let graceful = meta::integer(object, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) > 0;
    let held_namespace = resource.is("", "namespaces") && !meta::list(object, &["spec", "finalizers"]).is_empty();
    let held_pod = resource.is("", "pods") && graceful;
    !held_pod && !held_namespace
}
