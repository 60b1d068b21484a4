//! Acts on the world. Each is complete: who executes it chooses nothing.

use crate::view::PodView;

/// One act. Every act can be done twice with the effect of one, if its preconditions are sent along.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Write the key into the Deployment's pod template, which replaces its pods; only on the version that was looked at.
    Restart {
        /// Namespace of the Deployment.
        namespace: String,
        /// Name of the Deployment.
        deployment: String,
        /// UID of the Deployment.
        uid: String,
        /// Key of the step.
        key: String,
    },
}

/// Pods that a drain moves: not those that only the kubelet can stop, that would come back to the same node, or that
/// have finished. Pods that are being deleted count as long as they are there.
pub fn evictable(pods: &[PodView]) -> impl Iterator<Item = &PodView> {
    pods.iter().filter(|pod| !pod.daemon_set && !pod.mirror && !pod.finished)
}
