//! Bounds of a playbook: how much at once, how often, when not at all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Amount;
use crate::HumanDuration;

/// Bounds of a playbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Guards {
    /// What has one run at a time. Default: object.
    #[serde(default)]
    pub scope: Scope,
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
    /// People who must approve a run before its first step.
    #[serde(default)]
    pub approvals: Approvals,
    /// Whether a freeze of a ChangeWindow keeps it from acting. Default: honour.
    #[serde(default)]
    pub windows: Windows,
    /// What a run does that a freeze, a pause or a withdrawn approval stops between two steps. Default: park.
    #[serde(default)]
    pub when_stopped: WhenStopped,
    /// Least time between two destructive runs (fence, outOfService, deletePod) on one rack. Default: 1h.
    #[serde(default = "default_rack_pause")]
    pub rack_pause: HumanDuration,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            budget: Budget::default(),
            cooldown: default_cooldown(),
            attempts: Attempts::default(),
            storm: Storm::default(),
            approvals: Approvals::default(),
            windows: Windows::default(),
            when_stopped: WhenStopped::default(),
            rack_pause: default_rack_pause(),
        }
    }
}

fn default_cooldown() -> HumanDuration {
    HumanDuration::seconds(1800)
}

fn default_rack_pause() -> HumanDuration {
    HumanDuration::seconds(3600)
}

/// What has one run at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// The object that the run is for.
    #[default]
    Object,
    /// The node of the object: a run for a pod waits for a run for its node, and for those of its neighbours.
    Node,
    /// The data center: the playbook has one run at a time.
    DataCenter,
}

/// How much of a failure domain may be out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Failure domain. Default: zone.
    #[serde(default)]
    pub per: FailureDomain,
    /// Nodes of the domain that may be unavailable at once, a number or `10%` (rounded down, at least one). For objects
    /// other than nodes: runs at once, a share counts as one. Default: 1.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FailureDomain {
    /// Nodes with the same `topology.kubernetes.io/zone`.
    #[default]
    Zone,
    /// Nodes with the same `evergreen.dev/rack`.
    Rack,
    /// Nodes with the same `evergreen.dev/pool`.
    Pool,
    /// The whole data center.
    DataCenter,
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
    /// Whether a Node whose attempts are used up is labelled and tainted (`evergreen.dev/quarantine`), so that nothing new
    /// is placed on it until a person takes the label off. Default: false.
    #[serde(default)]
    pub then_quarantine: bool,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { max: 2, window: default_attempt_window(), then_quarantine: false }
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
    /// Nothing is done until it has been calm for so long. What happened meanwhile and is over is not made up for.
    /// Default: 0s.
    #[serde(default)]
    pub resume_after: HumanDuration,
}

impl Default for Storm {
    fn default() -> Self {
        Self { max_unhealthy: default_storm(), resume_after: HumanDuration::default() }
    }
}

fn default_storm() -> Amount {
    Amount::Percent(40)
}

/// People who must approve a run, none of them the one who asked for it. Which class an object is of says the label
/// `evergreen.dev/stability` on it or its namespace; nothing said means steady.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approvals {
    /// For what is steady. Default: 0.
    #[serde(default)]
    pub steady: u32,
    /// For what is agile. Default: 0.
    #[serde(default)]
    pub agile: u32,
    /// A run that was not approved by then ends. Default: 1h.
    #[serde(default = "default_approval_timeout")]
    pub timeout: HumanDuration,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { steady: 0, agile: 0, timeout: default_approval_timeout() }
    }
}

fn default_approval_timeout() -> HumanDuration {
    HumanDuration::seconds(3600)
}

/// Whether freezes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Windows {
    /// A freeze keeps it from starting, and stops it between two steps.
    #[default]
    Honour,
    /// It acts during freezes too.
    Ignore,
}

/// What a run does that is stopped between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum WhenStopped {
    /// Waits, keeping what was done, until it may go on.
    #[default]
    Park,
    /// Undoes what was done and ends.
    RollBack,
}
