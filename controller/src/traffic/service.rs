//! Selector of a Service, and an EndpointSlice beside it that leads to other sites.
//!
//! A Service without a selector keeps the endpoints that it last had, so traffic is led away with a selector that no pod
//! meets, never by taking the selector off.

use evergreen_api::resources::ServiceActuator;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use serde_json::{Value, json};

use super::{
    Outcome, TrafficError, TrafficPlan,
    object::{Fenced, api, create},
};
use crate::site::clients::CALL_TIMEOUT;

/// Label that no pod has.
const ELSEWHERE: &str = "evergreen.dev/elsewhere";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Makes the Service lead where the plan says: what is added comes first, what is taken away last.
pub(super) async fn apply(
    client: &Client,
    namespace: &str,
    actuator: &ServiceActuator,
    plan: &TrafficPlan,
) -> Result<Outcome, TrafficError> {
    let what = format!("Service {}", actuator.name);
    let cannot = |why: &str| TrafficError::Unsupported { what: what.clone(), why: why.to_owned() };
    if !plan.is_even() {
        return Err(cannot("endpoints share evenly: percentages need httpRoute, ingress, haproxy or powerDns"));
    }
    if !plan.units.is_empty() || plan.whitelist.is_some() {
        return Err(cannot("it sees no headers: units and whitelists need httpRoute or haproxy"));
    }
    let (here, addresses) = wanted(actuator, plan);
    let services = api(client, namespace, "", "v1", "Service");
    let mut service = Fenced::read(services, "Service", &actuator.name, plan).await?;
    let slices = slices(client, namespace).await?;
    let slice_name = format!("{}-evergreen", actuator.name);
    let slice = Fenced::find(slices.clone(), "EndpointSlice", &slice_name, plan).await?;
    let mut written = Outcome::Unchanged;
    let mut slice = match slice {
        Some(slice) => Some(slice),
        None if addresses.is_empty() => None,
        None => {
            let object = slice_object(actuator, &slice_name, namespace, &slices, &addresses);
            written = create(&slices, "EndpointSlice", object, plan).await?;
            None
        }
    };
    if let Some(mut present) = slice.take() {
        if addresses.is_empty() {
            slice = Some(present);
        } else {
            // Raised first: the other sites' entries are there before the own pods are let go.
            present.object.data["endpoints"] = endpoints(&addresses);
            written = present.write(plan).await?;
        }
    }
    let mut selector = actuator.selector.clone();
    if !here {
        selector.insert(ELSEWHERE.to_owned(), "true".to_owned());
    }
    service.object.data["spec"]["selector"] = json!(selector);
    let changed = service.write(plan).await?;
    if changed != Outcome::Unchanged {
        written = changed;
    }
    if let Some(mut left) = slice {
        let has = left.object.data["endpoints"].as_array().is_some_and(|endpoints| !endpoints.is_empty());
        if has && !own_endpoints(&slices, actuator, &slice_name).await? {
            let why = format!("no pod of this site is an endpoint of {what} yet; the other sites' entries stay");
            return Ok(Outcome::Waiting { remaining: std::time::Duration::from_millis(500), why });
        }
        left.object.data["endpoints"] = json!([]);
        let lowered = left.write(plan).await?;
        if lowered != Outcome::Unchanged {
            written = lowered;
        }
    }
    Ok(written)
}

/// Whether the own pods serve, and the addresses of the other sites that do.
fn wanted(actuator: &ServiceActuator, plan: &TrafficPlan) -> (bool, Vec<String>) {
    let others = actuator.targets.iter().filter(|target| target.site != plan.own && plan.share(&target.site) > 0);
    let addresses = others.flat_map(|target| target.addresses.iter().cloned()).collect();
    (plan.share(&plan.own) > 0, addresses)
}

fn endpoints(addresses: &[String]) -> Value {
    let endpoint = |address: &String| json!({"addresses": [address], "conditions": {"ready": true}});
    Value::Array(addresses.iter().map(endpoint).collect())
}

fn slice_object(
    actuator: &ServiceActuator,
    name: &str,
    namespace: &str,
    api: &Api<DynamicObject>,
    addresses: &[String],
) -> DynamicObject {
    let family = if addresses.iter().any(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    let version =
        if api.resource_url().contains("/v1beta1/") { "discovery.k8s.io/v1beta1" } else { "discovery.k8s.io/v1" };
    let object = json!({"apiVersion": version, "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {
            SERVICE_NAME: actuator.name, MANAGED_BY: "evergreen.dev"}},
        "addressType": family, "endpoints": endpoints(addresses),
        "ports": [{"name": actuator.port_name.clone().unwrap_or_default(), "port": actuator.target_port, "protocol": "TCP"}]});
    serde_json::from_value(object).expect("it is an object with a name")
}

/// EndpointSlices, in the version that the API server has: v1 from 1.21 on.
async fn slices(client: &Client, namespace: &str) -> Result<Api<DynamicObject>, TrafficError> {
    let what = || "discovery.k8s.io".to_owned();
    let list = client.list_api_group_resources("discovery.k8s.io/v1");
    let version = match tokio::time::timeout(CALL_TIMEOUT, list).await {
        Err(_) => return Err(TrafficError::Timeout(what())),
        Ok(Ok(_)) => "v1",
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => "v1beta1",
        Ok(Err(error)) => return Err(TrafficError::Api(what(), Box::new(error))),
    };
    Ok(api(client, namespace, "discovery.k8s.io", version, "EndpointSlice"))
}

/// Whether a pod of this site is a ready endpoint of the Service.
async fn own_endpoints(
    slices: &Api<DynamicObject>,
    actuator: &ServiceActuator,
    ours: &str,
) -> Result<bool, TrafficError> {
    let what = || format!("EndpointSlices of Service {}", actuator.name);
    let parameters = ListParams::default().labels(&format!("{SERVICE_NAME}={}", actuator.name));
    let list = tokio::time::timeout(CALL_TIMEOUT, slices.list(&parameters)).await;
    let list = list.map_err(|_| TrafficError::Timeout(what()))?;
    let list = list.map_err(|error| TrafficError::Api(what(), Box::new(error)))?;
    let others = list.items.iter().filter(|slice| slice.metadata.name.as_deref() != Some(ours));
    // A condition that is not said counts as ready, as the API has it.
    let ready = |endpoint: &Value| endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
    Ok(others.filter_map(|slice| slice.data["endpoints"].as_array()).flatten().any(ready))
}

#[cfg(test)]
mod tests {
    use super::{super::plan::example, *};

    #[test]
    fn the_own_site_is_led_to_by_its_pods_and_the_others_by_their_entries() {
        let actuator: ServiceActuator = serde_json::from_value(json!({"name": "pay", "selector": {"app": "pay"},
            "targetPort": 80, "targets": [{"site": "a", "addresses": ["10.1.0.1"]}, {"site": "b", "addresses": ["10.2.0.1"]}]}))
        .unwrap();
        assert_eq!(wanted(&actuator, &example(1, "a", &[("a", 100), ("b", 0)])), (true, vec![]));
        assert_eq!(wanted(&actuator, &example(1, "a", &[("a", 0), ("b", 1)])), (false, vec!["10.2.0.1".to_owned()]));
    }
}
