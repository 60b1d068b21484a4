//! How a returned site gets its share back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FieldError, HumanDuration};

/// How a returned site gets its share back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failback {
    /// Manual, automatic or gradual. Default: manual.
    #[serde(default)]
    pub mode: FailbackMode,
    /// How long a returned site must be healthy and in quorum first, and how long each step of a gradual failback lasts.
    /// Default: 10m.
    #[serde(default = "ten_minutes")]
    pub soak: HumanDuration,
    /// Steps of a gradual failback: the share of its own clients that the returned site serves, in percent, rising to
    /// 100. Default: 10, 50, 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<u32>,
}

fn ten_minutes() -> HumanDuration {
    HumanDuration::seconds(600)
}

impl Default for Failback {
    fn default() -> Self {
        Self { mode: FailbackMode::default(), soak: ten_minutes(), steps: Vec::new() }
    }
}

/// Who brings a service back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailbackMode {
    /// A person.
    #[default]
    Manual,
    /// The controller, after the soak.
    Automatic,
    /// The controller, after the soak, step by step. ActiveActive only: a single writer moves whole.
    Gradual,
}

impl Failback {
    /// Steps of a gradual failback.
    pub fn steps(&self) -> &[u32] {
        if self.steps.is_empty() { &[10, 50, 100] } else { &self.steps }
    }

    /// Finds what is wrong; `path` is where it stands.
    pub fn validate_at(&self, path: &str, single_writer: bool) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.mode == FailbackMode::Gradual && single_writer {
            errors.push(FieldError::new(
                format!("{path}.mode"),
                "a single writer moves whole: use automatic or manual, and mode Unitized to move cell by cell",
            ));
        }
        let rises = self.steps.windows(2).all(|pair| pair[0] < pair[1]);
        let ends_whole = self.steps.last().is_none_or(|last| *last == 100);
        if !rises || !ends_whole || self.steps.first() == Some(&0) {
            errors.push(FieldError::new(
                format!("{path}.steps"),
                "must rise from at least 1 to 100, as in [10, 50, 100]",
            ));
        }
        errors
    }
}
