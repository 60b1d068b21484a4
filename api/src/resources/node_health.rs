//! NodeHealth: the agent's last verdict on its node, written on change only.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NodePrediction;
use crate::{ProblemKind, Severity};

/// The node that the verdict speaks of.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "NodeHealth",
    plural = "nodehealths",
    shortname = "nh",
    status = "NodeHealthStatus",
    derive = "PartialEq",
    doc = "What the agent on a node last said about it: problems, predictions, sources, energy source.",
    printcolumn = r#"{"name":"Verdict","type":"string","jsonPath":".status.verdict"}"#,
    printcolumn = r#"{"name":"Problems","type":"string","jsonPath":".status.problems[*].kind"}"#,
    printcolumn = r#"{"name":"Predicted","type":"string","jsonPath":".status.predictions[*].kind","priority":1}"#,
    printcolumn = r#"{"name":"Energy","type":"string","jsonPath":".status.energy.source"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeHealthSpec {
    /// Node that it speaks of; the resource has the same name.
    pub node_name: String,
}

/// The agent's verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealthStatus {
    /// `ok`, or the severity of the worst problem.
    #[serde(default)]
    pub verdict: String,
    /// Boot that the verdict speaks of.
    #[serde(default)]
    pub boot_id: String,
    /// Version of the agent.
    #[serde(default)]
    pub agent_version: String,
    /// When the agent last changed it, RFC 3339.
    #[serde(default)]
    pub observed_at: String,
    /// Problems that are raised now.
    #[serde(default)]
    pub problems: Vec<NodeProblem>,
    /// What is to be expected, and what is unlike itself.
    #[serde(default)]
    pub predictions: Vec<NodePrediction>,
    /// What the agent reads, and why not what it does not.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// Where energy figures come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<EnergyProvenance>,
}

/// One raised problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeProblem {
    /// Kind, which is also the type of the Node condition unless `condition` says another.
    pub kind: ProblemKind,
    /// Name that a rule gives to a problem that is in no taxonomy; also the type of its Node condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// How bad.
    pub severity: Severity,
    /// Class of a kernel crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_type: Option<String>,
    /// One line for people.
    pub summary: String,
    /// Lines that support it, bounded.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// How often it was seen.
    pub count: u64,
    /// First seen, RFC 3339.
    pub first_seen: String,
    /// Last seen, RFC 3339.
    pub last_seen: String,
    /// W3C trace context of the incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Whether a source is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Name of the source, as in `kmsg` or `powercap`.
    pub name: String,
    /// Whether it is read.
    pub present: bool,
    /// Why it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where energy figures come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnergyProvenance {
    /// Source, as in `powercap` or `utilization-model`.
    pub source: String,
    /// `measured`, `calibrated` or `estimated`.
    pub provenance: String,
    /// Why this source and no better one.
    pub reason: String,
}
