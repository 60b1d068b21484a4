//! Writes weights into an HTTPRoute. Makes no choices; refuses to act for a map older than the one already applied.

use std::collections::BTreeMap;

use evergreen_api::{names::ANNOTATION_EPOCH, resources::HttpRouteActuator};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::site::clients::CALL_TIMEOUT;

/// Weights could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum RouteError {
    /// The route could not be read or written.
    #[error("HTTPRoute {0} could not be read or written")]
    Api(String, #[source] Box<kube::Error>),
    /// No answer.
    #[error("HTTPRoute {0}: the API server did not answer in time")]
    Timeout(String),
    /// The route does not lead to a backend of the service.
    #[error("HTTPRoute {route} has no backendRef `{backend}`: add it with weight 0")]
    MissingBackend {
        /// Name of the route.
        route: String,
        /// Service that is missing.
        backend: String,
    },
    /// Another controller already applied a newer map.
    #[error("HTTPRoute {0} was already written for a newer assignment")]
    Stale(String),
}

/// Sets the weights of the sites' backends; answers whether anything had to be written.
pub(super) async fn apply(
    client: &Client,
    namespace: &str,
    own: &str,
    actuator: &HttpRouteActuator,
    weights: &BTreeMap<String, u32>,
    ballot: u64,
) -> Result<bool, RouteError> {
    let name = &actuator.name;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let failed = |error: kube::Error| RouteError::Api(name.clone(), Box::new(error));
    let late = |_| RouteError::Timeout(name.clone());
    let mut route = tokio::time::timeout(CALL_TIMEOUT, api.get(name)).await.map_err(late)?.map_err(failed)?;
    let by_service: BTreeMap<&str, u32> = actuator
        .backends
        .iter()
        .filter_map(|backend| {
            let service = if backend.site == own { &backend.local } else { &backend.remote };
            Some((service.as_str(), *weights.get(&backend.site)?))
        })
        .collect();
    let annotations = route.metadata.annotations.get_or_insert_default();
    let applied: u64 = annotations.get(ANNOTATION_EPOCH).and_then(|text| text.parse().ok()).unwrap_or(0);
    if applied > ballot {
        return Err(RouteError::Stale(name.clone()));
    }
    annotations.insert(ANNOTATION_EPOCH.to_owned(), ballot.to_string());
    if !set_weights(&mut route.data, &by_service, name)? {
        return Ok(false);
    }
    let parameters = PostParams::default();
    let write = api.replace(name, &parameters, &route);
    tokio::time::timeout(CALL_TIMEOUT, write).await.map_err(late)?.map_err(failed)?;
    Ok(true)
}

/// Sets the weights in every rule that leads to these services; answers whether anything changed.
fn set_weights(data: &mut Value, weights: &BTreeMap<&str, u32>, route: &str) -> Result<bool, RouteError> {
    let mut changed = false;
    let mut found: Vec<&str> = Vec::new();
    let rules = data.pointer_mut("/spec/rules").and_then(Value::as_array_mut);
    for reference in rules.into_iter().flatten().filter_map(|rule| rule["backendRefs"].as_array_mut()).flatten() {
        let Some((service, weight)) =
            reference["name"].as_str().and_then(|name| weights.get_key_value(name)).map(|(n, w)| (*n, *w))
        else {
            continue;
        };
        found.push(service);
        // An absent weight means 1.
        if reference.get("weight").and_then(Value::as_u64).unwrap_or(1) != u64::from(weight) {
            reference["weight"] = json!(weight);
            changed = true;
        }
    }
    match weights.iter().find(|(service, weight)| **weight > 0 && !found.contains(service)) {
        Some((service, _)) => {
            Err(RouteError::MissingBackend { route: route.to_owned(), backend: (*service).to_owned() })
        }
        None => Ok(changed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Value {
        json!({"spec": {"rules": [{"backendRefs": [
            {"name": "checkout", "port": 8080, "weight": 100}, {"name": "checkout-b", "port": 8080, "weight": 0},
            {"name": "stranger", "port": 1}]}]}})
    }

    #[test]
    fn only_the_named_backends_change_and_only_when_they_differ() {
        let mut data = route();
        let weights = BTreeMap::from([("checkout", 0), ("checkout-b", 100)]);
        assert!(set_weights(&mut data, &weights, "r").unwrap());
        assert_eq!(data.pointer("/spec/rules/0/backendRefs/0/weight"), Some(&json!(0)));
        assert_eq!(data.pointer("/spec/rules/0/backendRefs/2"), Some(&json!({"name": "stranger", "port": 1})));
        assert!(!set_weights(&mut data, &weights, "r").unwrap());
    }

    #[test]
    fn a_backend_that_should_serve_but_is_missing_is_an_error() {
        let error = set_weights(&mut route(), &BTreeMap::from([("checkout-c", 50)]), "r").unwrap_err();
        assert!(error.to_string().contains("checkout-c"));
    }
}
