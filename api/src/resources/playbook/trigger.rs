//! What starts a playbook.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// What starts a playbook; exactly one source is set, and `when` may narrow it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    /// A condition of a Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_condition: Option<NodeConditionTrigger>,
    /// A Kubernetes Event; the run is for the object that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventTrigger>,
    /// A prediction of a node's agent; the run is for the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<PredictionTrigger>,
    /// An alert that Alertmanager sent to the controller's webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertTrigger>,
    /// A time; the run is for the whole data center.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleTrigger>,
    /// An object of any kind for which `when` holds; the run is for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectTrigger>,
    /// CEL that must also hold; sees `node`, `event`, `prediction`, `alert` or `object`, as the source is.
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

/// An Event. It starts a run once: a new run needs a new occurrence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventTrigger {
    /// Reasons, any of which starts it, as in `FailedAttachVolume`.
    pub reasons: Vec<String>,
    /// Type of the Event. Default: Warning.
    #[serde(default = "warning", rename = "type")]
    pub type_: String,
    /// Kind of the object that it is about, as in `Pod`.
    pub kind: String,
    /// Only objects in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How often it must have happened. Default: 1.
    #[serde(default = "one")]
    pub count: u32,
    /// An Event that is older starts nothing: no stale replay. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub within: HumanDuration,
}

fn warning() -> String {
    "Warning".to_owned()
}

const fn one() -> u32 {
    1
}

fn ten_minutes() -> HumanDuration {
    HumanDuration::seconds(600)
}

/// A prediction in the NodeHealth of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PredictionTrigger {
    /// Problem that is expected, as in `DiskPressurePredicted`.
    pub kind: String,
    /// It is expected within this time from now. Nothing said: whenever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<HumanDuration>,
    /// How sure the time must be. Default: expected.
    #[serde(default)]
    pub confidence: Confidence,
    /// How long the controller must have seen it without a break. Default: 0s.
    #[serde(default, rename = "for")]
    pub for_: HumanDuration,
}

/// How sure the time of a prediction must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Confidence {
    /// The expected time lies within.
    #[default]
    Expected,
    /// Even the latest time of the 95 % interval lies within.
    High,
}

/// An alert of Alertmanager, firing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertTrigger {
    /// Labels that the alert must have, with these values.
    pub labels: BTreeMap<String, String>,
    /// Which object the run is for. Nothing said: the whole data center.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<AlertSubject>,
    /// How long it must have been firing here. Default: 0s.
    #[serde(default, rename = "for")]
    pub for_: HumanDuration,
}

/// The object that an alert is about, by labels of the alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertSubject {
    /// Kind, as in `Node` or `Deployment`.
    pub kind: String,
    /// Label of the alert that holds the name.
    pub name_label: String,
    /// Label of the alert that holds the namespace. Default: namespace.
    #[serde(default = "namespace_label")]
    pub namespace_label: String,
}

fn namespace_label() -> String {
    "namespace".to_owned()
}

/// A time by the clock of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleTrigger {
    /// Five fields of cron: minute, hour, day, month, day of the week (0 and 7 are Sunday).
    pub cron: String,
    /// Time zone, as in Asia/Shanghai.
    pub time_zone: String,
    /// A run that could not start for so long is left out. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub within: HumanDuration,
}

/// Objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectTrigger {
    /// API version, as in apps/v1.
    pub api_version: String,
    /// Kind, as in Deployment.
    pub kind: String,
    /// Only in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How long `when` must have held without a break. Default: 0s.
    #[serde(default, rename = "for")]
    pub for_: HumanDuration,
}

impl Trigger {
    /// Names of the sources that are set; a valid trigger has exactly one.
    pub fn sources(&self) -> Vec<&'static str> {
        [
            ("nodeCondition", self.node_condition.is_some()),
            ("event", self.event.is_some()),
            ("prediction", self.prediction.is_some()),
            ("alert", self.alert.is_some()),
            ("schedule", self.schedule.is_some()),
            ("object", self.object.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect()
    }

    /// Kind of the objects that its runs are for; `DataCenter` where a run is for no object. `None`: no source is set.
    pub fn subject_kind(&self) -> Option<&str> {
        if self.node_condition.is_some() || self.prediction.is_some() {
            Some("Node")
        } else if let Some(event) = &self.event {
            Some(&event.kind)
        } else if let Some(alert) = &self.alert {
            Some(alert.subject.as_ref().map_or(DATA_CENTER, |subject| &subject.kind))
        } else if self.schedule.is_some() {
            Some(DATA_CENTER)
        } else {
            self.object.as_ref().map(|object| object.kind.as_str())
        }
    }
}

/// Kind of the subject of a run that is for no single object.
pub const DATA_CENTER: &str = "DataCenter";
