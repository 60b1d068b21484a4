//! Objects of any kind at the API server: looking at one, and the acts on one.

use std::collections::HashMap;

use evergreen_api::resources::ObjectName;
use evergreen_playbooks::{kinds, view::ObjectView};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
    core::GroupVersionKind,
};
use parking_lot::Mutex;
use serde_json::Value;

use super::calls::{CallError, call};

/// Who owns the fields that a patch step sets.
const FIELD_MANAGER: &str = "evergreen-playbooks";

/// How kinds are called in paths; asked of the API server once where the product does not know it.
#[derive(Debug, Default)]
pub(crate) struct Paths(Mutex<HashMap<(String, String), (ApiResource, bool)>>);

impl Paths {
    /// The resource of a kind, and whether its objects are in namespaces.
    pub(crate) async fn of(
        &self,
        client: &Client,
        api_version: &str,
        kind: &str,
    ) -> Result<(ApiResource, bool), CallError> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        if let Some(known) = kinds::find(api_version, kind) {
            return Ok((ApiResource::from_gvk_with_plural(&gvk, known.plural), known.namespaced));
        }
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.0.lock().get(&key) {
            return Ok(known.clone());
        }
        let what = format!("find out how {kind} ({api_version}) is called");
        let (resource, about) = call(what, kube::discovery::pinned_kind(client, &gvk)).await?;
        let found = (resource, about.scope == kube::discovery::Scope::Namespaced);
        self.0.lock().insert(key, found.clone());
        Ok(found)
    }

    async fn api(&self, client: &Client, object: &ObjectName) -> Result<Api<DynamicObject>, CallError> {
        let (resource, namespaced) = self.of(client, &object.api_version, &object.kind).await?;
        Ok(match (namespaced, &object.namespace) {
            (true, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
            _ => Api::all_with(client.clone(), &resource),
        })
    }

    /// Looks at an object; `None` when it is not there.
    pub(crate) async fn get(&self, client: &Client, object: &ObjectName) -> Result<Option<ObjectView>, CallError> {
        let api = self.api(client, object).await?;
        let found = call(format!("get {}", object.display()), api.get_opt(&object.name)).await?;
        Ok(found.map(|found| view(&object.api_version, &object.kind, &found)))
    }

    /// Merges a patch into an object; the version in it is a precondition.
    pub(crate) async fn merge(&self, client: &Client, object: &ObjectName, patch: &Value) -> Result<(), CallError> {
        let api = self.api(client, object).await?;
        let what = format!("change {}", object.display());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        call(what, api.patch(&object.name, &params, &Patch::Merge(patch))).await.map(drop)
    }

    /// Applies fields to an object, taking them over.
    pub(crate) async fn apply(&self, client: &Client, object: &ObjectName, body: &Value) -> Result<(), CallError> {
        let api = self.api(client, object).await?;
        let what = format!("apply to {}", object.display());
        call(what, api.patch(&object.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(body)))
            .await
            .map(drop)
    }

    /// Creates an object; that it is there already is success.
    pub(crate) async fn create(&self, client: &Client, object: &ObjectName, body: &Value) -> Result<(), CallError> {
        let api = self.api(client, object).await?;
        let what = format!("create {}", object.display());
        let typed: DynamicObject = match serde_json::from_value(body.clone()) {
            Ok(typed) => typed,
            Err(error) => {
                let source = Box::new(kube::Error::SerdeError(error));
                return Err(CallError::Failed { what, source });
            }
        };
        match call(what, api.create(&PostParams::default(), &typed)).await {
            Err(error) if error.is_already_there() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes one object by UID; that it is gone already is success.
    pub(crate) async fn delete(&self, client: &Client, object: &ObjectName, uid: &str) -> Result<(), CallError> {
        let api = self.api(client, object).await?;
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match call(format!("delete {}", object.display()), api.delete(&object.name, &params)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

/// An object as decisions see it: without the book-keeping of field managers, which is most of its bytes.
pub(crate) fn view(api_version: &str, kind: &str, object: &DynamicObject) -> ObjectView {
    let mut body = object.data.clone();
    if let Some(fields) = body.as_object_mut() {
        let mut metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("managedFields");
        }
        fields.insert("metadata".to_owned(), metadata);
    }
    ObjectView::new(api_version, kind, body)
}
