//! Kubeconfigs with exactly the rights that the chart gives, so that a suite fails when a role lacks something.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_yaml::Value;

use crate::{chart, kubernetes::Cluster, programs};

/// A kubeconfig in `dir` of the ServiceAccount of `component` (`agent`, `controller`), with the chart's roles; the
/// administrator's where there is no Helm to render them.
///
/// # Panics
/// When the API server refuses the roles.
pub async fn kubeconfig_of(component: &str, cluster: &Cluster, dir: &Path) -> PathBuf {
    let Some(helm) = programs::tool("helm") else { return cluster.kubeconfig.clone() };
    let template = format!("templates/{component}/rbac.yaml");
    let manifest = chart::template(&helm, &["--show-only", &template]).expect("the roles render");
    for object in chart::objects(&manifest) {
        let object: DynamicObject = serde_yaml::from_value(object).expect("an object");
        let types = object.types.clone().expect("objects have a kind");
        let gvk = GroupVersionKind::try_from(types).expect("a kind");
        let resource = ApiResource::from_gvk(&gvk);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
            None => Api::all_with(cluster.client.clone(), &resource),
        };
        let name = object.metadata.name.clone().expect("a name");
        api.patch(&name, &PatchParams::apply("evergreen-tests").force(), &Patch::Apply(&object)).await.expect("a role");
    }
    let account = format!("evergreen-{component}");
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "evergreen-system");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(3_600), ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let token = accounts.create_token_request(&account, &PostParams::default(), &request).await.expect("a token");
    let token = token.status.and_then(|status| status.token).expect("a token request is answered");
    let text = std::fs::read_to_string(&cluster.kubeconfig).expect("a kubeconfig");
    let mut kubeconfig: Value = serde_yaml::from_str(&text).expect("a kubeconfig is YAML");
    for user in kubeconfig["users"].as_sequence_mut().expect("users") {
        user["user"] = serde_yaml::to_value(BTreeMap::from([("token", &token)])).expect("a map of text");
    }
    let path = dir.join(format!("{component}.kubeconfig"));
    // The token is for these tests' own control plane and ends within the hour.
    std::fs::write(&path, serde_yaml::to_string(&kubeconfig).expect("plain data")).expect("the folder is writable");
    path
}
