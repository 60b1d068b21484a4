//! Kinds of objects that playbooks may change, with the names that an API server needs. What is not here is only looked
//! at: nobody can widen by a playbook what the product may do.

/// A kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API version, as in apps/v1.
    pub api_version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether steps may change fields of its spec; labels and annotations they may change on all of these.
    pub patchable: bool,
}

const fn kind(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    patchable: bool,
) -> Kind {
    Kind { api_version, kind, plural, namespaced, patchable }
}

/// All of them.
pub const KINDS: &[Kind] = &[
    kind("v1", "Node", "nodes", false, false),
    kind("v1", "Pod", "pods", true, false),
    kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true, true),
    kind("apps/v1", "Deployment", "deployments", true, true),
    kind("apps/v1", "StatefulSet", "statefulsets", true, true),
    kind("apps/v1", "DaemonSet", "daemonsets", true, true),
    kind("batch/v1", "CronJob", "cronjobs", true, true),
    kind("batch/v1", "Job", "jobs", true, false),
    kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true, true),
    kind("evergreen.dev/v1alpha1", "MultiActiveService", "multiactiveservices", true, false),
];

/// Finds a kind by API version and name.
pub fn find(api_version: &str, name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.api_version == api_version && kind.kind == name)
}

/// Finds a kind by name alone, as triggers name it.
pub fn named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.kind == name)
}

/// Whether it has pods of its own that can be replaced.
pub fn is_workload(name: &str) -> bool {
    matches!(name, "Deployment" | "StatefulSet" | "DaemonSet")
}
