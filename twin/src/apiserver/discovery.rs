//! Discovery: which groups, versions and resources there are, group by group or all in one answer.

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
            ["openapi", "v3"] => Some(self.openapi_index()),
            ["openapi", "v3", "api", version] => self.openapi("", version),
            ["openapi", "v3", "apis", group, version] => self.openapi(group, version),
            _ => None,
        }
    }

    pub(super) fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let virtual_groups =
            [("authentication.k8s.io", "v1"), ("authorization.k8s.io", "v1"), ("metrics.k8s.io", "v1beta1")];
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
            let mut entry = json!({
                "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind,
                "verbs": VERBS.iter().filter(|v| **v != "deletecollection" || !r.is("", "namespaces")).collect::<Vec<_>>(),
            });
            for (field, names) in [("shortNames", &r.short_names), ("categories", &r.categories)] {
                if !names.is_empty() {
                    entry[field] = json!(names);
                }
            }
            entry["storageVersionHash"] = json!(version_hash(r));
            resources.push(entry);
            resources.extend(subresources(r));
        }
        let review = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": false, "kind": kind, "verbs": ["create"]});
        match (group, version) {
            ("", "v1") => {
                let mut entry = review("componentstatuses", "ComponentStatus");
                (entry["shortNames"], entry["verbs"]) = (json!(["cs"]), json!(["get", "list"]));
                resources.push(entry);
            }
            ("authentication.k8s.io", "v1") => resources
                .extend([review("tokenreviews", "TokenReview"), review("selfsubjectreviews", "SelfSubjectReview")]),
            ("authorization.k8s.io", "v1") => resources.extend([
                review("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
                review("subjectaccessreviews", "SubjectAccessReview"),
                review("selfsubjectrulesreviews", "SelfSubjectRulesReview"),
                json!({"name": "localsubjectaccessreviews", "singularName": "", "namespaced": true, "kind": "LocalSubjectAccessReview", "verbs": ["create"]}),
            ]),
            ("metrics.k8s.io", "v1beta1") => {
                for (name, kind, namespaced) in [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)] {
                    resources.push(json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]}));
                }
            }
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

    /// The aggregated form: all groups of `/api` or `/apis` with all their resources.
    pub(super) fn aggregated(&self, path: &str) -> Option<Value> {
        let groups: Vec<(String, Vec<String>)> = match path {
            "/api" => vec![(String::new(), vec!["v1".to_owned()])],
            "/apis" => self.groups().into_iter().collect(),
            _ => return None,
        };
        let version = |group: &str, version: &String| {
            let list = self.resource_list(group, version)?;
            let resources = list["resources"].as_array().cloned().unwrap_or_default();
            Some(
                json!({"version": version, "freshness": "Current", "resources": aggregate(group, version, &resources)}),
            )
        };
        let items: Vec<Value> = groups
            .iter()
            .map(|(group, versions)| {
                let versions: Vec<Value> = versions.iter().filter_map(|v| version(group, v)).collect();
                let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
                json!({"metadata": metadata, "versions": versions})
            })
            .collect();
        Some(
            json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
        )
    }
}

/// Turns the entries of a resource list into the aggregated form, subresources below their resource.
fn aggregate(group: &str, version: &str, entries: &[Value]) -> Vec<Value> {
    let identity = |entry: &Value| {
        let or = |field: &str, own: &str| entry[field].as_str().unwrap_or(own).to_owned();
        json!({"group": or("group", group), "version": or("version", version), "kind": entry["kind"]})
    };
    let mut found: Vec<Value> = Vec::new();
    for entry in entries {
        let name = entry["name"].as_str().unwrap_or_default();
        if let Some((parent, subresource)) = name.split_once('/') {
            let below = json!({"subresource": subresource, "responseKind": identity(entry), "verbs": entry["verbs"]});
            if let Some(parent) = found.iter_mut().find(|r| r["resource"] == parent) {
                match parent["subresources"].as_array_mut() {
                    Some(list) => list.push(below),
                    None => parent["subresources"] = json!([below]),
                }
            }
            continue;
        }
        let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut item = json!({
            "resource": name, "responseKind": identity(entry), "scope": scope,
            "singularResource": entry["singularName"], "verbs": entry["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if entry[field].is_array() {
                item[field] = entry[field].clone();
            }
        }
        found.push(item);
    }
    found
}

/// A mark of the stored form, as clients compare it: it changes with the group, the version and the kind only.
fn version_hash(r: &Resource) -> String {
    use base64::Engine as _;
    use std::hash::{Hash, Hasher};
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    (&r.group, &r.version, &r.kind).hash(&mut hasher);
    base64::engine::general_purpose::STANDARD.encode(hasher.finish().to_be_bytes())
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
        found.push(entry("ephemeralcontainers", "Pod", &["get", "patch", "update"]));
        found.push(entry("log", "Pod", &["get"]));
    }
    if r.is("certificates.k8s.io", "certificatesigningrequests") {
        found.push(entry("approval", &r.kind, &["get", "patch", "update"]));
    }
    if r.is("", "serviceaccounts") {
        let mut token = entry("token", "TokenRequest", &["create"]);
        token["group"] = json!("authentication.k8s.io");
        token["version"] = json!("v1");
        found.push(token);
    }
    if r.is("", "namespaces") {
        found.push(entry("finalize", "Namespace", &["update"]));
    }
    found
}
