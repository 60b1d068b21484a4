//! Kubernetes objects cut down to what planner, runner and expressions see.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::{
    TraceParent, names,
    resources::{PlaybookRun, Subject},
};
use evergreen_playbooks::{
    board::EventView,
    planner::RunView,
    view::{ConditionView, NodeView, ObjectView, PodView},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::ResourceExt;

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

pub(crate) fn run(run: &PlaybookRun) -> RunView {
    let created = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
    RunView::new(&run.name_any(), &run.spec, &run.status.clone().unwrap_or_default(), created)
}

/// An Event of either API, as triggers see it.
pub(crate) fn event(event: &Event) -> EventView {
    let about = &event.involved_object;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let last = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref().map(|time| time.0))
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
    let source = event.source.as_ref().and_then(|source| source.component.clone());
    EventView {
        reason: text(&event.reason),
        type_: text(&event.type_),
        message: text(&event.message),
        count: u32::try_from(count).unwrap_or(1),
        last_seen: last.unwrap_or(Timestamp::MIN),
        source: source.or(event.reporting_component.clone()).unwrap_or_default(),
        about: Subject {
            api_version: text(&about.api_version).replacen(
                "v1",
                "",
                usize::from(about.api_version.as_deref() == Some("v1")),
            ),
            kind: text(&about.kind),
            namespace: about.namespace.clone(),
            name: text(&about.name),
            // The kubelet puts a node's name where its UID belongs.
            uid: about.uid.clone().filter(|uid| about.name.as_ref() != Some(uid)).unwrap_or_default(),
        },
        uid: event.uid().unwrap_or_default(),
    }
}

/// Keeps of an object what triggers read, beside its name, labels, owners and node.
pub(crate) fn object(object: &ObjectView, paths: &BTreeSet<Vec<String>>) -> ObjectView {
    if paths.contains(&Vec::new()) {
        return object.clone();
    }
    let mut kept = serde_json::json!({});
    let always = [
        &["metadata", "name"][..],
        &["metadata", "namespace"],
        &["metadata", "uid"],
        &["metadata", "labels"],
        &["metadata", "ownerReferences"],
        &["spec", "nodeName"],
    ];
    let always = always.into_iter().map(|path| path.iter().map(|part| (*part).to_owned()).collect::<Vec<String>>());
    for path in always.chain(paths.iter().cloned()) {
        keep(&object.body, &mut kept, &path);
    }
    ObjectView { body: kept, ..object.clone() }
}

fn keep(from: &serde_json::Value, to: &mut serde_json::Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else {
        *to = from.clone();
        return;
    };
    let (Some(from), Some(to)) = (from.get(first), to.as_object_mut()) else { return };
    if !from.is_object() {
        to.insert(first.clone(), from.clone());
        return;
    }
    keep(from, to.entry(first.clone()).or_insert_with(|| serde_json::json!({})), rest);
}
