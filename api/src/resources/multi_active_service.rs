//! MultiActiveService: a service that several sites serve, and what has to hold before it moves.

mod consent;
mod failback;
mod gates;
mod status;
mod units;
mod validate;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{consent::*, failback::*, gates::*, status::*, units::*};
use super::{TimingProfile, TrafficActuator, TrafficWhitelist};
use crate::HumanDuration;

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
    doc = "A service that several data centers can serve.",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Enforcement","type":"string","jsonPath":".spec.enforcement"}"#,
    printcolumn = r#"{"name":"Active","type":"string","jsonPath":".status.activeSites"}"#,
    printcolumn = r#"{"name":"Headroom","type":"string","jsonPath":".status.headroom.summary"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MultiActiveServiceSpec {
    /// How many sites may serve at once.
    pub mode: ServiceMode,
    /// System kind of JR/T 0209: decides which gates apply.
    pub kind: SystemKind,
    /// Sites that may serve it, best first.
    pub sites: Vec<String>,
    /// How many sites shall serve at once; 1 for a single writer. Default: 1.
    #[serde(default = "one")]
    pub min_active: u32,
    /// Failover group; services of one group move together. Default: `<namespace>.<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Cells of mode Unitized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Units>,
    /// Services that have to serve at a site before this one is moved there: `name` or `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
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
    /// Whose word counts on who leads. Default: evergreen.
    #[serde(default)]
    pub authority: Authority,
    /// Timing profile that the service was planned for; under another one nothing is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<TimingProfile>,
    /// Where each site's data stand; required for kinds flow and account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_gate: Option<DataGate>,
    /// Room at the sites that stay. Default: hold planned moves, warn about unplanned ones.
    #[serde(default)]
    pub capacity_gate: CapacityGate,
    /// What demotes and promotes the service's database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseHooks>,
    /// No second transition within this time of the last one. Default: 10m.
    #[serde(default = "default_hold_down")]
    pub hold_down: HumanDuration,
    /// What moves traffic.
    pub traffic: Vec<TrafficActuator>,
    /// Clients that are led to one site whatever the shares are, as long as that site holds the service and can serve: testers
    /// of a site that comes back step by step. ActiveActive only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whitelist: Option<TrafficWhitelist>,
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
    /// One site at a time; fails closed.
    ActiveStandby,
    /// 单元化: cells by customer shard, each held by one site at a time.
    Unitized,
}

/// System kinds of JR/T 0209.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SystemKind {
    /// 流水: a ledger of flows. No loss: data gate with RPO 0, a single writer.
    Flow,
    /// 账户: accounts. As flow, and units stay whole.
    Account,
    /// 计算: re-runnable computation; capacity is its only gate.
    Compute,
    /// 查询: reads; `objectives.rpo` bounds how stale they may be, if a data gate tells.
    Query,
}

impl ServiceMode {
    /// Whether a group of this mode has at most one holder.
    pub const fn single_writer(self) -> bool {
        !matches!(self, Self::ActiveActive)
    }
}

impl SystemKind {
    /// Whether nothing may be lost without a person who accepts it.
    pub const fn no_loss(self) -> bool {
        matches!(self, Self::Flow | Self::Account)
    }
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
    /// Recovery point objective: how far a site's data may lag behind when it is given the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<HumanDuration>,
}

impl MultiActiveServiceSpec {
    /// Failover group of a service with this spec.
    pub fn group_of(&self, namespace: &str, name: &str) -> String {
        self.group.clone().unwrap_or_else(|| crate::names::default_group(namespace, name))
    }

    /// Failover groups with the sites that may hold each, best first: one, or one for each cell.
    pub fn groups(&self, namespace: &str, name: &str) -> Vec<(String, &[String])> {
        let group = self.group_of(namespace, name);
        match &self.units {
            Some(units) if self.mode == ServiceMode::Unitized => {
                units.cells.iter().map(|cell| (format!("{group}.{}", cell.name), cell.sites.as_slice())).collect()
            }
            _ => vec![(group, self.sites.as_slice())],
        }
    }

    /// Services that it depends on, as (namespace, name).
    pub fn dependencies<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
        self.depends_on.iter().map(move |text| match text.split_once('/') {
            Some((other, name)) => (other.to_owned(), name.to_owned()),
            None => (namespace.to_owned(), text.clone()),
        })
    }

    /// Recovery point objective that a move has to meet; none when no data gate asks for one.
    pub fn rpo(&self) -> Option<std::time::Duration> {
        self.data_gate.as_ref().map(|_| self.objectives.rpo.unwrap_or_default().get())
    }
}
