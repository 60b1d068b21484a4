//! Errors in the exact shape of `metav1.Status`.

use serde_json::{Value, json};

/// One cause in a Status' details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, such as `FieldValueInvalid`.
    pub reason: String,
    /// Explanation.
    pub message: String,
    /// Field that it is about; empty when it is about none.
    pub field: String,
}

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({code}): {message}")]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// Status reason, such as `NotFound`.
    pub reason: &'static str,
    /// Explanation.
    pub message: String,
    /// What it is about.
    pub details: Box<Details>,
    /// Seconds after which a client may try again; also sent as `Retry-After`.
    pub retry_after_seconds: Option<u32>,
}

/// What an error is about; empty fields are left out of the Status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// Group of the resource.
    pub group: String,
    /// Kind or plural, as the real server fills it in.
    pub kind: String,
    /// Causes.
    pub causes: Vec<Cause>,
    /// They are written even when they are empty.
    pub written: bool,
}

impl ApiError {
    /// An error with no details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: Box::default(), retry_after_seconds: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details.group = group.to_owned();
        self.details.kind = kind.to_owned();
        self.details.name = name.to_owned();
        self
    }

    /// Adds a cause.
    pub fn because(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.details.causes.push(Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        });
        self
    }

    /// 404 for an object. `resource` is the plural.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let qualified = qualified(group, resource);
        ApiError::new(404, "NotFound", format!("{qualified} \"{name}\" not found")).about(group, resource, name)
    }

    /// 404 for a path that leads nowhere.
    pub fn no_such_path() -> Self {
        ApiError::new(404, "NotFound", "the server could not find the requested resource").with_details()
    }

    /// Writes the details even when there is nothing in them.
    pub fn with_details(mut self) -> Self {
        self.details.written = true;
        self
    }

    /// 422 for a query parameter or an option with a value that is none of the few.
    pub fn unsupported_option(options: &str, field: &str, shown: &str, supported: &[&str]) -> Self {
        let all: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let message = format!("Unsupported value: {shown}: supported values: {}", all.join(", "));
        let cause = Cause { reason: "FieldValueNotSupported".to_owned(), message, field: field.to_owned() };
        ApiError::invalid("meta.k8s.io", options, "", vec![cause])
    }

    /// 409 for a name that is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let qualified = qualified(group, resource);
        ApiError::new(409, "AlreadyExists", format!("{qualified} \"{name}\" already exists"))
            .about(group, resource, name)
    }

    /// 409 for a stale write or an unmet precondition.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = qualified(group, resource);
        ApiError::new(409, "Conflict", format!("Operation cannot be fulfilled on {qualified} \"{name}\": {why}"))
            .about(group, resource, name)
    }

    /// 409 in the words that clients retry on.
    pub fn stale(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(group, resource, name, why)
    }

    /// 422 with the causes given as (field, reason, message).
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let mut shown: Vec<String> = Vec::new();
        for text in causes.iter().map(|c| format!("{}: {}", c.field, c.message)) {
            if !shown.contains(&text) {
                shown.push(text);
            }
        }
        let detail = if shown.len() == 1 { shown[0].clone() } else { format!("[{}]", shown.join(", ")) };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut error = ApiError::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {detail}"))
            .about(group, kind, name);
        error.details.causes = causes;
        error
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        ApiError::new(400, "BadRequest", message)
    }

    /// 403.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = qualified(group, resource);
        ApiError::new(403, "Forbidden", format!("{qualified} \"{name}\" is forbidden: {why}"))
            .about(group, resource, name)
    }

    /// 403 in the authorizer's words.
    pub(super) fn not_permitted(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = qualified(group, resource);
        let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        ApiError::new(403, "Forbidden", format!("{qualified}{named} is forbidden: {why}")).about(group, resource, name)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        ApiError::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details()
    }

    /// 410 for a resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        ApiError::new(410, "Expired", message)
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        ApiError::new(415, "UnsupportedMediaType", message)
    }

    /// The Status object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = Value::from(self.reason);
        }
        let mut details = serde_json::Map::new();
        for (field, value) in
            [("name", &self.details.name), ("group", &self.details.group), ("kind", &self.details.kind)]
        {
            if !value.is_empty() {
                details.insert(field.to_owned(), Value::from(value.as_str()));
            }
        }
        if !self.details.causes.is_empty() {
            let causes = self.details.causes.iter().map(|c| {
                let mut cause = json!({"reason": c.reason, "message": c.message});
                if !c.field.is_empty() {
                    cause["field"] = Value::from(c.field.as_str());
                }
                cause
            });
            details.insert("causes".to_owned(), causes.collect());
        }
        if let Some(after) = self.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), Value::from(after));
        }
        if !details.is_empty() || self.details.written {
            status["details"] = Value::Object(details);
        }
        status["code"] = Value::from(self.code);
        status
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// The Status of a deletion that was carried out at once.
pub fn deleted_status(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": resource, "uid": uid});
    if !group.is_empty() {
        details["group"] = Value::from(group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
