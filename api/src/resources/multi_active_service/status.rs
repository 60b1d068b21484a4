//! What a site's controller says about a service.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resources::Condition;

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
    /// Version of the group's entry in the assignment map.
    #[serde(default)]
    pub entry_version: u64,
    /// What the planner wants to do, why, and what it rejected; empty when nothing.
    #[serde(default)]
    pub plan: Vec<String>,
    /// A move that people are asked to approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<ProposalStatus>,
    /// Whether the sites that stay could carry the load of any one that is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom: Option<HeadroomStatus>,
    /// Where the database of each group stands, as seen from this site; empty where it has no hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub database: Vec<DatabaseStatus>,
    /// Cells of a Unitized service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<CellStatus>,
    /// Weights last written at this site, by site.
    #[serde(default)]
    pub weights: BTreeMap<String, u32>,
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

/// A move that is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProposalStatus {
    /// Digest of what is proposed; an approval names it.
    pub id: String,
    /// Failover group.
    pub group: String,
    /// Version of the group's entry.
    #[serde(default)]
    pub entry_version: u64,
    /// What would be done.
    pub summary: String,
    /// People who must approve.
    pub people: u8,
    /// Who approved.
    #[serde(default)]
    pub approved_by: Vec<String>,
    /// How long a proposal is open, and what happens then.
    pub then: String,
}

/// Whether the sites that stay could carry the load of a lost one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeadroomStatus {
    /// In a few words, as in `N-1 ok` or `short without dc-a`.
    pub summary: String,
    /// What is short, by lost site; empty when nothing is.
    #[serde(default)]
    pub short: BTreeMap<String, String>,
}

/// Where a group's database stands, as seen from one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// Failover group.
    pub group: String,
    /// Version of the group's entry that its hooks are called under.
    #[serde(default)]
    pub entry_version: u64,
    /// It was promoted at this site under that version: grants are given.
    #[serde(default)]
    pub leads: bool,
    /// What was done last, or what is waited for and why.
    #[serde(default)]
    pub message: String,
}

/// Where a cell is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CellStatus {
    /// Cell.
    pub name: String,
    /// Site that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Epoch under which it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Version of the cell's entry in the assignment map.
    #[serde(default)]
    pub entry_version: u64,
}
