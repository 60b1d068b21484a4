//! A routing table in a ConfigMap beside its service: an older version never replaces a newer one.

use evergreen_api::names::ANNOTATION_EPOCH;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Outcome, TrafficError};
use crate::site::clients::CALL_TIMEOUT;

/// Key of the table.
const KEY: &str = "routing.json";

/// Publishes `text` as version `version`. Reads by a patch that changes nothing, so that no right to read the ConfigMaps of
/// other people is needed, and writes at the very version that was read.
///
/// # Errors
/// [`TrafficError::Stale`] when a newer version is there; that it cannot be written.
pub(crate) async fn publish(
    client: &Client,
    namespace: &str,
    name: &str,
    version: u64,
    text: &str,
) -> Result<Outcome, TrafficError> {
    let what = format!("ConfigMap {name}");
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let patch = async |body: Value| {
        let parameters = PatchParams::default();
        let body = Patch::Merge(body);
        let call = api.patch(name, &parameters, &body);
        tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(|_| TrafficError::Timeout(what.clone()))
    };
    let failed = |error: kube::Error| TrafficError::Api(what.clone(), Box::new(error));
    let annotations = json!({ANNOTATION_EPOCH: version.to_string()});
    let found = match patch(json!({})).await? {
        Ok(found) => found,
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            let fresh = json!({"metadata": {"name": name, "annotations": annotations}, "data": {KEY: text}});
            let fresh: ConfigMap =
                serde_json::from_value(fresh).map_err(|error| failed(kube::Error::SerdeError(error)))?;
            let made = tokio::time::timeout(CALL_TIMEOUT, api.create(&PostParams::default(), &fresh)).await;
            return match made.map_err(|_| TrafficError::Timeout(what.clone()))? {
                Ok(_) => Ok(Outcome::Written),
                Err(kube::Error::Api(status)) if status.is_already_exists() => Err(TrafficError::Conflict(what)),
                Err(error) => Err(failed(error)),
            };
        }
        Err(error) => return Err(failed(error)),
    };
    let there = found.annotations().get(ANNOTATION_EPOCH).and_then(|text| text.parse().ok()).unwrap_or(0);
    if there > version {
        return Err(TrafficError::Stale { what, found: there, planned: version });
    }
    if there == version && found.data.as_ref().and_then(|data| data.get(KEY)).is_some_and(|known| known == text) {
        return Ok(Outcome::Unchanged);
    }
    let body = json!({
        "metadata": {"resourceVersion": found.resource_version(), "annotations": annotations}, "data": {KEY: text},
    });
    match patch(body).await? {
        Ok(_) => Ok(Outcome::Written),
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(TrafficError::Conflict(what)),
        Err(error) => Err(failed(error)),
    }
}
