//! Writes: create, and update in all its forms. One function per verb, one rule set for all kinds.

use std::sync::Arc;

use serde_json::Value;

use super::checks::{copy_field, keep_system_fields, may_go, spec_differs, split_status};
use super::error::{ApiError, Cause};
use super::registry::{Resource, read_crd};
use super::server::{ApiServer, served_value, stored_as};
use super::store::{Entry, key};
use super::validation::{self, FieldValidation, Warnings};
use super::{defaults, events};
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
    /// What becomes of unknown fields.
    pub validation: FieldValidation,
    /// Where warnings for the client go.
    pub warnings: Warnings,
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
        let mut object = self.read_body(resource, namespace, body, context, false)?;
        let metadata = meta::metadata_mut(&mut object);
        if metadata.get("resourceVersion").is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty() && s != "0")) {
            return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
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
        self.check_namespace(resource, namespace, &name)?;
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
        self.complete(resource, None, &mut object, context)?;
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
        let changed = if resource.group == "events.k8s.io" {
            change(&events::to_events_group(old.clone()))?
        } else if stored_as(resource, &current.bytes) {
            change(&old)?
        } else {
            change(&served_value(resource, &current))?
        };
        let mut new = self.read_body(resource, namespace, changed, context, !context.replace)?;
        self.check_same_name(&mut new, name)?;
        self.check_versions(resource, &old, &new, context)?;
        keep_system_fields(&old, &mut new);
        split_status(resource, &old, &mut new, context.subresource);
        defaults::before_update(resource, &old, &mut new, context.subresource)
            .map_err(|c| ApiError::invalid(&resource.group, &resource.kind, name, c))?;
        self.complete(resource, Some(&old), &mut new, context)?;
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

    pub(super) fn check_same_name(&self, new: &mut Value, name: &str) -> Result<(), ApiError> {
        match meta::name(new) {
            given if given == name => {}
            "" => {
                meta::metadata_mut(new).insert("name".to_owned(), Value::from(name));
            }
            given => {
                let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(ApiError::bad_request(message));
            }
        }
        Ok(())
    }

    /// What is left to do for a write that changes metadata and status only: labels are checked, owners recorded.
    pub(super) fn check_owned_metadata(
        &self,
        resource: &Resource,
        old: &Value,
        new: &mut Value,
        name: &str,
        context: &WriteContext,
    ) -> Result<(), ApiError> {
        match context.manager.as_deref().filter(|_| !context.owners_recorded) {
            Some(manager) => {
                let causes = self.check_metadata(Some(old), new);
                if !causes.is_empty() {
                    return Err(ApiError::invalid(&resource.group, &resource.kind, name, causes));
                }
                self.track(resource, Some(old), new, manager, context.subresource);
            }
            None if !context.owners_recorded => copy_field(old, new, "managedFields"),
            None => {}
        }
        Ok(())
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
    fn complete(
        &self,
        resource: &Resource,
        old: Option<&Value>,
        object: &mut Value,
        context: &WriteContext,
    ) -> Result<(), ApiError> {
        let name = meta::name(object).to_owned();
        if let Some(custom) = &resource.custom {
            let unknown = custom.schema.prune(object);
            let patch = old.is_some() && !context.replace;
            validation::judge(&unknown, resource, context.validation, &context.warnings, &name, patch)?;
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
        let mut causes = if context.manager.is_some() { self.check_metadata(old, object) } else { Vec::new() };
        causes.extend(defaults::validate(resource, old, object));
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
}

/// A cause in the order field, reason, message.
pub(crate) fn cause(field: &str, reason: &str, message: &str) -> Cause {
    Cause { reason: reason.to_owned(), message: message.to_owned(), field: field.to_owned() }
}
