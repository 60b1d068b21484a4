//! What the plane answers to `GET /api/v1/energy?by=site`.

use serde::{Deserialize, Serialize};

/// Energy over a period, one row a site, as the plane adds it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyRows {
    /// Start of the period, RFC 3339.
    pub from: String,
    /// End of the period, RFC 3339.
    pub to: String,
    /// One row a site.
    pub rows: Vec<EnergyRow>,
}

/// Energy of one site. All energies are whole microjoules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyRow {
    /// Name of the site.
    pub key: String,
    /// All of it.
    pub microjoules: u64,
    /// Part that a sensor measured.
    pub measured_microjoules: u64,
    /// Part that a model calibrated by a sensor gave.
    pub calibrated_microjoules: u64,
    /// Part that a model without a sensor gave.
    pub estimated_microjoules: u64,
    /// Part that was used while nothing was done.
    #[serde(default)]
    pub idle_microjoules: Option<u64>,
    /// First sample in the period, RFC 3339.
    #[serde(default)]
    pub first_sample: Option<String>,
    /// Last sample in the period, RFC 3339.
    #[serde(default)]
    pub last_sample: Option<String>,
    /// Time without samples, milliseconds, added up over the site's nodes.
    #[serde(default)]
    pub gap_ms: u64,
}
