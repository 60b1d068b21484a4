//! EndpointSlices and Endpoints: which pods stand behind a Service. One slice a Service.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use super::cache::PodFacts;
use crate::objects::meta;
use crate::objects::selectors::LabelSelector;

impl Simulation {
    pub(crate) fn reconcile_service(&mut self, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        // Without the Service, its owner reference has the slices collected.
        let Some(service) = self.api().read("", "services", namespace, name) else { return };
        let selector = LabelSelector::from_map(service["spec"].get("selector"));
        let Some(selector) = selector.filter(|_| service["spec"]["type"] != "ExternalName") else { return };
        let pods: Vec<Arc<PodFacts>> = self
            .cache
            .in_namespace(namespace)
            .filter(|p| p.fits(&selector) && p.address.is_some() && !matches!(p.phase, "Succeeded" | "Failed"))
            .cloned()
            .collect();
        let first = pods.first().and_then(|p| self.api().read("", "pods", namespace, p.name()));
        let ports = ports(&service, first.as_ref());
        self.write_slice(&service, namespace, name, &pods, &ports);
        self.write_endpoints(&service, namespace, name, &pods, &ports);
    }

    fn write_slice(&self, service: &Value, namespace: &str, name: &str, pods: &[Arc<PodFacts>], ports: &[Value]) {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|p| {
                json!({
                    "addresses": [p.address], "nodeName": p.node,
                    "conditions": {"ready": p.ready && p.deleting.is_none(), "serving": p.ready, "terminating": p.deleting.is_some()},
                    "targetRef": {"kind": "Pod", "namespace": namespace, "name": p.name(), "uid": p.uid},
                })
            })
            .collect();
        let slice = format!("{name}-0");
        let written = self.api().amend("discovery.k8s.io", "endpointslices", namespace, &slice, None, |s| {
            s["endpoints"] = json!(endpoints);
            s["ports"] = json!(ports);
        });
        if written {
            return;
        }
        let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.insert("kubernetes.io/service-name".to_owned(), json!(name));
        labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), json!("endpointslice-controller.k8s.io"));
        self.make(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": slice, "namespace": namespace, "labels": labels, "ownerReferences": [meta::controller_reference(service)]},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        }));
    }

    fn write_endpoints(&self, service: &Value, namespace: &str, name: &str, pods: &[Arc<PodFacts>], ports: &[Value]) {
        let addresses = |ready: bool| -> Vec<Value> {
            pods.iter()
                .filter(|p| p.deleting.is_none() && p.ready == ready)
                .map(|p| json!({"ip": p.address, "nodeName": p.node, "targetRef": {"kind": "Pod", "namespace": namespace, "name": p.name(), "uid": p.uid}}))
                .collect()
        };
        let (ready, not_ready) = (addresses(true), addresses(false));
        let mut subset = json!({"ports": ports});
        for (field, list) in [("addresses", &ready), ("notReadyAddresses", &not_ready)] {
            if !list.is_empty() {
                subset[field] = json!(list);
            }
        }
        let subsets = if ready.is_empty() && not_ready.is_empty() { json!([]) } else { json!([subset]) };
        if !self.api().amend("", "endpoints", namespace, name, None, |e| e["subsets"] = subsets.clone()) {
            self.make(&json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": name, "namespace": namespace, "labels": service["metadata"]["labels"],
                             "ownerReferences": [meta::controller_reference(service)]},
                "subsets": subsets,
            }));
        }
    }

    fn make(&self, object: &Value) {
        if let Err(error) = self.api().create_object(object) {
            // A terminating namespace refuses new objects; nothing to do about it.
            tracing::debug!(site = self.api().site(), %error, "an object could not be created");
        }
    }
}

/// The ports behind a Service; names of target ports are looked up in one of its pods.
fn ports(service: &Value, pod: Option<&Value>) -> Vec<Value> {
    meta::list(service, &["spec", "ports"])
        .iter()
        .filter_map(|port| {
            let number = match &port["targetPort"] {
                Value::String(name) => meta::list(pod?, &["spec", "containers"])
                    .iter()
                    .flat_map(|c| meta::list(c, &["ports"]))
                    .find(|p| p["name"] == name.as_str())?["containerPort"]
                    .clone(),
                Value::Null => port["port"].clone(),
                number => number.clone(),
            };
            let mut entry = json!({"port": number, "protocol": port["protocol"].as_str().unwrap_or("TCP")});
            if port["name"].is_string() {
                entry["name"] = port["name"].clone();
            }
            Some(entry)
        })
        .collect()
}
