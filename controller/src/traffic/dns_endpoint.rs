//! DNSEndpoint objects of ExternalDNS. What is fenced is the object; ExternalDNS publishes its newest state a while later.

use evergreen_api::resources::DnsEndpointActuator;
use kube::Client;
use serde_json::{Value, json};

use super::{
    Outcome, TrafficError, TrafficPlan,
    object::{Fenced, api},
};

/// Makes the DNSEndpoint publish the sites that serve.
pub(super) async fn apply(
    client: &Client,
    namespace: &str,
    actuator: &DnsEndpointActuator,
    plan: &TrafficPlan,
) -> Result<Outcome, TrafficError> {
    let published = published(actuator, plan)?;
    let endpoints = api(client, namespace, "externaldns.k8s.io", "v1alpha1", "DNSEndpoint");
    let mut endpoint = Fenced::read(endpoints, "DNSEndpoint", &actuator.name, plan).await?;
    let mut kept: Vec<Value> =
        endpoint.object.data.pointer("/spec/endpoints").and_then(Value::as_array).cloned().unwrap_or_default();
    kept.retain(|one| one["dnsName"].as_str() != Some(actuator.dns_name.as_str()));
    kept.extend(published);
    endpoint.object.data["spec"]["endpoints"] = Value::Array(kept);
    endpoint.write(plan).await
}

/// What is published under the name.
fn published(actuator: &DnsEndpointActuator, plan: &TrafficPlan) -> Result<Vec<Value>, TrafficError> {
    let cannot =
        |why: &str| TrafficError::Unsupported { what: format!("DNSEndpoint {}", actuator.name), why: why.to_owned() };
    if !plan.units.is_empty() || plan.whitelist.is_some() {
        return Err(cannot("a name is the same for everybody: units and whitelists need httpRoute or haproxy"));
    }
    let serving: Vec<_> = actuator.targets.iter().filter(|target| plan.share(&target.site) > 0).collect();
    let addresses: Vec<&String> = serving.iter().flat_map(|target| &target.addresses).collect();
    let kind = addresses.first().map_or("A", |address| match address.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_ipv4() => "A",
        Ok(_) => "AAAA",
        Err(_) => "CNAME",
    });
    let base = |targets: Value| json!({"dnsName": actuator.dns_name, "recordType": kind, "recordTTL": actuator.ttl, "targets": targets});
    let Some(property) = &actuator.weight_property else {
        if !plan.is_even() {
            return Err(cannot("without weightProperty sites share evenly or not at all"));
        }
        if kind == "CNAME" && addresses.len() > 1 {
            return Err(cannot("a name has one CNAME at most: weightProperty, or addresses"));
        }
        return Ok(vec![base(json!(addresses))]);
    };
    let weighted = serving.iter().map(|target| {
        let mut one = base(json!(target.addresses));
        one["setIdentifier"] = json!(target.site);
        one["providerSpecific"] = json!([{"name": property, "value": plan.share(&target.site).to_string()}]);
        one
    });
    Ok(weighted.collect())
}

#[cfg(test)]
mod tests {
    use super::{super::plan::example, *};

    fn actuator(weight: Option<&str>) -> DnsEndpointActuator {
        let mut value = json!({"name": "pay", "dnsName": "pay.example", "targets": [
            {"site": "a", "addresses": ["192.0.2.1"]}, {"site": "b", "addresses": ["192.0.2.2"]}]});
        if let Some(weight) = weight {
            value["weightProperty"] = json!(weight);
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn without_weights_sites_share_evenly_or_the_plan_is_refused() {
        let even = published(&actuator(None), &example(1, "a", &[("a", 50), ("b", 50)])).unwrap();
        assert_eq!(even[0]["targets"], json!(["192.0.2.1", "192.0.2.2"]));
        assert!(published(&actuator(None), &example(1, "a", &[("a", 90), ("b", 10)])).is_err());
    }

    #[test]
    fn with_weights_each_site_is_a_record_of_its_own() {
        let all = published(&actuator(Some("aws/weight")), &example(1, "a", &[("a", 90), ("b", 10)])).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1]["setIdentifier"], "b");
        assert_eq!(all[1]["providerSpecific"], json!([{"name": "aws/weight", "value": "10"}]));
    }
}
