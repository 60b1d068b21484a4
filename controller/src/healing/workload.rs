//! Acts on workloads: restarting a Deployment by a change of its pod template, once for each key.

use evergreen_playbooks::view::DeploymentView;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    calls::{CallError, call},
    trim::{self, RESTARTED_BY},
};

/// A Deployment and the version that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub(crate) view: DeploymentView,
    pub(crate) version: String,
}

/// Looks at a Deployment; `None` when it is not there.
pub(crate) async fn get(client: &Client, namespace: &str, name: &str) -> Result<Option<Looked>, CallError> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let deployment = call(format!("get Deployment {namespace}/{name}"), api.get_opt(name)).await?;
    Ok(deployment.map(|deployment| Looked {
        view: trim::deployment(&deployment),
        version: deployment.resource_version().unwrap_or_default(),
    }))
}

/// Writes the key into the pod template, which makes the Deployment replace its pods as its strategy says.
///
/// # Errors
/// A conflict when the Deployment is no longer the version that was looked at: nothing was changed then.
pub(crate) async fn restart(
    client: &Client,
    namespace: &str,
    name: &str,
    version: &str,
    key: &str,
) -> Result<(), CallError> {
    let patch = json!({
        "metadata": {"resourceVersion": version},
        "spec": {"template": {"metadata": {"annotations": {RESTARTED_BY: key}}}},
    });
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let what = format!("restart Deployment {namespace}/{name}");
    call(what, api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(|_| ())
}
