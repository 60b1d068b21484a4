//! Leases of the simulated nodes, renewed when somebody looks.
//!
//! A real fleet of 5,000 nodes writes 43 million renewals a day. Where nobody watches, the twin only remembers when
//! the kubelets last renewed; a read writes what should be there by then. To a reader there is no difference but the
//! resourceVersion, which counts the renewals that were written.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::clock::Moment;
use super::server::ApiServer;
use crate::objects::meta;

/// Table of Leases.
pub(crate) const TABLE: &str = "leases.coordination.k8s.io";
/// Namespace of the nodes' Leases.
pub(crate) const NAMESPACE: &str = "kube-node-lease";
/// Seconds that a node's Lease says it lasts.
const LEASE_SECONDS: u64 = 40;

/// Names of nodes, shared.
pub(crate) type Names = Arc<BTreeSet<String>>;

/// Renewals that are not written yet: all these nodes renewed at that moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct LazyLeases {
    last: Option<(Moment, Names)>,
    all_shown: bool,
}

impl ApiServer {
    /// Notes that these nodes have renewed now.
    pub(crate) fn note_renewals(&self, now: Moment, nodes: &Names) {
        *self.shared.lazy_leases.lock() = LazyLeases { last: Some((now, nodes.clone())), all_shown: false };
    }

    /// When kubelets last renewed; the start, if none has.
    pub(crate) fn last_renewal(&self) -> Moment {
        self.shared.lazy_leases.lock().last.as_ref().map(|(at, _)| *at).unwrap_or_default()
    }

    /// Writes the renewal of one node, if the table is that of Leases and one is due.
    pub(crate) fn show_lease(&self, storage: &str, name: &str) {
        if storage != TABLE {
            return;
        }
        let due = match &*self.shared.lazy_leases.lock() {
            LazyLeases { last: Some((at, nodes)), all_shown: false } if nodes.contains(name) => Some(*at),
            _ => None,
        };
        if let Some(at) = due {
            self.renew_lease(name, at);
        }
    }

    /// Writes all renewals that are due, if the table is that of Leases.
    pub(crate) fn show_leases(&self, storage: &str) {
        if storage != TABLE {
            return;
        }
        let due = {
            let mut lazy = self.shared.lazy_leases.lock();
            let due = if lazy.all_shown { None } else { lazy.last.clone() };
            lazy.all_shown = true;
            due
        };
        if let Some((at, nodes)) = due {
            nodes.iter().for_each(|name| self.renew_lease(name, at));
        }
    }

    /// Writes that a node renewed its Lease at a moment; makes the Lease if it is not there and the node is.
    pub(crate) fn renew_lease(&self, name: &str, at: Moment) {
        let time = meta::micros(self.clock().wall_at(at));
        if self.store().get(TABLE, &super::store::key(NAMESPACE, name)).is_some() {
            self.amend("coordination.k8s.io", "leases", NAMESPACE, name, None, |lease| {
                lease["spec"]["renewTime"] = json!(time);
            });
            return;
        }
        let Some(node) = self.read("", "nodes", "", name) else { return };
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": name, "uid": meta::uid(&node)}]},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": time},
        });
        if let Err(error) = self.create_object(&lease) {
            tracing::debug!(%error, node = name, "a node's lease could not be created");
        }
    }
}
