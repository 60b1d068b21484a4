//! Rules that a schema alone cannot say, checked the same way everywhere: in the controller's `Accepted` condition, in
//! `lint`, in tests.

use std::fmt;

/// One thing that is wrong with a spec: where, what, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, as in `spec.guards.budget.maxUnavailable`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl FieldError {
    /// An error at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for FieldError {}

/// A spec that can say what is wrong with itself.
pub trait Validate {
    /// Everything that is wrong, in the order of the fields; empty when the spec may be acted on.
    fn validate(&self) -> Vec<FieldError>;
}

/// Joins errors into the message of a condition.
pub fn summary(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
