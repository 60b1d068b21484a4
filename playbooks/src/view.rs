//! What the planner, the runner and expressions see of the world: a few fields of a node, a pod, a workload, never the
//! whole object.

use std::collections::BTreeMap;

use evergreen_api::{
    names,
    resources::{FailureDomain, Subject},
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// UID: a new node of the same name is another node.
    pub uid: String,
    /// Boot that the kubelet last reported.
    pub boot_id: String,
    /// Whether the scheduler places nothing on it.
    pub unschedulable: bool,
    /// Run that made it unschedulable, by the annotation that the cordon step leaves.
    pub cordoned_by: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Conditions by type.
    pub conditions: BTreeMap<String, ConditionView>,
    /// Pods on it that have not finished.
    pub pod_count: u32,
}

/// A condition of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionView {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Since when the observer itself has seen this status without a break, on its own clock.
    pub seen_since: Timestamp,
}

impl NodeView {
    /// Whether its Ready condition is True.
    pub fn ready(&self) -> bool {
        self.condition("Ready")
    }

    /// Whether nothing has been heard of it: its Ready condition is Unknown.
    pub fn silent(&self) -> bool {
        self.conditions.get("Ready").is_some_and(|condition| condition.status == "Unknown")
    }

    /// Whether a condition is True.
    pub fn condition(&self, type_: &str) -> bool {
        self.conditions.get(type_).is_some_and(|condition| condition.status == "True")
    }

    /// The node as the object of a run.
    pub fn subject(&self) -> Subject {
        Subject { kind: "Node".into(), name: self.name.clone(), uid: self.uid.clone() }
    }

    /// Which failure domain it belongs to. Nodes without a zone share one.
    pub fn failure_domain(&self, per: FailureDomain) -> String {
        match per {
            FailureDomain::DataCenter => "the data center".into(),
            FailureDomain::Zone => match self.labels.get(names::LABEL_ZONE) {
                Some(zone) => format!("zone {zone}"),
                None => "nodes without a zone".into(),
            },
        }
    }

    /// What expressions see, and what a run keeps of the node as it was when the run began.
    pub fn to_fields(&self) -> Map<String, Value> {
        let conditions: Map<String, Value> =
            self.conditions.iter().map(|(type_, view)| (type_.clone(), view.status.clone().into())).collect();
        let mut fields = Map::new();
        fields.insert("name".into(), self.name.clone().into());
        fields.insert("ready".into(), self.ready().into());
        fields.insert("bootID".into(), self.boot_id.clone().into());
        fields.insert("unschedulable".into(), self.unschedulable.into());
        fields.insert("podCount".into(), self.pod_count.into());
        fields.insert("metadata".into(), json!({"name": self.name, "labels": self.labels}));
        fields.insert("conditions".into(), conditions.into());
        fields
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: a new pod of the same name is another pod.
    pub uid: String,
    /// Node that it runs on.
    pub node: String,
    /// Whether a DaemonSet owns it: it would come back to the same node.
    pub daemon_set: bool,
    /// Whether it mirrors a static pod: only the kubelet can stop it.
    pub mirror: bool,
    /// Whether it has succeeded or failed.
    pub finished: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// A Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentView {
    /// UID.
    pub uid: String,
    /// Generation of its spec.
    pub generation: i64,
    /// Generation that its controller has seen.
    pub observed_generation: i64,
    /// Replicas that it asks for.
    pub wanted: i32,
    /// Replicas that there are, old ones included.
    pub total: i32,
    /// Replicas of the newest template.
    pub updated: i32,
    /// Replicas that serve.
    pub available: i32,
    /// Key of the restart step that last restarted it, by the annotation on its pod template.
    pub restarted_by: Option<String>,
}

impl DeploymentView {
    /// Whether every replica runs the newest template and serves.
    pub fn rolled_out(&self) -> bool {
        self.observed_generation >= self.generation
            && self.updated == self.wanted
            && self.total == self.wanted
            && self.available >= self.wanted
    }
}
