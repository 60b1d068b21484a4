//! Names of the node's pods, by UID: metadata only, of this node only.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

/// Names that are kept at most; pods that ended keep theirs as long as there is room.
const MAX_NAMES: usize = 4_096;

/// Name of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Names by UID.
pub type PodNames = Arc<RwLock<HashMap<String, PodName>>>;

/// Follows the node's pods until cancelled.
pub async fn follow(client: Client, node: String, names: PodNames, cancel: CancellationToken) {
    let api: Api<PartialObjectMeta<Pod>> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut failing = false;
    // Pods that ended, oldest first: their energy is still told, until others need the room.
    let mut ended: VecDeque<String> = VecDeque::new();
    let mut listed: HashSet<String> = HashSet::new();
    loop {
        let next = tokio::select! {
            () = cancel.cancelled() => return,
            next = events.next() => next,
        };
        match next {
            Some(Ok(Event::Init)) => {
                failing = false;
                listed.clear();
            }
            Some(Ok(Event::InitApply(pod))) => {
                listed.extend(uid_of(&pod.metadata));
                note(&names, pod, &mut ended);
            }
            Some(Ok(Event::InitDone)) => {
                // Pods that ended while nobody watched.
                let known: HashSet<&String> = ended.iter().collect();
                let gone = names
                    .read()
                    .keys()
                    .filter(|uid| !listed.contains(*uid) && !known.contains(uid))
                    .cloned()
                    .collect::<Vec<_>>();
                ended.extend(gone);
                listed.clear();
            }
            Some(Ok(Event::Apply(pod))) => {
                failing = false;
                note(&names, pod, &mut ended);
            }
            Some(Ok(Event::Delete(pod))) => {
                failing = false;
                ended.extend(uid_of(&pod.metadata));
            }
            Some(Err(error)) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "pod names cannot be followed; pods are shown by UID");
                }
            }
            None => return,
        }
    }
}

fn note(names: &PodNames, pod: PartialObjectMeta<Pod>, ended: &mut VecDeque<String>) {
    let metadata = pod.metadata;
    let Some(uid) = uid_of(&metadata) else { return };
    let (Some(namespace), Some(name)) = (metadata.namespace, metadata.name) else { return };
    let mut names = names.write();
    while names.len() >= MAX_NAMES && !names.contains_key(&uid) {
        match ended.pop_front() {
            Some(old) => names.remove(&old),
            // More pods than a node can have: this one is shown by its UID.
            None => return,
        };
    }
    names.insert(uid, PodName { namespace, name });
}

/// The UID that the pod's cgroup has. Static pods have the kubelet's own, which is in an annotation of the mirror pod that
/// stands for them; only a mirror pod is believed about it, as anybody may write an annotation.
fn uid_of(metadata: &ObjectMeta) -> Option<String> {
    let annotation = |name: &str| metadata.annotations.as_ref()?.get(name);
    let owned_by_node =
        metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Node" && owner.api_version == "v1");
    let hash = annotation("kubernetes.io/config.hash")
        .filter(|_| owned_by_node && annotation("kubernetes.io/config.mirror").is_some());
    hash.cloned().or_else(|| metadata.uid.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, name: &str, annotations: serde_json::Value, owner: &str) -> PartialObjectMeta<Pod> {
        let metadata = json!({
            "uid": uid, "name": name, "namespace": "default", "annotations": annotations,
            "ownerReferences": [{"apiVersion": "v1", "kind": owner, "name": "n1", "uid": "1"}],
        });
        PartialObjectMeta { metadata: serde_json::from_value(metadata).unwrap(), ..PartialObjectMeta::default() }
    }

    #[test]
    fn a_static_pod_is_known_by_the_uid_of_its_cgroup_and_nobody_else_can_take_one() {
        let annotations = json!({"kubernetes.io/config.hash": "abc", "kubernetes.io/config.mirror": "abc"});
        assert_eq!(uid_of(&pod("u1", "etcd-n1", annotations.clone(), "Node").metadata).as_deref(), Some("abc"));
        assert_eq!(uid_of(&pod("u2", "liar", annotations, "ReplicaSet").metadata).as_deref(), Some("u2"));
        assert_eq!(uid_of(&pod("u3", "plain", json!({}), "Node").metadata).as_deref(), Some("u3"));
    }

    #[test]
    fn names_of_ended_pods_stay_while_there_is_room_and_those_of_running_ones_always() {
        let names = PodNames::default();
        let mut ended = VecDeque::new();
        for n in 0..MAX_NAMES {
            note(&names, pod(&format!("u{n}"), "p", json!({}), "Job"), &mut ended);
        }
        note(&names, pod("one-too-many", "p", json!({}), "Job"), &mut ended);
        assert!(!names.read().contains_key("one-too-many"), "no running pod loses its name");
        ended.push_back("u7".into());
        note(&names, pod("next", "p", json!({}), "Job"), &mut ended);
        let names = names.read();
        assert!(names.contains_key("next") && !names.contains_key("u7") && names.contains_key("u8"));
        assert_eq!(names.len(), MAX_NAMES);
    }
}
