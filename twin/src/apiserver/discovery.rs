//! Discovery: which groups, versions and resources there are, and the little of OpenAPI that kubectl asks for.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::registry::Resource;
use super::server::ApiServer;

/// The version that the twin says it is.
pub const KUBERNETES_VERSION: (&str, &str, &str) = ("1", "36", "v1.36.0");

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl ApiServer {
    /// The answer for a discovery path, or `None` when it is no such path.
    pub fn discover(&self, path: &str) -> Option<Value> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["version"] => {
                let (major, minor, git) = KUBERNETES_VERSION;
                Some(json!({
                    "major": major, "minor": minor, "gitVersion": git, "gitCommit": "", "gitTreeState": "clean",
                    "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
                }))
            }
            ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
            ["apis"] => {
                let groups: Vec<Value> =
                    self.groups().into_iter().map(|(group, versions)| group_value(&group, &versions)).collect();
                Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            ["apis", group] => {
                let (group, versions) = self.groups().into_iter().find(|(name, _)| name == group)?;
                let mut value = group_value(&group, &versions);
                value["kind"] = json!("APIGroup");
                value["apiVersion"] = json!("v1");
                Some(value)
            }
            ["api", version] => self.resource_list("", version),
            ["apis", group, version] => self.resource_list(group, version),
            ["openapi", "v3"] => {
                let mut paths = serde_json::Map::new();
                paths.insert("api/v1".to_owned(), json!({"serverRelativeURL": "/openapi/v3/api/v1?hash=0"}));
                for (group, versions) in self.groups() {
                    for version in versions {
                        let path = format!("apis/{group}/{version}");
                        let url = format!("/openapi/v3/{path}?hash=0");
                        paths.insert(path, json!({"serverRelativeURL": url}));
                    }
                }
                Some(json!({"paths": paths}))
            }
            ["openapi", "v3", "api", version] => self.openapi("", version),
            ["openapi", "v3", "apis", group, version] => self.openapi(group, version),
            _ => None,
        }
    }

    fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let virtual_groups = [("authentication.k8s.io", "v1"), ("authorization.k8s.io", "v1")];
        let all = self.registry().all();
        let listed = all.iter().map(|r| (r.group.as_str(), r.version.as_str())).chain(virtual_groups);
        for (group, version) in listed.filter(|(group, _)| !group.is_empty()) {
            let versions = groups.entry(group.to_owned()).or_default();
            if !versions.iter().any(|v| v == version) {
                versions.push(version.to_owned());
            }
        }
        groups
    }

    fn resource_list(&self, group: &str, version: &str) -> Option<Value> {
        let all = self.registry().all();
        let mut resources = Vec::new();
        for r in all.iter().filter(|r| r.group == group && r.version == version) {
            resources.push(json!({
                "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": VERBS,
                "shortNames": r.short_names, "categories": r.categories,
            }));
            resources.extend(subresources(r));
        }
        let review = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": false, "kind": kind, "verbs": ["create"]});
        match group {
            "authentication.k8s.io" => resources
                .extend([review("tokenreviews", "TokenReview"), review("selfsubjectreviews", "SelfSubjectReview")]),
            "authorization.k8s.io" => resources.extend([
                review("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
                review("subjectaccessreviews", "SubjectAccessReview"),
            ]),
            _ => {}
        }
        if resources.is_empty() {
            return None;
        }
        let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Some(
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
        )
    }

    /// Enough of OpenAPI v3 for kubectl and Helm to see that the server validates fields itself.
    fn openapi(&self, group: &str, version: &str) -> Option<Value> {
        let all = self.registry().all();
        let prefix = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let mut paths = serde_json::Map::new();
        let query =
            |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        for r in all.iter().filter(|r| r.group == group && r.version == version) {
            let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
            let operation = |action: &str| {
                json!({
                    "parameters": [query("dryRun"), query("fieldManager"), query("fieldValidation"), query("force")],
                    "responses": {"200": {"description": "OK"}},
                    "x-kubernetes-action": action,
                    "x-kubernetes-group-version-kind": {"group": r.group, "version": r.version, "kind": r.kind},
                })
            };
            paths.insert(
                format!("{prefix}{scope}/{}/{{name}}", r.plural),
                json!({"patch": operation("patch"), "put": operation("put")}),
            );
            paths.insert(format!("{prefix}{scope}/{}", r.plural), json!({"post": operation("post")}));
        }
        (!paths.is_empty()).then(|| {
            json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION.2}, "paths": paths, "components": {"schemas": {}}})
        })
    }
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let list: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
    json!({"name": group, "versions": list, "preferredVersion": list.first()})
}

fn subresources(r: &Resource) -> Vec<Value> {
    let entry = |sub: &str, kind: &str, verbs: &[&str]| json!({"name": format!("{}/{sub}", r.plural), "singularName": "", "namespaced": r.namespaced, "kind": kind, "verbs": verbs});
    let mut found = Vec::new();
    if r.has_status {
        found.push(entry("status", &r.kind, &["get", "patch", "update"]));
    }
    if r.has_scale {
        let mut scale = entry("scale", "Scale", &["get", "patch", "update"]);
        scale["group"] = json!("autoscaling");
        scale["version"] = json!("v1");
        found.push(scale);
    }
    if r.is("", "pods") {
        let mut eviction = entry("eviction", "Eviction", &["create"]);
        eviction["group"] = json!("policy");
        eviction["version"] = json!("v1");
        found.push(eviction);
        found.push(entry("binding", "Binding", &["create"]));
    }
    if r.is("", "namespaces") {
        found.push(entry("finalize", "Namespace", &["update"]));
    }
    found
}
