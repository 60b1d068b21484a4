//! MultiActiveService: a service that several sites serve, and what has to hold before it moves.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, TrafficActuator};
use crate::{FieldError, HumanDuration, Validate};

/// Which sites serve a service, who may move it and how traffic follows.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "MultiActiveService",
    plural = "multiactiveservices",
    namespaced,
    shortname = "mas",
    status = "MultiActiveServiceStatus",
    derive = "PartialEq",
    doc = "A service that several data centers serve at once.",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Enforcement","type":"string","jsonPath":".spec.enforcement"}"#,
    printcolumn = r#"{"name":"Active","type":"string","jsonPath":".status.activeSites"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MultiActiveServiceSpec {
    /// How many sites may serve at once.
    pub mode: ServiceMode,
    /// System kind of JR/T 0209: decides which gates apply. Only kinds without a data gate are served so far.
    pub kind: SystemKind,
    /// Sites that may serve it, best first.
    pub sites: Vec<String>,
    /// How many sites shall serve at once.
    pub min_active: u32,
    /// Failover group; services of one group move together. Default: `<namespace>.<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Workload that runs it at each site.
    pub workload: WorkloadRef,
    /// What the service promises.
    #[serde(default)]
    pub objectives: Objectives,
    /// Whether decisions are acted on. Default: observe.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Who decides a move.
    #[serde(default)]
    pub decision: DecisionPolicy,
    /// No second transition within this time of the last one. Default: 10m.
    #[serde(default = "default_hold_down")]
    pub hold_down: HumanDuration,
    /// What moves traffic.
    pub traffic: Vec<TrafficActuator>,
    /// How a returned site gets its share back.
    #[serde(default)]
    pub failback: Failback,
}

fn default_hold_down() -> HumanDuration {
    HumanDuration::seconds(600)
}

/// How many sites may serve at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceMode {
    /// Stateless: several sites serve at once; fails static.
    ActiveActive,
}

/// System kinds of JR/T 0209 that need no data gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SystemKind {
    /// 计算: re-runnable computation; capacity is its only gate.
    Compute,
    /// 查询: reads.
    Query,
}

/// The workload behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadRef {
    /// Name of a Deployment in the same namespace.
    pub deployment: String,
    /// Ready replicas that a site must have before it is given traffic. Default: 1.
    #[serde(default = "one")]
    pub min_ready: u32,
}

fn one() -> u32 {
    1
}

/// Recovery objectives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objectives {
    /// Recovery time objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<HumanDuration>,
}

/// Whether decisions are acted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// Decide, record, show; do nothing.
    #[default]
    Observe,
    /// Act.
    Enforce,
}

/// Who decides a move: for planned moves (failback) and unplanned ones (a lost site).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DecisionPolicy {
    /// Planned moves. Default: manual.
    #[serde(default)]
    pub planned: Decision,
    /// Unplanned moves. Default: manual.
    #[serde(default)]
    pub unplanned: Decision,
}

/// Who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The controller proposes in the status and does nothing.
    #[default]
    Manual,
    /// The controller acts.
    Auto,
}

/// How a returned site gets its share back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failback {
    /// Manual or automatic. Default: manual.
    #[serde(default)]
    pub mode: FailbackMode,
    /// How long a returned site must be healthy and in quorum first. Default: 10m.
    #[serde(default = "default_hold_down")]
    pub soak: HumanDuration,
}

impl Default for Failback {
    fn default() -> Self {
        Self { mode: FailbackMode::default(), soak: default_hold_down() }
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
}

/// What the site's controller sees and would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MultiActiveServiceStatus {
    /// Conditions: Accepted, Ready, SpecDrift.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Sites that the assignment map names, comma separated, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_sites: Option<String>,
    /// Sites that the assignment map names.
    #[serde(default)]
    pub holders: Vec<HolderStatus>,
    /// What the planner wants to do, why, and what it rejected; empty when nothing.
    #[serde(default)]
    pub plan: Vec<String>,
    /// Weights last written at this site, by site.
    #[serde(default)]
    pub weights: std::collections::BTreeMap<String, u32>,
    /// Digest of the spec that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// Ready replicas of the workload at this site.
    #[serde(default)]
    pub ready_replicas: u32,
}

/// One holder of the service's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HolderStatus {
    /// Site.
    pub site: String,
    /// Epoch of the site's lease that is named.
    pub epoch: u64,
}

impl MultiActiveServiceSpec {
    /// Failover group of a service with this spec.
    pub fn group_of(&self, namespace: &str, name: &str) -> String {
        self.group.clone().unwrap_or_else(|| crate::names::default_group(namespace, name))
    }
}

impl Validate for MultiActiveServiceSpec {
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for (index, site) in self.sites.iter().enumerate() {
            if !seen.insert(site) {
                errors.push(FieldError::new(format!("spec.sites[{index}]"), format!("`{site}` is named twice")));
            }
        }
        if self.sites.is_empty() {
            errors.push(FieldError::new("spec.sites", "name at least one site"));
        }
        if self.min_active == 0 || self.min_active as usize > self.sites.len() {
            errors.push(FieldError::new(
                "spec.minActive",
                format!("must be between 1 and the number of sites ({}), but is {}", self.sites.len(), self.min_active),
            ));
        }
        if self.traffic.is_empty() {
            errors.push(FieldError::new("spec.traffic", "name what moves traffic, as in `- httpRoute: {name: ...}`"));
        }
        for (index, actuator) in self.traffic.iter().enumerate() {
            errors.extend(actuator.validate_for(&format!("spec.traffic[{index}]"), &self.sites));
        }
        errors
    }
}
