//! What expressions may name: variables by where they stand, fields of those whose shape is known, functions.

/// Where an expression stands, which says what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `when` of a nodeCondition: `node`.
    NodeTrigger,
    /// `when` of an event: `event`.
    EventTrigger,
    /// `when` of a prediction: `prediction` and `node`.
    PredictionTrigger,
    /// `when` of an alert: `alert`.
    AlertTrigger,
    /// `when` of an object: `object`.
    ObjectTrigger,
    /// A step of a run for a Node: `node` and `before`.
    NodeRun,
    /// A step of a run for another object: `object`, `gone`, `workload` and `before`.
    ObjectRun,
}

impl Scope {
    /// Variables that may be used here.
    pub(crate) const fn variables(self) -> &'static [&'static str] {
        match self {
            Self::NodeTrigger => &["node"],
            Self::EventTrigger => &["event"],
            Self::PredictionTrigger => &["prediction", "node"],
            Self::AlertTrigger => &["alert"],
            Self::ObjectTrigger => &["object"],
            Self::NodeRun => &["node", "before"],
            Self::ObjectRun => &["object", "gone", "workload", "before"],
        }
    }

    /// Whether it stands in a trigger, where nothing was before.
    pub(crate) const fn is_trigger(self) -> bool {
        !matches!(self, Self::NodeRun | Self::ObjectRun)
    }
}

const NODE_FIELDS: &[&str] = &["name", "ready", "bootID", "unschedulable", "podCount", "metadata", "condition"];
const METADATA_FIELDS: &[&str] = &["name", "labels"];
const EVENT_FIELDS: &[&str] = &["reason", "type", "message", "count", "kind", "namespace", "name", "source"];
const PREDICTION_FIELDS: &[&str] =
    &["kind", "basis", "subject", "summary", "method", "expectedInSeconds", "earliestInSeconds", "latestInSeconds"];
const ALERT_FIELDS: &[&str] = &["name", "labels", "annotations", "startsAt"];
const WORKLOAD_FIELDS: &[&str] = &["kind", "namespace", "name", "wanted", "total", "updated", "available", "rolledOut"];

/// Fields of the thing at a path, where its shape is known.
pub(crate) fn fields_of(path: &[&str], scope: Scope) -> Option<&'static [&'static str]> {
    match path {
        ["node"] | ["before", "node"] => Some(NODE_FIELDS),
        ["node", "metadata"] | ["before", "node", "metadata"] => Some(METADATA_FIELDS),
        ["event"] => Some(EVENT_FIELDS),
        ["prediction"] => Some(PREDICTION_FIELDS),
        ["alert"] => Some(ALERT_FIELDS),
        ["workload"] => Some(WORKLOAD_FIELDS),
        ["before"] if scope == Scope::NodeRun => Some(&["node"]),
        ["before"] if scope == Scope::ObjectRun => Some(&["object"]),
        _ => None,
    }
}

/// Maps of text whose absent keys read as `''`.
pub(crate) const OPEN_MAPS: &[&[&str]] = &[
    &["node", "metadata", "labels"],
    &["before", "node", "metadata", "labels"],
    &["object", "metadata", "labels"],
    &["object", "metadata", "annotations"],
    &["before", "object", "metadata", "labels"],
    &["before", "object", "metadata", "annotations"],
    &["alert", "labels"],
    &["alert", "annotations"],
];

/// Functions that people may call, apart from operators.
pub(crate) const FUNCTIONS: &[&str] = &[
    "condition",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "double",
    "bool",
    "has",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
];
