//! Changes an object of the own API server under an epoch: read, compare, replace at the very version that was read.

use evergreen_api::names::ANNOTATION_EPOCH;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};

use super::{Outcome, TrafficError, TrafficPlan};
use crate::site::clients::CALL_TIMEOUT;

/// An object that carries the epoch of the plan that wrote it last.
pub(super) struct Fenced {
    api: Api<DynamicObject>,
    what: String,
    /// The object as it was read; change it and [`Fenced::write`] it.
    pub object: DynamicObject,
    before: DynamicObject,
}

/// Namespaced objects of a kind.
pub(super) fn api(client: &Client, namespace: &str, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

impl Fenced {
    /// Reads it, from a quorum.
    ///
    /// # Errors
    /// When it cannot be read, is not there, or was written for a newer epoch than the plan's.
    pub async fn read(
        api: Api<DynamicObject>,
        kind: &str,
        name: &str,
        plan: &TrafficPlan,
    ) -> Result<Self, TrafficError> {
        match Self::find(api, kind, name, plan).await? {
            Some(found) => Ok(found),
            None => Err(TrafficError::Missing {
                what: "this site".into(),
                missing: format!("{kind} {name}"),
                remedy: "create it first; only its shares are changed here".into(),
            }),
        }
    }

    /// As [`Fenced::read`], but none when it is not there.
    ///
    /// # Errors
    /// When it cannot be read or was written for a newer epoch than the plan's.
    pub async fn find(
        api: Api<DynamicObject>,
        kind: &str,
        name: &str,
        plan: &TrafficPlan,
    ) -> Result<Option<Self>, TrafficError> {
        let what = format!("{kind} {name}");
        let read = tokio::time::timeout(CALL_TIMEOUT, api.get_opt(name)).await;
        let read = read.map_err(|_| TrafficError::Timeout(what.clone()))?;
        let Some(object) = read.map_err(|error| TrafficError::Api(what.clone(), Box::new(error)))? else {
            return Ok(None);
        };
        let found = epoch_of(&object);
        if found > plan.epoch {
            return Err(TrafficError::Stale { what, found, planned: plan.epoch });
        }
        Ok(Some(Self { api, what, before: object.clone(), object }))
    }

    /// Writes it, with the epoch of the plan, if anything is different.
    ///
    /// # Errors
    /// When it cannot be written, or somebody wrote it meanwhile: nothing has changed then.
    pub async fn write(mut self, plan: &TrafficPlan) -> Result<Outcome, TrafficError> {
        let annotations = self.object.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_EPOCH.to_owned(), plan.epoch.to_string());
        if self.object == self.before {
            return Ok(Outcome::Unchanged);
        }
        let name = self.object.metadata.name.clone().unwrap_or_default();
        let parameters = PostParams::default();
        let write = self.api.replace(&name, &parameters, &self.object);
        match tokio::time::timeout(CALL_TIMEOUT, write).await {
            Err(_) => Err(TrafficError::Timeout(self.what)),
            Ok(Ok(_)) => Ok(Outcome::Written),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(TrafficError::Conflict(self.what)),
            Ok(Err(error)) => Err(TrafficError::Api(self.what, Box::new(error))),
        }
    }
}

/// Creates an object under the epoch of a plan.
///
/// # Errors
/// When it cannot be created; [`TrafficError::Conflict`] when somebody was faster.
pub(super) async fn create(
    api: &Api<DynamicObject>,
    kind: &str,
    mut object: DynamicObject,
    plan: &TrafficPlan,
) -> Result<Outcome, TrafficError> {
    let what = format!("{kind} {}", object.metadata.name.clone().unwrap_or_default());
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_EPOCH.to_owned(), plan.epoch.to_string());
    match tokio::time::timeout(CALL_TIMEOUT, api.create(&PostParams::default(), &object)).await {
        Err(_) => Err(TrafficError::Timeout(what)),
        Ok(Ok(_)) => Ok(Outcome::Written),
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => Err(TrafficError::Conflict(what)),
        Ok(Err(error)) => Err(TrafficError::Api(what, Box::new(error))),
    }
}

/// Epoch that an object was written for; 0 if never.
fn epoch_of(object: &DynamicObject) -> u64 {
    let annotations = object.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(ANNOTATION_EPOCH)).and_then(|text| text.parse().ok()).unwrap_or(0)
}
