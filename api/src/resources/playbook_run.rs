//! PlaybookRun: one execution of a playbook; its status is the write-ahead log.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, ObjectName, PlaybookSpec};

/// Which playbook runs for which object, and why.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "PlaybookRun",
    plural = "playbookruns",
    namespaced,
    shortname = "pbr",
    status = "PlaybookRunStatus",
    derive = "PartialEq",
    doc = "One execution of a playbook: every intent before its act, what was there before, what came of it.",
    printcolumn = r#"{"name":"Playbook","type":"string","jsonPath":".spec.playbook"}"#,
    printcolumn = r#"{"name":"Object","type":"string","jsonPath":".spec.subject.name"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaybookRunSpec {
    /// Name of the playbook.
    pub playbook: String,
    /// The playbook as it was when the run began: a change of the playbook never changes a run.
    pub plan: PlaybookSpec,
    /// Object that it runs for.
    pub subject: Subject,
    /// What started it.
    pub trigger: String,
    /// Which try for this object it is, from 1.
    pub attempt: u32,
    /// W3C trace context of the incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Node that the subject is, or is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Workload that the subject is, or that owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<ObjectName>,
    /// People who must approve before the first step.
    #[serde(default)]
    pub approvals: u32,
    /// Who asked for the run; nobody: the controller did by itself. Who asked cannot approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// Runs that led to this one through runPlaybook, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<ChainLink>,
    /// The subject when the run began, trimmed to what expressions may use.
    #[schemars(schema_with = "super::free_form")]
    pub before: serde_json::Map<String, serde_json::Value>,
}

/// A run that asked for another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChainLink {
    /// The run.
    pub run: String,
    /// Its playbook.
    pub playbook: String,
}

/// An object that a run is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// API version; nothing said means v1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Kind, as in `Node`; `DataCenter` for a run that is for no single object.
    pub kind: String,
    /// Namespace, where the kind has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// UID, so that a new object of the same name is another object.
    pub uid: String,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPhase {
    /// Created, nothing intended yet.
    #[default]
    Pending,
    /// Steps are executed.
    Running,
    /// Steps are done, the result is checked.
    Verifying,
    /// Stopped between two steps, or before the first: by a freeze, a pause, an approval that is missing.
    Parked,
    /// A step failed; completed steps are undone.
    RollingBack,
    /// It worked.
    Succeeded,
    /// It did not work and everything was undone.
    RolledBack,
    /// It did not work; a person is needed.
    Failed,
    /// The playbook only observes: this is what would have been done.
    Observed,
}

impl RunPhase {
    /// Whether nothing more will happen.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Failed | Self::Observed)
    }
}

/// The write-ahead log of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlaybookRunStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: RunPhase,
    /// One line for people.
    #[serde(default)]
    pub message: String,
    /// Steps in the order in which they were intended, roll-back steps included.
    #[serde(default)]
    pub log: Vec<StepRecord>,
    /// When the run began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Why it was stopped between two steps and is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Playbook that is to run now for the same object, as `onFailure` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_up: Option<String>,
    /// Conditions: Accepted.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// One intent and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Index in the plan's steps; the final verification has the index after the last step, what `onFailure` says the
    /// ones after that.
    pub index: u32,
    /// Action, as in `cordon`; of a roll-back the inverse, as in `uncordon`.
    pub action: String,
    /// Whether it undoes the step of that index.
    #[serde(default)]
    pub undo: bool,
    /// Key that makes the act recognisable in the world: doing it twice is seen.
    pub key: String,
    /// When it was intended, RFC 3339.
    pub intended_at: String,
    /// What was there before.
    #[serde(default)]
    #[schemars(schema_with = "super::free_form")]
    pub pre_image: serde_json::Map<String, serde_json::Value>,
    /// What came of it; absent while under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<StepOutcome>,
    /// When the outcome was known, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// One line for people.
    #[serde(default)]
    pub message: String,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepOutcome {
    /// Done.
    Done,
    /// Nothing had to be done: the world was already as intended.
    Skipped,
    /// Failed.
    Failed,
    /// It cannot be told whether it was done: counts as failed.
    Ambiguous,
}

impl Subject {
    /// `Node n1`, `Pod shop/checkout-1`, as people read it.
    pub fn display(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// The object by name.
    pub fn object(&self) -> ObjectName {
        let api_version = if self.api_version.is_empty() { "v1".to_owned() } else { self.api_version.clone() };
        ObjectName { api_version, kind: self.kind.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl ObjectName {
    /// `Deployment shop/checkout`, as people read it.
    pub fn display(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}
