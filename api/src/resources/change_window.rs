//! ChangeWindow: when nothing may be changed.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::HumanDuration;

/// Freezes by the calendar of a place.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "ChangeWindow",
    plural = "changewindows",
    shortname = "cw",
    status = "ChangeWindowStatus",
    derive = "PartialEq",
    doc = "Times at which playbooks change nothing: batch windows, closings, holidays.",
    printcolumn = r#"{"name":"Summary","type":"string","jsonPath":".spec.summary"}"#,
    printcolumn = r#"{"name":"Zone","type":"string","jsonPath":".spec.timeZone"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeWindowSpec {
    /// One sentence: what the time is needed for.
    pub summary: String,
    /// Time zone of its times and days, as in Asia/Shanghai.
    pub time_zone: String,
    /// When nothing is changed: any of these.
    pub freezes: Vec<Freeze>,
    /// Days off and days worked instead, by the local calendar.
    #[serde(default)]
    pub calendar: Calendar,
    /// Only these playbooks. Nothing said: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub playbooks: Vec<String>,
}

/// A time at which nothing is changed: `from` and `to`, or `cron` and `lasts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Freeze {
    /// From this moment, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Until this moment, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// It begins at these times: five fields of cron.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// And lasts so long, at most 31d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<HumanDuration>,
    /// Only when it begins on such a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<DayKind>,
}

/// Kinds of days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DayKind {
    /// Monday to Friday without holidays, and the days worked instead of them.
    Workday,
    /// All other days.
    DayOff,
}

/// Days that differ from the week.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Calendar {
    /// Days off, as in 2026-10-01.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holidays: Vec<String>,
    /// Weekend days that are worked instead (调休).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workdays: Vec<String>,
}

/// What the controller says about a ChangeWindow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeWindowStatus {
    /// Conditions: Accepted.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
