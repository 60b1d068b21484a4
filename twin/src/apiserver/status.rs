//! Writes of a status, without the rest of the object being read or written anew: the many writes of a fleet.

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::checks::{keep_system_fields, split_status};
use super::error::ApiError;
use super::registry::Resource;
use super::server::{ApiServer, stored_as};
use super::store::Entry;
use super::write::WriteContext;
use crate::objects::meta;

/// The fields of an object that a write of its status reads.
const READ: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// An object's top-level fields as they stand in its bytes.
pub(super) struct Parts<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(&'de str, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(6);
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Parts)
    }
}

impl<'a> Parts<'a> {
    /// Takes an object's bytes apart; none for field names that JSON has to escape.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// One field, parsed; null if there is none.
    pub(super) fn part(&self, name: &str) -> Value {
        let raw = self.0.iter().find(|(n, _)| *n == name);
        raw.and_then(|(_, raw)| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    fn read(&self) -> Option<Value> {
        let mut fields = Map::new();
        for (name, raw) in self.0.iter().filter(|(name, _)| READ.contains(name)) {
            fields.insert((*name).to_owned(), serde_json::from_str(raw.get()).ok()?);
        }
        Some(Value::Object(fields))
    }

    /// The object's bytes with metadata and status as given and all else as it was.
    pub(super) fn with(&self, new: &Value) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.iter().map(|(n, r)| n.len() + r.get().len() + 4).sum::<usize>() + 256);
        let mut put = |name: &str, part: Part<'_>| {
            out.push(if out.is_empty() { b'{' } else { b',' });
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            match part {
                Part::Raw(raw) => out.extend_from_slice(raw.get().as_bytes()),
                Part::New(value) => serde_json::to_writer(&mut out, value).expect("a JSON value can always be written"),
            }
        };
        for (name, raw) in &self.0 {
            match new.get(name).filter(|_| matches!(*name, "metadata" | "status")) {
                Some(value) => put(name, Part::New(value)),
                None if *name == "status" => {}
                None => put(name, Part::Raw(raw)),
            }
        }
        if let Some(status) = new.get("status").filter(|_| !self.0.iter().any(|(name, _)| *name == "status")) {
            put("status", Part::New(status));
        }
        out.push(b'}');
        out
    }
}

enum Part<'a> {
    Raw(&'a RawValue),
    New(&'a Value),
}

impl ApiServer {
    /// Whether a patch of a status can be carried out on metadata and status alone.
    pub(super) fn is_plain_status(&self, resource: &Resource, patch: &Value) -> bool {
        resource.has_status
            && resource.custom.is_none()
            && resource.group != "events.k8s.io"
            && !resource.is("apiextensions.k8s.io", "customresourcedefinitions")
            && patch.as_object().is_some_and(|p| p.keys().all(|k| READ.contains(&k.as_str())))
    }

    /// Changes the status of an object of a built-in kind: as [`ApiServer::update`] does, only that `change` sees
    /// nothing but metadata and status. `None` when the object has to be changed as a whole; nothing is done then.
    ///
    /// # Errors
    /// As [`ApiServer::update`].
    pub(super) fn update_status(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        context: &WriteContext,
        change: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        let _serial = self.shared.write.lock();
        let current = self.get(resource, namespace, name)?;
        if context.dry_run || !stored_as(resource, &current.bytes) {
            return Ok(None);
        }
        let Some((parts, old)) = Parts::of(&current.bytes).and_then(|parts| parts.read().map(|old| (parts, old)))
        else {
            return Ok(None);
        };
        if meta::is_deleting(&old) {
            // It may be the last write that the object waits for.
            return Ok(None);
        }
        let mut new = self.read_body(resource, namespace, change(&old)?, context, true)?;
        self.check_same_name(&mut new, name)?;
        self.check_versions(resource, &old, &new, context)?;
        keep_system_fields(&old, &mut new);
        split_status(resource, &old, &mut new, Some("status"));
        self.check_owned_metadata(resource, &old, &mut new, name, context)?;
        if new == old {
            return Ok(Some(current));
        }
        Ok(Some(self.shared.store.put_status(resource, &current, &parts, &mut new)))
    }

    /// Changes the status of an object for the simulation; `change` sees metadata and status. Returns whether the
    /// object was there.
    pub(crate) fn amend_status(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        mut change: impl FnMut(&mut Value),
    ) -> bool {
        let resource = self.builtin(group, plural);
        let context = WriteContext { subresource: Some("status"), ..WriteContext::default() };
        let written = self.update_status(&resource, namespace, name, &context, |old| {
            let mut new = old.clone();
            change(&mut new);
            Ok(new)
        });
        match written {
            Ok(Some(_)) => true,
            Ok(None) => self.amend(group, plural, namespace, name, Some("status"), change),
            Err(error) => {
                if error.code != 404 {
                    tracing::warn!(site = self.site(), %error, plural, name, "the simulation's write was refused");
                }
                false
            }
        }
    }
}
