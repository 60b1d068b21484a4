//! EnergyReport: energy of data centers over a period, with the source of every figure.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::{FieldError, Validate};

/// What to report on.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "EnergyReport",
    plural = "energyreports",
    namespaced,
    shortname = "er",
    status = "EnergyReportStatus",
    derive = "PartialEq",
    doc = "Energy of data centers over a period.",
    printcolumn = r#"{"name":"From","type":"string","jsonPath":".spec.from"}"#,
    printcolumn = r#"{"name":"To","type":"string","jsonPath":".spec.to"}"#,
    printcolumn = r#"{"name":"IT-kWh","type":"string","jsonPath":".status.itKwh"}"#,
    printcolumn = r#"{"name":"Measured","type":"string","jsonPath":".status.measuredShare"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnergyReportSpec {
    /// Start of the period, RFC 3339.
    pub from: String,
    /// End of the period, RFC 3339; later than the start.
    pub to: String,
    /// Data centers to report on; empty means all.
    #[serde(default)]
    pub data_centers: Vec<String>,
}

/// The result and where it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnergyReportStatus {
    /// Conditions: Accepted, Ready.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// IT energy, kWh, exact decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub it_kwh: Option<String>,
    /// Share of it that was measured, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_share: Option<String>,
    /// SHA-256 of the JSON report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// ConfigMap in the report's namespace that keeps the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_in: Option<String>,
    /// Generation that was reported on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Validate for EnergyReportSpec {
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut instant = |path: &str, text: &str| match text.parse::<jiff::Timestamp>() {
            Ok(instant) => Some(instant),
            Err(_) => {
                errors.push(FieldError::new(path, format!("`{text}` is no RFC 3339 time, as in 2026-01-01T00:00:00Z")));
                None
            }
        };
        let from = instant("spec.from", &self.from);
        let to = instant("spec.to", &self.to);
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            errors.push(FieldError::new("spec.to", "must be later than spec.from"));
        }
        errors
    }
}
