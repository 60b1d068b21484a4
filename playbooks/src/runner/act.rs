//! Acts on the world. Each is complete: who executes it chooses nothing.

use evergreen_api::resources::{HttpMethod, ObjectName};
use serde_json::Value;

use crate::view::PodView;

/// One act. Every act can be done twice with the effect of one, if its preconditions are sent along; the only one that
/// cannot, a message, is never asked for twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Set whether the scheduler may use the node, and who said so; only on the version of the node that was looked at.
    SetSchedulable {
        /// Whether the scheduler places nothing on it.
        unschedulable: bool,
        /// Value of the annotation that names the run; `None` removes it.
        cordoned_by: Option<String>,
    },
    /// Ask for the eviction of these pods, each by UID.
    Evict {
        /// The pods.
        pods: Vec<PodView>,
    },
    /// Merge a patch (RFC 7386) into an object. The version that was looked at is in the patch, so a changed object is
    /// not touched.
    Merge {
        /// The object.
        object: ObjectName,
        /// The patch.
        patch: Value,
    },
    /// Server-side apply, taking the fields over; the version that was looked at is in the body.
    Apply {
        /// The object.
        object: ObjectName,
        /// Kind, name and the fields.
        body: Value,
    },
    /// Create an object under a name that belongs to this step; that it is there already is success.
    Create {
        /// The object.
        object: ObjectName,
        /// All of it.
        body: Value,
        /// Image that it runs, which the site's list must allow.
        image: Option<String>,
    },
    /// Delete one object by UID; that it is gone already is success.
    Delete {
        /// The object.
        object: ObjectName,
        /// UID, a precondition.
        uid: String,
    },
    /// Ask an endpoint of the site's list, once.
    Send(Outbound),
    /// Power a node off through its BMC, and have the BMC say that it is off.
    Fence {
        /// The node.
        node: String,
        /// Most milliseconds that it may take.
        timeout_ms: u64,
    },
}

/// Something to send to an endpoint of the site's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Name of the endpoint.
    pub endpoint: String,
    /// What to send.
    pub what: Message,
    /// Key of the step, sent along as `Idempotency-Key`.
    pub key: String,
    /// Most milliseconds that it may take.
    pub timeout_ms: u64,
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A question of the playbook's own.
    Request {
        /// Method.
        method: HttpMethod,
        /// Path below the endpoint's address.
        path: Option<String>,
        /// Body.
        body: Option<String>,
        /// Codes that mean success; none: 200 to 299.
        expect: Vec<u16>,
    },
    /// Words for people, in the shape that the endpoint wants.
    Text {
        /// Title: the playbook and its object.
        title: String,
        /// The words.
        text: String,
    },
}

/// Pods that a drain moves: not those that only the kubelet can stop, that would come back to the same node, or that
/// have finished. Pods that are being deleted count as long as they are there.
pub fn evictable(pods: &[PodView]) -> impl Iterator<Item = &PodView> {
    pods.iter().filter(|pod| !pod.daemon_set && !pod.mirror && !pod.finished)
}
