//! Kubernetes objects cut down to what planner, runner and expressions see.

use std::collections::BTreeMap;

use evergreen_api::{
    TraceParent, names,
    resources::{PlaybookMode, PlaybookRun},
};
use evergreen_playbooks::{
    planner::RunView,
    view::{ConditionView, DeploymentView, NodeView, PodView},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::ResourceExt;

/// Annotation on a Deployment's pod template that names the step that restarted it last.
pub(crate) const RESTARTED_BY: &str = "evergreen.dev/restarted-by";
/// Annotation of pods that mirror a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A node and what healing needs beside its view.
#[derive(Clone, Debug)]
pub(crate) struct TrimmedNode {
    pub(crate) view: NodeView,
    /// Version that was looked at: the precondition of every act on it.
    pub(crate) version: String,
    /// Trace context by condition type.
    pub(crate) traces: BTreeMap<String, TraceParent>,
}

/// Conditions count as first seen `now`; who knows the node longer keeps what it knows.
pub(crate) fn node(node: &Node, now: Timestamp) -> TrimmedNode {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let prefix = format!("{}.", names::ANNOTATION_TRACEPARENT);
    let traces = node
        .annotations()
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value.parse().ok()?)))
        .collect();
    let view = NodeView {
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        boot_id: status
            .and_then(|status| status.node_info.as_ref())
            .map(|info| info.boot_id.clone())
            .unwrap_or_default(),
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        cordoned_by: node.annotations().get(names::ANNOTATION_CORDONED_BY).cloned(),
        labels: node.labels().clone(),
        conditions: conditions
            .map(|condition| {
                (condition.type_.clone(), ConditionView { status: condition.status.clone(), seen_since: now })
            })
            .collect(),
        pod_count: 0,
    };
    TrimmedNode { view, version: node.resource_version().unwrap_or_default(), traces }
}

/// `None` for a pod that is on no node.
pub(crate) fn pod(pod: &Pod) -> Option<PodView> {
    let node = pod.spec.as_ref()?.node_name.clone().filter(|name| !name.is_empty())?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let owners = pod.owner_references();
    Some(PodView {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node,
        daemon_set: owners.iter().any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true)),
        mirror: pod.annotations().contains_key(MIRROR),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        terminating: pod.metadata.deletion_timestamp.is_some(),
    })
}

pub(crate) fn deployment(deployment: &Deployment) -> DeploymentView {
    let spec = deployment.spec.as_ref();
    let status = deployment.status.as_ref();
    let template = spec.and_then(|spec| spec.template.metadata.as_ref());
    let annotations = template.and_then(|metadata| metadata.annotations.as_ref());
    DeploymentView {
        uid: deployment.uid().unwrap_or_default(),
        generation: deployment.metadata.generation.unwrap_or(0),
        observed_generation: status.and_then(|status| status.observed_generation).unwrap_or(0),
        wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        total: status.and_then(|status| status.replicas).unwrap_or(0),
        updated: status.and_then(|status| status.updated_replicas).unwrap_or(0),
        available: status.and_then(|status| status.available_replicas).unwrap_or(0),
        restarted_by: annotations.and_then(|annotations| annotations.get(RESTARTED_BY)).cloned(),
    }
}

pub(crate) fn run(run: &PlaybookRun) -> RunView {
    let status = run.status.clone().unwrap_or_default();
    let parsed = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
    let created = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
    RunView {
        name: run.name_any(),
        playbook: run.spec.playbook.clone(),
        subject: run.spec.subject.clone(),
        attempt: run.spec.attempt,
        acts: run.spec.plan.mode == PlaybookMode::Enforce,
        phase: status.phase,
        created_at: created.or(parsed(&status.started_at)).unwrap_or(Timestamp::MIN),
        finished_at: parsed(&status.finished_at),
    }
}
