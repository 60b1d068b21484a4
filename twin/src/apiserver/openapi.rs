//! OpenAPI v3, as `kubectl explain` and the check for server-side field validation read it.
//!
//! Built-in kinds are described by the k8s-openapi crate, custom ones by their own definition.

use std::sync::LazyLock;

use k8s_openapi::api::{
    apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch, certificates::v1 as certificates,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as machinery;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::discovery::KUBERNETES_VERSION;
use super::registry::Resource;
use super::server::ApiServer;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// All definitions of built-in kinds, by the names that the real document uses.
fn definitions() -> &'static Map<String, Value> {
    static ALL: LazyLock<Map<String, Value>> = LazyLock::new(|| {
        let mut generator: SchemaGenerator = SchemaSettings::openapi3().into_generator();
        macro_rules! describe {
            ($($kind:ty),* $(,)?) => { $( generator.subschema_for::<$kind>(); )* };
        }
        describe!(
            core::Pod,
            core::Node,
            core::Service,
            core::Endpoints,
            core::ConfigMap,
            core::Secret,
            core::Namespace,
            core::ServiceAccount,
            core::Event,
            core::PersistentVolume,
            core::PersistentVolumeClaim,
            core::ResourceQuota,
            core::LimitRange,
            core::ReplicationController,
            core::PodTemplate,
            apps::Deployment,
            apps::ReplicaSet,
            apps::StatefulSet,
            apps::DaemonSet,
            apps::ControllerRevision,
            batch::Job,
            batch::CronJob,
            policy::PodDisruptionBudget,
            discovery::EndpointSlice,
            coordination::Lease,
            events::Event,
            scheduling::PriorityClass,
            storage::StorageClass,
            storage::CSIDriver,
            storage::CSINode,
            storage::VolumeAttachment,
            rbac::Role,
            rbac::RoleBinding,
            rbac::ClusterRole,
            rbac::ClusterRoleBinding,
            networking::NetworkPolicy,
            networking::Ingress,
            networking::IngressClass,
            autoscaling::HorizontalPodAutoscaler,
            certificates::CertificateSigningRequest,
            node::RuntimeClass,
            apiextensions::CustomResourceDefinition,
            machinery::ObjectMeta,
        );
        generator.take_definitions(false).into_iter().collect()
    });
    &ALL
}

impl ApiServer {
    /// The index of documents.
    pub(super) fn openapi_index(&self) -> Value {
        let mut paths = Map::new();
        paths.insert("api/v1".to_owned(), json!({"serverRelativeURL": "/openapi/v3/api/v1?hash=0"}));
        for (group, versions) in self.groups() {
            for version in versions {
                let path = format!("apis/{group}/{version}");
                // Custom resources come and go, so their document must not be kept by its hash.
                let url = format!("/openapi/v3/{path}?hash={}", self.store().version());
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        json!({"paths": paths})
    }

    /// The document of one group and version.
    pub(super) fn openapi(&self, group: &str, version: &str) -> Option<Value> {
        let all = self.registry().all();
        let prefix = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let (mut paths, mut schemas) = (Map::new(), Map::new());
        let query =
            |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        for r in all.iter().filter(|r| r.group == group && r.version == version) {
            let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
            let operation = |action: &str| {
                json!({
                    "parameters": [query("dryRun"), query("fieldManager"), query("fieldValidation"), query("force")],
                    "responses": {"200": {"description": "OK"}},
                    "x-kubernetes-action": action,
                    "x-kubernetes-group-version-kind": identity(r),
                })
            };
            paths.insert(
                format!("{prefix}{scope}/{}/{{name}}", r.plural),
                json!({"get": operation("get"), "patch": operation("patch"), "put": operation("put"), "delete": operation("delete")}),
            );
            paths.insert(
                format!("{prefix}{scope}/{}", r.plural),
                json!({"get": operation("list"), "post": operation("post")}),
            );
            describe(r, &mut schemas);
        }
        (!paths.is_empty()).then(|| {
            json!({
                "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION.2},
                "paths": paths, "components": {"schemas": schemas},
            })
        })
    }
}

fn identity(r: &Resource) -> Value {
    json!({"group": r.group, "version": r.version, "kind": r.kind})
}

/// Adds the schema of a resource and of all that it refers to.
fn describe(r: &Resource, schemas: &mut Map<String, Value>) {
    let (name, mut schema) = match &r.custom {
        Some(custom) => {
            let mut schema = custom.schema.root().clone();
            for (field, text) in [
                ("apiVersion", "The version of the schema that this object is written in."),
                ("kind", "The kind of thing that this object is."),
            ] {
                schema["properties"][field] = json!({"type": "string", "description": text});
            }
            schema["properties"]["metadata"] = json!({"allOf": [{"$ref": format!("#/components/schemas/{META}")}],
                "description": "Standard metadata of an object."});
            let reversed: Vec<&str> = r.group.split('.').rev().collect();
            (format!("{}.{}.{}", reversed.join("."), r.version, r.kind), schema)
        }
        None => {
            let package = r.group.split('.').next().filter(|p| !p.is_empty()).unwrap_or("core");
            let name = match package {
                "apiextensions" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{}", r.kind),
                _ => format!("io.k8s.api.{package}.{}.{}", r.version, r.kind),
            };
            match definitions().get(&name) {
                Some(schema) => (name, schema.clone()),
                None => (
                    name,
                    json!({"type": "object", "properties": {
                        "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                        "metadata": {"allOf": [{"$ref": format!("#/components/schemas/{META}")}]},
                    }}),
                ),
            }
        }
    };
    schema["x-kubernetes-group-version-kind"] = json!([identity(r)]);
    let mut wanted = Vec::new();
    references(&schema, &mut wanted);
    schemas.insert(name, schema);
    while let Some(name) = wanted.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        if let Some(schema) = definitions().get(&name) {
            references(schema, &mut wanted);
            schemas.insert(name, schema.clone());
        }
    }
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
                found.push(name.to_owned());
            }
            fields.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_a_built_in_kind_leads_to_a_definition() {
        let mut wanted = Vec::new();
        definitions().values().for_each(|schema| references(schema, &mut wanted));
        for name in wanted {
            assert!(definitions().contains_key(&name), "{name}");
        }
    }
}
