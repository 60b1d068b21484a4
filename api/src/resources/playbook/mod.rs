//! Playbook: when something is wrong, what may be done about it, within which bounds, and how to know it worked.

mod amount;
mod guards;
mod step;
mod trigger;
mod validate;

pub use amount::Amount;
pub use guards::*;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use step::*;
pub use trigger::*;

use super::Condition;

/// Trigger, guards, steps, verification, rollback.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "Playbook",
    plural = "playbooks",
    shortname = "pb",
    status = "PlaybookStatus",
    derive = "PartialEq",
    doc = "A remediation: when it applies, what it does, within which bounds, and how to know that it worked.",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Summary","type":"string","jsonPath":".spec.summary"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaybookSpec {
    /// One sentence: what is wrong and what is done.
    pub summary: String,
    /// Whether it acts. Default: observe.
    #[serde(default)]
    pub mode: PlaybookMode,
    /// Any of these starts it.
    #[serde(rename = "match")]
    pub matches: Vec<Trigger>,
    /// Bounds that hold before and while it runs.
    #[serde(default)]
    pub guards: Guards,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// How to know that it worked, before anything is given back by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// What is done when a step fails, after the roll-back: notify and annotate, and as the last one runPlaybook.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_failure: Vec<Step>,
    /// Whether completed steps are undone when a later one fails. Default: automatic.
    #[serde(default)]
    pub rollback: Rollback,
}

/// Whether a playbook acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlaybookMode {
    /// Match and record what would be done; do nothing.
    #[default]
    Observe,
    /// Act.
    Enforce,
}

/// Whether completed steps are undone when a later one fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rollback {
    /// Undo, last step first, from the recorded pre-images.
    #[default]
    Automatic,
    /// Leave everything as it is for a person (a broken node stays cordoned).
    Never,
}

/// What the controller says about a playbook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlaybookStatus {
    /// Conditions: Accepted.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Digest of the spec that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
}
