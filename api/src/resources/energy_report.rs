//! EnergyReport: energy of data centers over a period or on a schedule, with the source of every figure.

use std::{fmt, str::FromStr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, EnergyFacts};
use crate::{FieldError, Validate};

/// Most runs of a schedule that are kept.
const MOST_HISTORY: u32 = 60;

/// What to report on.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "EnergyReport",
    plural = "energyreports",
    namespaced,
    shortname = "er",
    status = "EnergyReportStatus",
    derive = "PartialEq",
    doc = "Energy of data centers over a period, or on a schedule.",
    printcolumn = r#"{"name":"From","type":"string","jsonPath":".status.from"}"#,
    printcolumn = r#"{"name":"To","type":"string","jsonPath":".status.to"}"#,
    printcolumn = r#"{"name":"IT-kWh","type":"string","jsonPath":".status.itKwh"}"#,
    printcolumn = r#"{"name":"Measured","type":"string","jsonPath":".status.measuredShare"}"#,
    printcolumn = r#"{"name":"PUE","type":"string","jsonPath":".status.pue"}"#,
    printcolumn = r#"{"name":"kgCO2","type":"string","jsonPath":".status.scope2LocationKg","priority":1}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Next","type":"string","jsonPath":".status.nextRun","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnergyReportSpec {
    /// Start of the period, RFC 3339. With `to`, instead of a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// End of the period, RFC 3339; later than the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// When to report again and again, instead of a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ReportSchedule>,
    /// Time zone of the days of a period, as in `Asia/Shanghai`; without it UTC. A schedule has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What to report on: `fleet`, `datacenter=NAME`, `namespace=NAME` or `label=KEY=VALUE`; without it the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Data centers to report on; empty means all. The same as `scope: datacenter=NAME`, for several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_centers: Vec<String>,
    /// Standards whose figures are wanted.
    #[serde(default)]
    pub standard: ReportStandard,
    /// Languages of the pages; empty means English and Chinese.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<ReportLanguage>,
    /// Runs of a schedule that are kept, 1 to 60; without it 12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_limit: Option<u32>,
    /// Facts that the report needs and may not guess. Before them the data centers' own `pue` and `gridRegion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<EnergyFacts>,
}

/// When a report is made, and what it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReportSchedule {
    /// Five fields of cron: minute, hour, day of month, month, day of week (0 or 7 is Sunday).
    pub cron: String,
    /// Time zone of the schedule and of the days, as in `Asia/Shanghai`.
    pub time_zone: String,
    /// Which whole period before the run is covered.
    #[serde(default)]
    pub covers: ReportPeriod,
}

/// The last whole period before a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportPeriod {
    /// The day before.
    Day,
    /// Monday to Sunday before.
    Week,
    /// The month before.
    #[default]
    Month,
    /// The three months before.
    Quarter,
    /// The year before.
    Year,
}

/// Standards of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportStandard {
    /// China: GB 40879, GB/T 44989, national criteria.
    Cn,
    /// European Union: Delegated Regulation (EU) 2024/1364.
    Eu,
    /// Software carbon intensity, ISO/IEC 21031.
    Sci,
    /// All of them.
    #[default]
    All,
}

/// Languages of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportLanguage {
    /// English.
    En,
    /// 简体中文.
    Zh,
}

/// What a report is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReportScope {
    /// Everything that is known.
    #[default]
    Fleet,
    /// Data centers.
    DataCenters(Vec<String>),
    /// One namespace, over all data centers.
    Namespace(String),
    /// Series that carry a label, and namespaces that carry it where a cluster can be asked.
    Label {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
}

impl FromStr for ReportScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no scope: write fleet, datacenter=NAME, namespace=NAME or label=KEY=VALUE");
        if text == "fleet" {
            return Ok(Self::Fleet);
        }
        let (kind, name) = text.split_once('=').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
        match kind {
            "datacenter" => Ok(Self::DataCenters(name.split(',').map(str::to_owned).collect())),
            "namespace" => Ok(Self::Namespace(name.to_owned())),
            "label" => {
                let (key, value) = name.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(wrong)?;
                Ok(Self::Label { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for ReportScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::DataCenters(names) => write!(f, "datacenter={}", names.join(",")),
            Self::Namespace(name) => write!(f, "namespace={name}"),
            Self::Label { key, value } => write!(f, "label={key}={value}"),
        }
    }
}

/// The result and where it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnergyReportStatus {
    /// Conditions: Accepted, Ready.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Start of the period that is reported, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// End of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// IT energy, kWh, exact decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub it_kwh: Option<String>,
    /// Share of it that was measured, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_share: Option<String>,
    /// Change of the IT energy against the period before, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub it_change_percent: Option<String>,
    /// Facility energy, kWh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility_kwh: Option<String>,
    /// Power usage effectiveness of everything in scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pue: Option<String>,
    /// Location-based Scope 2, kgCO2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope2_location_kg: Option<String>,
    /// Market-based Scope 2, kgCO2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope2_market_kg: Option<String>,
    /// SHA-256 of the JSON report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Ed25519 signature of the site over the hash, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The site's public key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// ConfigMap in the report's namespace that keeps the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_in: Option<String>,
    /// Generation that was reported on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Time of the schedule that the newest report is for, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
    /// Next time of the schedule, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<String>,
    /// Reports of a schedule, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<KeptReport>,
}

/// One report of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptReport {
    /// Start of its period, RFC 3339.
    pub from: String,
    /// End of its period.
    pub to: String,
    /// IT energy, kWh.
    pub it_kwh: String,
    /// SHA-256 of the JSON report.
    pub sha256: String,
    /// ConfigMap that keeps it.
    pub kept_in: String,
}

impl EnergyReportSpec {
    /// What the report is about; `scope` and `dataCenters` say the same thing in two ways.
    ///
    /// # Errors
    /// When the scope is none, or both are given.
    pub fn scope(&self) -> Result<ReportScope, FieldError> {
        let wrong = |message: String| FieldError::new("spec.scope", message);
        match (&self.scope, self.data_centers.is_empty()) {
            (None, true) => Ok(ReportScope::Fleet),
            (None, false) => Ok(ReportScope::DataCenters(self.data_centers.clone())),
            (Some(text), true) => text.parse().map_err(wrong),
            (Some(_), false) => Err(wrong("give scope or dataCenters, not both".to_owned())),
        }
    }
}

fn zone(errors: &mut Vec<FieldError>, path: &str, name: &str) {
    if jiff::tz::TimeZone::get(name).is_err() {
        errors.push(FieldError::new(path, format!("`{name}` is no known time zone; write it as in Asia/Shanghai")));
    }
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
        let from = self.from.as_ref().and_then(|from| instant("spec.from", from));
        let to = self.to.as_ref().and_then(|to| instant("spec.to", to));
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            errors.push(FieldError::new("spec.to", "must be later than spec.from"));
        }
        match (&self.schedule, self.from.is_some(), self.to.is_some()) {
            (None, true, true) => {}
            (None, ..) => errors.push(FieldError::new("spec", "give from and to, or a schedule")),
            (Some(schedule), false, false) => {
                if schedule.cron.split_whitespace().count() != 5 {
                    let message = format!("`{}` is no cron schedule of five fields, as in `0 6 1 * *`", schedule.cron);
                    errors.push(FieldError::new("spec.schedule.cron", message));
                }
                zone(&mut errors, "spec.schedule.timeZone", &schedule.time_zone);
            }
            (Some(_), ..) => errors.push(FieldError::new("spec.schedule", "give a schedule or from and to, not both")),
        }
        if let Some(name) = &self.time_zone {
            zone(&mut errors, "spec.timeZone", name);
        }
        errors.extend(self.scope().err());
        if self.history_limit.is_some_and(|limit| !(1..=MOST_HISTORY).contains(&limit)) {
            errors.push(FieldError::new("spec.historyLimit", format!("must be from 1 to {MOST_HISTORY}")));
        }
        if let Some(facts) = &self.facts {
            errors.extend(facts.errors("spec.facts"));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back_as_it_was_written_and_says_what_it_may_be() {
        for text in ["fleet", "datacenter=a,b", "namespace=core", "label=team=pay=ments"] {
            assert_eq!(text.parse::<ReportScope>().unwrap().to_string(), text);
        }
        for text in ["", "site=a", "namespace=", "label=x", "datacenter"] {
            assert!(text.parse::<ReportScope>().unwrap_err().contains("label=KEY=VALUE"), "{text}");
        }
    }

    #[test]
    fn period_or_schedule_zone_scope_and_history_are_checked_with_their_paths() {
        let said = |spec: EnergyReportSpec| crate::validate::summary(&spec.validate());
        let at = |text: &str| Some(text.to_owned());
        let schedule = |cron: &str, zone: &str| {
            Some(ReportSchedule { cron: cron.into(), time_zone: zone.into(), covers: ReportPeriod::Month })
        };
        assert!(said(EnergyReportSpec::default()).contains("from and to, or a schedule"));
        let good = EnergyReportSpec { schedule: schedule("0 6 1 * *", "Asia/Shanghai"), ..Default::default() };
        assert_eq!(said(good.clone()), "");
        assert!(said(EnergyReportSpec { from: at("x"), to: at("y"), ..Default::default() }).contains("spec.from: `x`"));
        let wrong = EnergyReportSpec {
            schedule: schedule("daily", "Moon/Base"),
            scope: at("pod=x"),
            history_limit: Some(0),
            ..Default::default()
        };
        let text = said(wrong);
        for path in ["spec.schedule.cron", "spec.schedule.timeZone", "spec.scope", "spec.historyLimit"] {
            assert!(text.contains(path), "{path}: {text}");
        }
    }
}
