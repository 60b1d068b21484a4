//! What the planner, the runner and expressions see of the world: a few fields of a node, a pod, a workload, never the
//! whole object.

use std::collections::BTreeMap;

use evergreen_api::{
    names,
    resources::{FailureDomain, ObjectName, Subject},
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        Subject { kind: "Node".into(), name: self.name.clone(), uid: self.uid.clone(), ..Subject::default() }
    }

    /// Which failure domain it belongs to. Nodes without a zone share one.
    pub fn failure_domain(&self, per: FailureDomain) -> String {
        match per {
            FailureDomain::DataCenter => "the data center".into(),
            FailureDomain::Zone => self.labelled("zone", names::LABEL_ZONE),
            FailureDomain::Rack => self.labelled("rack", names::LABEL_RACK),
            FailureDomain::Pool => self.labelled("pool", names::LABEL_POOL),
        }
    }

    fn labelled(&self, what: &str, label: &str) -> String {
        match self.labels.get(label) {
            Some(value) => format!("{what} {value}"),
            None => format!("nodes without a {what}"),
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

/// A workload: a Deployment, a StatefulSet or a DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadView {
    /// UID.
    pub uid: String,
    /// Generation of its spec.
    pub generation: i64,
    /// Generation that its controller has seen.
    pub observed_generation: i64,
    /// Replicas that it asks for.
    pub wanted: i64,
    /// Replicas that there are, old ones included.
    pub total: i64,
    /// Replicas of the newest template.
    pub updated: i64,
    /// Replicas that serve.
    pub available: i64,
    /// Key of the restart step that last restarted it, by the annotation on its pod template.
    pub restarted_by: Option<String>,
}

impl WorkloadView {
    /// Whether every replica runs the newest template and serves.
    pub fn rolled_out(&self) -> bool {
        self.observed_generation >= self.generation
            && self.updated == self.wanted
            && self.total == self.wanted
            && self.available >= self.wanted
    }
}

/// Any object, as the API server shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectView {
    /// Its name.
    pub object: ObjectName,
    /// UID: a new object of the same name is another object.
    pub uid: String,
    /// Version that was looked at: the precondition of every act on it.
    pub version: String,
    /// The object itself.
    pub body: Value,
}

impl ObjectView {
    /// Reads an object; kind and API version are given, because lists and watches leave them out.
    pub fn new(api_version: &str, kind: &str, body: Value) -> Self {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            object: ObjectName {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                namespace: Some(text("/metadata/namespace")).filter(|namespace| !namespace.is_empty()),
                name: text("/metadata/name"),
            },
            uid: text("/metadata/uid"),
            version: text("/metadata/resourceVersion"),
            body,
        }
    }

    /// It as the object of a run.
    pub fn subject(&self) -> Subject {
        let ObjectName { api_version, kind, namespace, name } = self.object.clone();
        let api_version = if api_version == "v1" { String::new() } else { api_version };
        Subject { api_version, kind, namespace, name, uid: self.uid.clone() }
    }

    /// Labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.body.get("metadata")?.get("labels")?.get(key)?.as_str()
    }

    /// Node that it runs on, for a pod; its own name, for a node.
    pub fn node(&self) -> Option<String> {
        match self.object.kind.as_str() {
            "Node" => Some(self.object.name.clone()),
            "Pod" => self.body.pointer("/spec/nodeName").and_then(Value::as_str).map(ToOwned::to_owned),
            _ => None,
        }
    }

    /// The object that controls it, by its owner references.
    pub fn controller(&self) -> Option<ObjectName> {
        let owners = self.body.pointer("/metadata/ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
        let text = |field: &str| owner.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
        Some(ObjectName {
            api_version: text("apiVersion")?,
            kind: text("kind")?,
            namespace: self.object.namespace.clone(),
            name: text("name")?,
        })
    }

    /// It as a workload, if it is one.
    pub fn workload(&self) -> Option<WorkloadView> {
        let number = |pointer: &str| self.body.pointer(pointer).and_then(Value::as_i64);
        let restarted =
            format!("/spec/template/metadata/annotations/{}", names::ANNOTATION_RESTARTED_BY.replace('/', "~1"));
        let mut view = WorkloadView {
            uid: self.uid.clone(),
            generation: number("/metadata/generation").unwrap_or(0),
            observed_generation: number("/status/observedGeneration").unwrap_or(0),
            restarted_by: self.body.pointer(&restarted).and_then(Value::as_str).map(ToOwned::to_owned),
            ..WorkloadView::default()
        };
        match self.object.kind.as_str() {
            "Deployment" | "StatefulSet" => {
                view.wanted = number("/spec/replicas").unwrap_or(1);
                view.total = number("/status/replicas").unwrap_or(0);
                view.updated = number("/status/updatedReplicas").unwrap_or(0);
                // StatefulSets have no availableReplicas before 1.22.
                view.available =
                    number("/status/availableReplicas").or_else(|| number("/status/readyReplicas")).unwrap_or(0);
            }
            "DaemonSet" => {
                view.wanted = number("/status/desiredNumberScheduled").unwrap_or(0);
                view.total = number("/status/currentNumberScheduled").unwrap_or(0);
                view.updated = number("/status/updatedNumberScheduled").unwrap_or(0);
                view.available = number("/status/numberAvailable").unwrap_or(0);
            }
            _ => return None,
        }
        Some(view)
    }

    /// What expressions see of it as `workload`.
    pub fn workload_fields(&self) -> Option<Value> {
        let view = self.workload()?;
        Some(json!({
            "kind": self.object.kind, "namespace": self.object.namespace, "name": self.object.name,
            "wanted": view.wanted, "total": view.total, "updated": view.updated, "available": view.available,
            "rolledOut": view.rolled_out(),
        }))
    }
}
