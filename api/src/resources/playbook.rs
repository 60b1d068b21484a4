//! Playbook: when something is wrong, what may be done about it, within which bounds, and how to know it worked.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::{FieldError, HumanDuration, Validate};

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

/// What starts a playbook; exactly one trigger is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    /// A condition of a Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_condition: Option<NodeConditionTrigger>,
    /// CEL that must also hold; sees `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// A condition of a Node that has held for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConditionTrigger {
    /// Type of the condition, as in `KernelOops`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Status that starts it. Default: "True".
    #[serde(default = "status_true")]
    pub status: String,
    /// How long the controller must have seen it. Default: 0s.
    #[serde(default, rename = "for")]
    pub for_: HumanDuration,
}

fn status_true() -> String {
    "True".to_owned()
}

/// Bounds of a playbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Guards {
    /// How much of a failure domain may be out of service at once, counted over all runs of all playbooks.
    #[serde(default)]
    pub budget: Budget,
    /// No new run for the same object within this time of the last one. Default: 30m.
    #[serde(default = "default_cooldown")]
    pub cooldown: HumanDuration,
    /// How often an object is tried.
    #[serde(default)]
    pub attempts: Attempts,
    /// When so much is wrong that acting makes it worse.
    #[serde(default)]
    pub storm: Storm,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            budget: Budget::default(),
            cooldown: default_cooldown(),
            attempts: Attempts::default(),
            storm: Storm::default(),
        }
    }
}

fn default_cooldown() -> HumanDuration {
    HumanDuration::seconds(1800)
}

/// How much of a failure domain may be out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Failure domain. Default: zone.
    #[serde(default)]
    pub per: FailureDomain,
    /// Nodes of the domain that may be unavailable at once, a number or `10%` (rounded down, at least one). Default: 1.
    #[serde(default)]
    pub max_unavailable: Amount,
    /// Share of the domain's nodes that must be healthy, a number or `70%` (rounded up). Default: 50%.
    #[serde(default = "default_min_healthy")]
    pub min_healthy: Amount,
}

impl Default for Budget {
    fn default() -> Self {
        Self { per: FailureDomain::default(), max_unavailable: Amount::default(), min_healthy: default_min_healthy() }
    }
}

fn default_min_healthy() -> Amount {
    Amount::Percent(50)
}

/// Failure domains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FailureDomain {
    /// Nodes with the same `topology.kubernetes.io/zone`.
    #[default]
    Zone,
    /// The whole data center.
    DataCenter,
}

/// A number of things, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u8),
}

impl Default for Amount {
    fn default() -> Self {
        Self::Count(1)
    }
}

impl Amount {
    /// The amount of `total`, rounded down but at least one (for what may be missing).
    pub fn of_at_least_one(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(0) => 0,
            Self::Percent(percent) => (total * usize::from(percent) / 100).max(1),
        }
    }

    /// The amount of `total`, rounded up (for what must be there).
    pub fn of_rounded_up(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;
        impl serde::de::Visitor<'_> for AmountVisitor {
            type Value = Amount;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a percentage from 0% to 100%")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Amount, E> {
                u32::try_from(value).map(Amount::Count).map_err(|_| E::custom(format!("{value} is too many")))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Amount, E> {
                u64::try_from(value)
                    .map_err(|_| E::custom(format!("{value} is negative")))
                    .and_then(|v| self.visit_u64(v))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Amount, E> {
                let wrong = || E::custom(format!("`{text}` is neither a number nor a percentage from 0% to 100%"));
                match text.strip_suffix('%') {
                    Some(digits) => match digits.parse::<u8>() {
                        Ok(percent) if percent <= 100 => Ok(Amount::Percent(percent)),
                        _ => Err(wrong()),
                    },
                    None => text.parse().map(Amount::Count).map_err(|_| wrong()),
                }
            }
        }
        deserializer.deserialize_any(AmountVisitor)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"x-kubernetes-int-or-string": true})
    }
}

/// How often an object is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attempts {
    /// Runs per object within the window. Default: 2.
    pub max: u32,
    /// The window. Default: 24h.
    #[serde(default = "default_attempt_window")]
    pub window: HumanDuration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { max: 2, window: default_attempt_window() }
    }
}

fn default_attempt_window() -> HumanDuration {
    HumanDuration::seconds(86_400)
}

/// When so much is wrong that acting makes it worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storm {
    /// Share of the data center's nodes that may be unhealthy before nothing is done, a number or `40%`. Default: 40%.
    #[serde(default = "default_storm")]
    pub max_unhealthy: Amount,
}

impl Default for Storm {
    fn default() -> Self {
        Self { max_unhealthy: default_storm() }
    }
}

fn default_storm() -> Amount {
    Amount::Percent(40)
}

/// One step; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// Mark the node unschedulable. Undone by uncordon, if this run cordoned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Nothing>,
    /// Evict the node's pods, respecting PodDisruptionBudgets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStep>,
    /// Restart a workload: its pods are replaced as its strategy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStep>,
    /// Wait until CEL holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitStep>,
    /// Check that CEL holds for a while; fail otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Mark the node schedulable again, if this run made it unschedulable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncordon: Option<Nothing>,
}

/// A step without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Settings of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainStep {
    /// The step fails when pods are left after this time. Default: 10m.
    #[serde(default = "default_step_timeout")]
    pub timeout: HumanDuration,
}

fn default_step_timeout() -> HumanDuration {
    HumanDuration::seconds(600)
}

/// A workload to restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartStep {
    /// Namespace of the Deployment.
    pub namespace: String,
    /// Name of the Deployment.
    pub deployment: String,
    /// The step fails when the rollout has not finished after this time. Default: 10m.
    #[serde(default = "default_step_timeout")]
    pub timeout: HumanDuration,
}

/// Waiting for the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WaitStep {
    /// CEL over `node` and `before` (the node when the run began).
    pub until: String,
    /// The step fails after this time. Default: 10m.
    #[serde(default = "default_step_timeout")]
    pub timeout: HumanDuration,
}

/// How to know that it worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verify {
    /// CEL over `node` and `before` (the node when the run began).
    pub that: String,
    /// How long it must hold without a break. Default: 0s.
    #[serde(default, rename = "for")]
    pub for_: HumanDuration,
    /// It fails when it has not held for that long by then. Default: 10m.
    #[serde(default = "default_step_timeout")]
    pub timeout: HumanDuration,
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

impl Step {
    /// Names of the actions that are set; a valid step has exactly one.
    pub fn actions(&self) -> Vec<&'static str> {
        [
            ("cordon", self.cordon.is_some()),
            ("drain", self.drain.is_some()),
            ("restart", self.restart.is_some()),
            ("wait", self.wait.is_some()),
            ("verify", self.verify.is_some()),
            ("uncordon", self.uncordon.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect()
    }
}

/// Shape only; expressions are checked where CEL lives, in the playbooks room.
impl Validate for PlaybookSpec {
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.summary.trim().is_empty() {
            errors.push(FieldError::new("spec.summary", "say in one sentence what is wrong and what is done"));
        }
        if self.matches.is_empty() {
            errors.push(FieldError::new(
                "spec.match",
                "name at least one trigger, as in `- nodeCondition: {type: KernelOops}`",
            ));
        }
        for (index, trigger) in self.matches.iter().enumerate() {
            if trigger.node_condition.is_none() {
                errors.push(FieldError::new(format!("spec.match[{index}]"), "set exactly one trigger: nodeCondition"));
            }
        }
        if self.steps.is_empty() {
            errors.push(FieldError::new("spec.steps", "name at least one step"));
        }
        for (index, step) in self.steps.iter().enumerate() {
            let actions = step.actions();
            if actions.len() != 1 {
                errors.push(FieldError::new(
                    format!("spec.steps[{index}]"),
                    format!(
                        "set exactly one of cordon, drain, restart, wait, verify, uncordon; here: {}",
                        if actions.is_empty() { "none".to_owned() } else { actions.join(", ") }
                    ),
                ));
            }
        }
        let budget = &self.guards.budget;
        if matches!(budget.max_unavailable, Amount::Count(0) | Amount::Percent(0)) {
            errors.push(FieldError::new(
                "spec.guards.budget.maxUnavailable",
                "0 can never be met: nothing could ever run",
            ));
        }
        if budget.min_healthy == Amount::Percent(100) {
            errors.push(FieldError::new(
                "spec.guards.budget.minHealthy",
                "100% can never be met: the node that the playbook is for is not healthy",
            ));
        }
        if self.guards.attempts.max == 0 {
            errors.push(FieldError::new("spec.guards.attempts.max", "0 can never be met: nothing could ever run"));
        }
        errors
    }
}
