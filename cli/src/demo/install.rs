//! Puts objects into a data center: create, and leave alone what is there already.

use anyhow::{Context, bail};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use serde_json::Value;

/// Creates an object; one that exists already is left as it is.
///
/// # Errors
/// When the API server refuses it, with the object's kind and name.
pub async fn create(client: &Client, object: &Value) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone()).context("an object of the demo is malformed")?;
    let Some(types) = &object.types else { bail!("an object of the demo has no kind") };
    let gvk = GroupVersionKind::try_from(types).context("an object of the demo has no kind")?;
    let resource = ApiResource::from_gvk_with_plural(&gvk, &plural(&gvk.kind));
    let api: Api<DynamicObject> = match object.metadata.namespace.as_deref() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot create {} {name}", gvk.kind)),
    }
}

/// Plural of a kind, by the rules that all kinds of the demo keep.
fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
        _ => format!("{lower}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_the_demo_have_regular_plurals() {
        let plurals = ["PodDisruptionBudget", "HTTPRoute", "DataCenter", "CustomResourceDefinition"].map(plural);
        assert_eq!(plurals, ["poddisruptionbudgets", "httproutes", "datacenters", "customresourcedefinitions"]);
    }
}
