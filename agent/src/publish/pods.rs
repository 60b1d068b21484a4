//! Names of the node's pods, by UID: metadata only, of this node only.

use std::{collections::HashMap, sync::Arc};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
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
    loop {
        let next = tokio::select! {
            () = cancel.cancelled() => return,
            next = events.next() => next,
        };
        match next {
            Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                failing = false;
                note(&names, pod);
            }
            Some(Ok(_)) => failing = false,
            Some(Err(error)) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "pod names cannot be followed; pods are shown by UID");
                }
            }
            None => return,
        }
    }
}

fn note(names: &PodNames, pod: PartialObjectMeta<Pod>) {
    let metadata = pod.metadata;
    let (Some(uid), Some(namespace), Some(name)) = (metadata.uid, metadata.namespace, metadata.name) else { return };
    // Static pods: the kubelet's own UID, which the cgroup has, is in an annotation of the mirror pod.
    let uid = metadata.annotations.unwrap_or_default().remove("kubernetes.io/config.hash").unwrap_or(uid);
    let mut names = names.write();
    if names.len() >= MAX_NAMES {
        names.clear();
    }
    names.insert(uid, PodName { namespace, name });
}
