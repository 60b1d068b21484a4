//! ReplicaSets: as many pods as they ask for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use super::cache::PodFacts;
use crate::apiserver::delete::DeleteOptions;
use crate::objects::meta::{self, integer};
use crate::objects::selectors::LabelSelector;

/// Pods that one pass creates at most; the next pass goes on.
const BATCH: i64 = 500;

impl Simulation {
    pub(crate) fn reconcile_replica_set(&mut self, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let Some(set) = self.api().read("apps", "replicasets", namespace, name) else { return };
        let uid = meta::uid(&set).to_owned();
        let active: Vec<Arc<PodFacts>> = self.cache.of_controller(&uid).filter(|p| p.is_active()).cloned().collect();
        let wanted = integer(&set, &["spec", "replicas"]).unwrap_or(1);
        if !meta::is_deleting(&set) {
            let missing = wanted - active.len() as i64;
            for _ in 0..missing.clamp(0, BATCH) {
                self.create_pod(&set, namespace, &set["spec"]["template"], None);
            }
            if missing < 0 {
                self.remove_surplus(active.clone(), missing.unsigned_abs() as usize);
            }
        }
        let template_labels = LabelSelector::from_map(meta::at(&set, &["spec", "template", "metadata", "labels"]));
        let count = |fits: &dyn Fn(&PodFacts) -> bool| active.iter().filter(|p| fits(p)).count();
        let ready = count(&|p| p.ready);
        let status = json!({
            "replicas": active.len(),
            "fullyLabeledReplicas": count(&|p| template_labels.as_ref().is_none_or(|s| p.fits(s))),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": set["metadata"]["generation"],
        });
        if set["status"] != status {
            self.api().amend("apps", "replicasets", namespace, name, Some("status"), |s| s["status"] = status);
        }
    }

    /// Creates a pod from a template, owned by `owner`.
    pub(crate) fn create_pod(&self, owner: &Value, namespace: &str, template: &Value, node: Option<&str>) {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": template["spec"]});
        let metadata = meta::metadata_mut(&mut pod);
        metadata.insert("generateName".to_owned(), json!(format!("{}-", meta::name(owner))));
        metadata.insert("namespace".to_owned(), json!(namespace));
        for field in ["labels", "annotations"] {
            if let Some(map) = template["metadata"].get(field).filter(|m| m.is_object()) {
                metadata.insert(field.to_owned(), map.clone());
            }
        }
        metadata.insert("ownerReferences".to_owned(), json!([meta::controller_reference(owner)]));
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        if let Err(error) = self.api().create_object(&pod) {
            tracing::warn!(site = self.api().site(), %error, "a pod could not be created");
        }
    }

    /// Unscheduled pods go first, then unready ones, then the youngest.
    fn remove_surplus(&self, mut pods: Vec<Arc<PodFacts>>, surplus: usize) {
        pods.sort_by(|a, b| {
            (a.node.is_some(), a.ready)
                .cmp(&(b.node.is_some(), b.ready))
                .then_with(|| b.created.cmp(&a.created))
                .then_with(|| a.key.cmp(&b.key))
        });
        for pod in pods.into_iter().take(surplus) {
            self.delete_pod(&pod, None);
        }
    }

    /// Deletes a pod by UID; `grace` of 0 removes it at once.
    pub(crate) fn delete_pod(&self, pod: &PodFacts, grace: Option<i64>) {
        let resource = self.api().builtin("", "pods");
        let options =
            DeleteOptions { uid: Some(pod.uid.to_string()), grace_seconds: grace, ..DeleteOptions::default() };
        // Refused means gone or replaced meanwhile, which is what was wanted.
        let _ = self.api().delete(&resource, pod.namespace(), pod.name(), &options);
    }
}
