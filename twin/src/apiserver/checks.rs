//! What a written object must be before anything else looks at it, and which of its fields only the server writes.

use serde_json::{Map, Value};

use super::error::{ApiError, Cause};
use super::registry::Resource;
use super::server::ApiServer;
use super::store::key;
use super::write::{WriteContext, cause};
use super::{events, validation};
use crate::objects::meta;

impl ApiServer {
    /// Checks kind and namespace of a body and brings its fields into the stored order.
    pub(super) fn read_body(
        &self,
        resource: &Resource,
        namespace: &str,
        body: Value,
        context: &WriteContext,
        patch: bool,
    ) -> Result<Value, ApiError> {
        let api_version = resource.api_version();
        let Value::Object(mut fields) = body else {
            return Err(ApiError::bad_request("the body of the request is not an object"));
        };
        let given = |field: &str, own: &str| match fields.get(field).and_then(Value::as_str) {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => own.to_owned(),
        };
        let (version, kind) = (given("apiVersion", &api_version), given("kind", &resource.kind));
        if version != api_version || kind != resource.kind {
            return Err(self.wrong_kind(resource, &version, &kind));
        }
        let mut ordered = Map::new();
        // As the real server writes them: built-in kinds begin with their kind, custom ones with their version.
        let head = [("kind", Value::from(resource.kind.as_str())), ("apiVersion", Value::from(api_version))];
        let built_in = resource.custom.is_none();
        let (first, second) = if built_in {
            head.into()
        } else {
            let [a, b] = head;
            (b, a)
        };
        for (name, value) in [first, second] {
            ordered.insert(name.to_owned(), value);
        }
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
        // What the simulation writes over what it read is known to fit.
        if context.manager.is_some() || !patch {
            let unknown = validation::check_types(resource, &mut object, patch)?;
            let name = meta::name(&object).to_owned();
            validation::judge(&unknown, resource, context.validation, &context.warnings, &name, patch)?;
        }
        let metadata = meta::metadata_mut(&mut object);
        metadata.retain(|_, v| !v.is_null());
        if resource.namespaced {
            match metadata.get("namespace").and_then(Value::as_str) {
                Some(given) if given != namespace && !given.is_empty() => {
                    return Err(ApiError::bad_request(String::from(
                        "the namespace of the provided object does not match the namespace sent on the request",
                    )));
                }
                _ => metadata.insert("namespace".to_owned(), Value::from(namespace)),
            };
        } else {
            metadata.shift_remove("namespace");
        }
        Ok(if resource.group == "events.k8s.io" { events::to_core(object) } else { object })
    }

    /// A body of another kind than the path serves.
    fn wrong_kind(&self, resource: &Resource, version: &str, kind: &str) -> ApiError {
        let (_, short) = version.rsplit_once('/').unwrap_or(("", version));
        if self.registry().by_kind(version, kind).is_some() {
            return ApiError::bad_request(format!(
                "the API version in the data ({version}, kind {kind}) does not match the expected API version ({})",
                resource.api_version()
            ));
        }
        ApiError::bad_request(format!(
            "{kind} in version \"{short}\" cannot be handled as a {}: no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            resource.kind
        ))
    }

    /// Labels in their form; no new finalizers on what is going.
    pub(super) fn check_metadata(&self, old: Option<&Value>, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (name, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
            let short = name.rsplit_once('/').map_or(name.as_str(), |(_, short)| short);
            if !is_name_part(short) {
                let why = format!(
                    "Invalid value: \"{name}\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                );
                causes.push(cause("metadata.labels", "FieldValueInvalid", &why));
            }
            let text = value.as_str().unwrap_or_default();
            if !text.is_empty() && !is_name_part(text) {
                let why = format!(
                    "Invalid value: \"{text}\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                );
                causes.push(cause("metadata.labels", "FieldValueInvalid", &why));
            }
        }
        if let Some(old) = old.filter(|o| meta::is_deleting(o)) {
            let before = meta::list(old, &["metadata", "finalizers"]);
            let new: Vec<String> = meta::list(object, &["metadata", "finalizers"])
                .iter()
                .filter(|f| !before.contains(f))
                .map(Value::to_string)
                .collect();
            if !new.is_empty() {
                let why = format!(
                    "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    new.join(", ")
                );
                // The rules of all objects and those of the kind both tell it.
                let told = cause("metadata.finalizers", "FieldValueForbidden", &why);
                causes.extend([told.clone(), told]);
            }
        }
        causes
    }

    pub(super) fn check_name(&self, resource: &Resource, name: &str) -> Result<(), ApiError> {
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
            "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        Err(ApiError::invalid(
            &resource.group,
            &resource.kind,
            name,
            vec![cause("metadata.name", "FieldValueInvalid", &why)],
        ))
    }

    pub(super) fn check_namespace(&self, resource: &Resource, namespace: &str, name: &str) -> Result<(), ApiError> {
        if !resource.namespaced {
            return Ok(());
        }
        let entry = self
            .store()
            .get("namespaces", &key("", namespace))
            .ok_or_else(|| ApiError::not_found("", "namespaces", namespace))?;
        if entry.field("status.phase") == "Terminating" {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err(ApiError::forbidden(&resource.group, &resource.plural, name, &why).because(
                "NamespaceTerminating",
                &format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(())
    }

    pub(super) fn check_versions(
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
                let key = format!("{}/{name}", meta::namespace(old));
                let key = key.trim_start_matches('/');
                let folder = match resource.plural.as_str() {
                    "ingresses" => "ingress",
                    "endpoints" => "services/endpoints",
                    "services" => "services/specs",
                    "nodes" => "minions",
                    plural => plural,
                };
                let why = format!(
                    "StorageError: invalid object, Code: 4, Key: /registry/{folder}/{key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    meta::uid(old)
                );
                Err(ApiError::conflict(&resource.group, &resource.plural, name, &why))
            }
            None => Ok(()),
        }
    }
}

/// At most 63 of the letters that names of labels are made of, with a letter or digit at both ends.
fn is_name_part(text: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && end(text.chars().next())
        && end(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

pub(super) fn copy_field(old: &Value, new: &mut Value, field: &str) {
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

pub(super) fn keep_system_fields(old: &Value, new: &mut Value) {
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
pub(super) fn split_status(resource: &Resource, old: &Value, new: &mut Value, subresource: Option<&str>) {
    let Some(fields) = new.as_object_mut() else { return };
    if subresource == Some("ephemeralcontainers") {
        let added = fields.get("spec").and_then(|s| s.get("ephemeralContainers")).cloned();
        *new = old.clone();
        if let Some(added) = added {
            meta::object_mut(new, "spec").insert("ephemeralContainers".to_owned(), added);
        }
        return;
    }
    if matches!(subresource, Some("status" | "approval")) {
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

pub(super) fn spec_differs(old: &Value, new: &Value) -> bool {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let counted = |name: &str| !matches!(name, "metadata" | "status");
    old.iter().any(|(k, v)| counted(k) && new.get(k) != Some(v))
        || new.keys().any(|k| counted(k) && !old.contains_key(k))
}

/// Whether nothing but finalizers kept a deleted object.
pub(super) fn may_go(resource: &Resource, object: &Value) -> bool {
    let graceful = meta::integer(object, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) > 0;
    let held_namespace = resource.is("", "namespaces") && !meta::list(object, &["spec", "finalizers"]).is_empty();
    let held_pod = resource.is("", "pods") && graceful;
    !held_pod && !held_namespace
}
