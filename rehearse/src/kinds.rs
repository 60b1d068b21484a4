//! What is read of a cluster, and nothing else. Secrets are not in this table, so they are never asked for.

/// A kind that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Group and version as in `apiVersion`.
    pub api_version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in the path.
    pub plural: &'static str,
    /// Without it there is nothing to rehearse: a refusal ends the import.
    pub essential: bool,
}

const fn kind(api_version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { api_version, kind, plural, essential: false }
}

const fn essential(api_version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { api_version, kind, plural, essential: true }
}

/// The kinds, in the order in which a twin takes them in.
pub const KINDS: &[Kind] = &[
    essential("v1", "Namespace", "namespaces"),
    essential("v1", "Node", "nodes"),
    kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses"),
    kind("storage.k8s.io/v1", "StorageClass", "storageclasses"),
    kind("v1", "PersistentVolume", "persistentvolumes"),
    kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    essential("apps/v1", "Deployment", "deployments"),
    essential("apps/v1", "ReplicaSet", "replicasets"),
    essential("apps/v1", "StatefulSet", "statefulsets"),
    essential("apps/v1", "DaemonSet", "daemonsets"),
    kind("batch/v1", "Job", "jobs"),
    essential("v1", "Pod", "pods"),
    kind("v1", "Service", "services"),
    kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"),
    kind("evergreen.dev/v1alpha1", "DataCenter", "datacenters"),
    kind("evergreen.dev/v1alpha1", "MultiActiveService", "multiactiveservices"),
    kind("evergreen.dev/v1alpha1", "Playbook", "playbooks"),
    kind("evergreen.dev/v1alpha1", "PlaybookRun", "playbookruns"),
];

impl Kind {
    /// Key in a snapshot: `plural` or `plural.group`.
    pub fn key(&self) -> String {
        match self.api_version.split_once('/') {
            Some((group, _)) => format!("{}.{group}", self.plural),
            None => self.plural.to_owned(),
        }
    }

    /// Path of the list over all namespaces.
    pub fn path(&self) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/{}", self.api_version, self.plural)
    }

    /// The kind with a key.
    pub fn of_key(key: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.key() == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_asked_for() {
        assert!(KINDS.iter().all(|kind| !kind.plural.contains("secret") && kind.kind != "ConfigMap"));
    }

    #[test]
    fn keys_are_unique_and_lead_back() {
        for kind in KINDS {
            assert_eq!(Kind::of_key(&kind.key()), Some(kind));
        }
        assert_eq!(KINDS[6].path(), "/apis/apps/v1/deployments");
    }
}
