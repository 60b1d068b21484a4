//! Acts on nodes: whether the scheduler may use them. Only on the version that was looked at.

use evergreen_api::names;
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Node, storage::v1::VolumeAttachment};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    calls::{CallError, call},
    trim::{self, TrimmedNode},
};

/// Sets whether the scheduler places nothing on a node, and which run said so.
///
/// # Errors
/// A conflict when the node is no longer the version that was looked at: nothing was changed then.
pub(crate) async fn set_schedulable(
    client: &Client,
    name: &str,
    version: &str,
    unschedulable: bool,
    cordoned_by: Option<&str>,
    now: Timestamp,
) -> Result<TrimmedNode, CallError> {
    let patch = json!({
        "metadata": {
            "resourceVersion": version,
            "annotations": {names::ANNOTATION_CORDONED_BY: cordoned_by},
        },
        "spec": {"unschedulable": unschedulable.then_some(true)},
    });
    let api = Api::<Node>::all(client.clone());
    let what = format!("{} node {name}", if unschedulable { "cordon" } else { "uncordon" });
    let node = call(what, api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
    Ok(trim::node(&node, now))
}

/// Looks at a node at the API server itself; `None` when it is not there.
pub(crate) async fn get(client: &Client, name: &str, now: Timestamp) -> Result<Option<TrimmedNode>, CallError> {
    let api = Api::<Node>::all(client.clone());
    let node = call(format!("get node {name}"), api.get_opt(name)).await?;
    Ok(node.map(|node| trim::node(&node, now)))
}

/// How many volumes are attached to a node; none where the API server knows no attachments.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn volumes_on(client: &Client, name: &str) -> Result<usize, CallError> {
    let api = Api::<VolumeAttachment>::all(client.clone());
    match call("list volume attachments", api.list(&ListParams::default())).await {
        Ok(found) => Ok(found.items.iter().filter(|attachment| attachment.spec.node_name == name).count()),
        Err(error) if error.is_not_found() => Ok(0),
        Err(error) => Err(error),
    }
}
