//! What the server makes of fields that a kind does not have: ignored, told in a Warning header, or refused.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::error::ApiError;
use super::registry::Resource;
use crate::objects::kinds::table;
use crate::objects::typed::{normalise, normalise_part};

/// Warnings of one answer beyond this are not told.
const MAX_WARNINGS: usize = 16;

/// The `fieldValidation` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Unknown fields are dropped without a word.
    #[default]
    Ignore,
    /// They are dropped and told; what the API does when nothing is asked for.
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// Reads the parameter.
    ///
    /// # Errors
    /// 422 for a value that is none of the three.
    pub fn from_parameter(text: Option<&str>, options: &str) -> Result<Self, ApiError> {
        match text {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let why = format!("Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\"");
                let cause = super::write::cause("fieldValidation", "FieldValueNotSupported", &why);
                Err(ApiError::invalid("meta.k8s.io", options, "", vec![cause]))
            }
        }
    }
}

/// Warnings for the client, gathered while its request is carried out.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds one.
    pub fn add(&self, text: String) {
        let mut all = self.0.lock();
        if all.len() < MAX_WARNINGS && !all.contains(&text) {
            all.push(text);
        }
    }

    /// All of them, each as the value of a `Warning` header.
    pub fn headers(&self) -> Vec<String> {
        let quoted = |text: &String| format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        self.0.lock().iter().map(quoted).collect()
    }
}

/// Checks the types of an object and brings it into the stored form; gives back the unknown fields.
///
/// # Errors
/// 400 for a value of a wrong type, 422 when a patch brought it.
pub(super) fn check_types(resource: &Resource, object: &mut Value, patch: bool) -> Result<Vec<String>, ApiError> {
    let result = match resource.message {
        Some(message) => normalise(message, object),
        None => match object.get_mut("metadata") {
            Some(metadata) => normalise_part(table().object_meta(), "metadata", metadata),
            None => Ok(Vec::new()),
        },
    };
    result.map_err(|why| {
        if !patch {
            return unreadable(resource, &why);
        }
        // The kind is not known where a patch's result is read.
        let cause =
            super::write::cause("patch", "FieldValueInvalid", &format!("Invalid value: \"the patched object\": {why}"));
        let mut error = ApiError::invalid("", "", "", vec![cause]);
        error.message = format!(" \"\" is invalid: patch: Invalid value: \"the patched object\": {why}");
        error
    })
}

pub(super) fn unreadable(resource: &Resource, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {why}",
        resource.kind, resource.version, resource.kind
    ))
}

/// Tells of unknown fields or refuses them.
///
/// # Errors
/// 400 (422 for a patch) when they are to be refused.
pub(super) fn judge(
    unknown: &[String],
    resource: &Resource,
    validation: FieldValidation,
    warnings: &Warnings,
    name: &str,
    patch: bool,
) -> Result<(), ApiError> {
    if unknown.is_empty() {
        return Ok(());
    }
    match validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            unknown.iter().for_each(|path| warnings.add(format!("unknown field \"{path}\"")));
            Ok(())
        }
        FieldValidation::Strict => {
            let all: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
            let why = format!("strict decoding error: {}", all.join(", "));
            if patch {
                let cause = super::write::cause("patch", "FieldValueInvalid", &format!("Invalid value: {why}"));
                return Err(ApiError::invalid(&resource.group, &resource.kind, name, vec![cause]));
            }
            Err(unreadable(resource, &why))
        }
    }
}
