//! DataCenter: a site of the fleet, member or witness.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::{FieldError, HumanDuration, Validate};

/// A data center: how to reach its API server, where it is, what its energy costs.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "DataCenter",
    plural = "datacenters",
    shortname = "dc",
    status = "DataCenterStatus",
    derive = "PartialEq",
    doc = "A data center of the fleet: a member runs services, a witness only votes.",
    printcolumn = r#"{"name":"Role","type":"string","jsonPath":".spec.role"}"#,
    printcolumn = r#"{"name":"Quorum","type":"string","jsonPath":".status.conditions[?(@.type==\"InQuorum\")].status"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch"}"#,
    printcolumn = r#"{"name":"Lease left","type":"string","jsonPath":".status.leaseLeft"}"#,
    printcolumn = r#"{"name":"Tolerance","type":"string","jsonPath":".status.tolerance"}"#,
    printcolumn = r#"{"name":"Coordinator","type":"string","jsonPath":".status.coordinator"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"InQuorum\")].message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataCenterSpec {
    /// `member` runs services; `witness` only holds registers.
    #[serde(default)]
    pub role: SiteRole,
    /// How the other sites reach this site's API server.
    pub api_server: ApiServerAccess,
    /// Where it is, for people and reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Grid region whose emission factor applies, as in `CN-East` (see the energy factors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid_region: Option<String>,
    /// Power usage effectiveness: never guessed, so absent unless declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pue: Option<DeclaredPue>,
    /// Timing profile of the site lease; must be the same at every site.
    #[serde(default)]
    pub profile: TimingProfile,
}

/// What a site is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SiteRole {
    /// Runs services and holds registers.
    #[default]
    Member,
    /// Holds registers only.
    Witness,
}

/// How to reach an API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiServerAccess {
    /// Secret in the system namespace whose key `kubeconfig` reaches the site. The site itself does not use it.
    pub kubeconfig_secret: String,
    /// UID of the site's namespace kube-system. Nobody else's API server is taken for the site then; left out, the first
    /// one that answers is kept in the status and no other is taken afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
}

/// Where a site is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Location {
    /// City.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// Country, ISO 3166 two letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// A PUE that somebody stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredPue {
    /// Facility energy divided by IT energy; at least 1.
    pub value: f64,
    /// Date of the declaration, `YYYY-MM-DD`.
    pub date: String,
    /// Who declares it.
    pub by: String,
}

/// How fast a site lease runs; see [`TimingProfile::lease`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimingProfile {
    /// D = 6 s: a dead site's share is granted elsewhere within 20 s.
    Fast,
    /// D = 30 s: survives an etcd defragmentation of tens of seconds.
    #[default]
    Bank,
}

impl TimingProfile {
    /// Duration D of a site lease.
    pub const fn lease(self) -> HumanDuration {
        match self {
            Self::Fast => HumanDuration::seconds(6),
            Self::Bank => HumanDuration::seconds(30),
        }
    }
}

/// What the site's controller says about its site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataCenterStatus {
    /// Conditions: Accepted, InQuorum, Register (whether its register may be used and answers), Tolerant.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Epoch of the site's lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Incarnation of the site's lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// What is left of the site's lease, as `>2s` while it is renewed in time, in whole seconds when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_left: Option<String>,
    /// How many more registers of the fleet may be lost before nobody has a majority any more, as seen from here; `ZERO`
    /// when the next loss stops every writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<String>,
    /// UID of the cluster that was seen first under this name; another one is refused from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    /// Registers that answered the last round, by site.
    #[serde(default)]
    pub reachable_registers: Vec<String>,
    /// Site that this site takes for the coordinator of moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
    /// Room at the site, as its own controller sees it every 30 s; only in its own API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomStatus>,
    /// Digest of the spec that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
}

/// Room at a site: what its nodes that take pods can give, and what is requested of it. Written by the site itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoomStatus {
    /// Allocatable CPU, in thousandths of a core.
    pub cpu_millis: u64,
    /// Allocatable memory, in bytes.
    pub memory_bytes: u64,
    /// Requested CPU, in thousandths of a core.
    pub cpu_requested_millis: u64,
    /// Requested memory, in bytes.
    pub memory_requested_bytes: u64,
}

impl Validate for DataCenterSpec {
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.api_server.kubeconfig_secret.trim().is_empty() {
            errors.push(FieldError::new(
                "spec.apiServer.kubeconfigSecret",
                "name the Secret in evergreen-system that holds the site's kubeconfig",
            ));
        }
        if let Some(pue) = &self.pue {
            if !(pue.value >= 1.0 && pue.value.is_finite()) {
                errors.push(FieldError::new(
                    "spec.pue.value",
                    format!("{} is no PUE: facility energy includes IT energy, so it is at least 1.0", pue.value),
                ));
            }
            if pue.by.trim().is_empty() || pue.date.parse::<jiff::civil::Date>().is_err() {
                errors.push(FieldError::new(
                    "spec.pue",
                    "a declared PUE needs the date (YYYY-MM-DD) and the person or body that declares it",
                ));
            }
        }
        errors
    }
}
