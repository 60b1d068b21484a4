//! What a cluster has before anybody has made anything: namespaces and the roles of users.

use serde_json::{Value, json};

use super::server::ApiServer;

/// Namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The parts of a control plane that `componentstatuses` tells of.
const COMPONENTS: [(&str, &str); 3] = [("controller-manager", "ok"), ("etcd-0", "ok"), ("scheduler", "ok")];

impl ApiServer {
    /// Makes the namespaces and the roles.
    pub(super) fn bootstrap(&self) {
        for namespace in NAMESPACES {
            self.ensure_namespace(namespace);
        }
        for object in roles() {
            if let Err(error) = self.create_object(&object) {
                tracing::warn!(%error, "a role of every cluster could not be created");
            }
        }
    }

    /// `componentstatuses`: a list, one, or `None` when there is none of that name.
    pub(super) fn component_statuses(&self, name: &str) -> Option<Value> {
        let one = |name: &str, message: &str| {
            json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
                "conditions": [{"type": "Healthy", "status": "True", "message": message}]})
        };
        if name.is_empty() {
            let items: Vec<Value> = COMPONENTS.iter().map(|(name, message)| one(name, message)).collect();
            return Some(json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items}));
        }
        COMPONENTS.iter().find(|(n, _)| *n == name).map(|(name, message)| one(name, message))
    }
}

/// The roles that people name without having made them. A twin grants everything; they are there to be referred to.
fn roles() -> Vec<Value> {
    let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    let annotations = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    let role = |name: &str, rules: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "labels": labels, "annotations": annotations}, "rules": rules})
    };
    let read = json!(["get", "list", "watch"]);
    vec![
        role(
            "cluster-admin",
            json!([
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]},
            ]),
        ),
        role(
            "admin",
            json!([{"verbs": ["*"], "apiGroups": ["", "apps", "batch", "networking.k8s.io", "policy"], "resources": ["*"]}]),
        ),
        role(
            "edit",
            json!([{"verbs": ["*"], "apiGroups": ["", "apps", "batch", "networking.k8s.io", "policy"], "resources": ["*"]}]),
        ),
        role(
            "view",
            json!([{"verbs": read, "apiGroups": ["", "apps", "batch", "networking.k8s.io", "policy"], "resources": ["*"]}]),
        ),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "cluster-admin", "labels": labels, "annotations": annotations},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:masters"}]}),
    ]
}
