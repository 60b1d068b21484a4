//! Room at the own site: allocatable of the nodes that take pods, less what the pods on them request.

use std::sync::Arc;

use evergreen_api::resources::RoomStatus;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::{
    kept::Kept,
    trim::{self, Name, Resources},
};

/// What is kept of the own site's nodes and pods.
#[derive(Debug, Default)]
pub(crate) struct OwnRoom {
    nodes: Kept<String, Resources>,
    pods: Kept<Name, (String, Resources)>,
}

impl OwnRoom {
    /// Starts watching.
    pub fn start(client: &Client, cancel: CancellationToken) -> Arc<Self> {
        let room = Arc::new(Self::default());
        let (kept, client) = (room.clone(), client.clone());
        tokio::spawn(async move {
            let nodes = kept.nodes.follow(Api::<Node>::all(client.clone()), "nodes", trim::node);
            let pods = kept.pods.follow(Api::<Pod>::all(client.clone()), "pods", trim::pod);
            tokio::select! {
                () = cancel.cancelled() => {}
                _ = async { tokio::join!(nodes, pods) } => {}
            }
        });
        room
    }

    /// The room now; none until nodes and pods are known.
    pub fn now(&self) -> Option<RoomStatus> {
        if !self.nodes.synced() || !self.pods.synced() {
            return None;
        }
        let (whole, requested) = self.nodes.with(|nodes| {
            let whole = nodes.values().copied().fold(Resources::default(), Resources::plus);
            let requested = self.pods.with(|pods| {
                let here = pods.values().filter(|(node, _)| nodes.contains_key(node)).map(|(_, requests)| *requests);
                here.fold(Resources::default(), Resources::plus)
            });
            (whole, requested)
        });
        Some(RoomStatus {
            cpu_millis: whole.cpu_millis,
            memory_bytes: whole.memory_bytes,
            cpu_requested_millis: requested.cpu_millis,
            memory_requested_bytes: requested.memory_bytes,
        })
    }
}
