//! StatefulSets: pods with names of their own, one after the other, each with its claims.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use super::cache::PodFacts;
use super::deployment::template_hash;
use crate::objects::meta::{self, integer};

const REVISION: &str = "controller-revision-hash";

impl Simulation {
    pub(crate) fn reconcile_stateful_set(&mut self, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let Some(set) = self.api().read("apps", "statefulsets", namespace, name) else { return };
        if meta::is_deleting(&set) {
            return;
        }
        let wanted = integer(&set, &["spec", "replicas"]).unwrap_or(1).max(0);
        let first = integer(&set, &["spec", "ordinals", "start"]).unwrap_or(0);
        let parallel = set["spec"]["podManagementPolicy"] == "Parallel";
        let revision = self.revision_of(&set, name);
        let mut pods: Vec<(i64, Arc<PodFacts>)> = self
            .cache
            .of_controller(meta::uid(&set))
            .filter_map(|p| Some((p.name().rsplit_once('-')?.1.parse().ok()?, p.clone())))
            .collect();
        pods.sort_by_key(|(ordinal, _)| *ordinal);
        self.fill(&set, namespace, &pods, first..first + wanted, parallel, &revision);
        let surplus: Vec<&Arc<PodFacts>> =
            pods.iter().rev().filter(|(n, p)| *n >= first + wanted && p.deleting.is_none()).map(|(_, p)| p).collect();
        let going = pods.iter().any(|(_, p)| p.deleting.is_some());
        for pod in surplus.iter().take(if parallel { surplus.len() } else { usize::from(!going) }) {
            self.delete_pod(pod, None);
        }
        let current: Vec<&Arc<PodFacts>> = pods.iter().filter(|(n, _)| *n < first + wanted).map(|(_, p)| p).collect();
        let settled = current.len() as i64 == wanted && current.iter().all(|p| p.ready && p.is_active());
        if settled && surplus.is_empty() && set["spec"]["updateStrategy"]["type"] != "OnDelete" {
            let from = first + integer(&set, &["spec", "updateStrategy", "rollingUpdate", "partition"]).unwrap_or(0);
            // From the last to the first, one at a time.
            let outdated = pods.iter().rev().find(|(n, p)| *n >= from && p.label(REVISION) != Some(revision.as_str()));
            if let Some((_, pod)) = outdated {
                self.delete_pod(pod, None);
            }
        }
        self.write_stateful_status(&set, namespace, name, &pods, &revision);
    }

    /// The name of the set's present template. A set that came from another cluster keeps the name it came with until
    /// its template changes.
    fn revision_of(&mut self, set: &Value, name: &str) -> String {
        let hash = template_hash(&set["spec"]["template"]);
        let own = format!("{name}-{hash}");
        let settled = integer(set, &["status", "observedGeneration"]) == integer(set, &["metadata", "generation"]);
        let given = meta::text(set, &["status", "updateRevision"]).filter(|_| settled).map(str::to_owned);
        match self.revisions.get(meta::uid(set)) {
            Some((known, revision)) if *known == hash => revision.clone(),
            Some(_) => {
                self.revisions.insert(meta::uid(set).into(), (hash, own.clone()));
                own
            }
            None => {
                let revision = given.unwrap_or(own);
                self.revisions.insert(meta::uid(set).into(), (hash, revision.clone()));
                revision
            }
        }
    }

    fn fill(
        &mut self,
        set: &Value,
        namespace: &str,
        pods: &[(i64, Arc<PodFacts>)],
        ordinals: std::ops::Range<i64>,
        parallel: bool,
        revision: &str,
    ) {
        for ordinal in ordinals {
            match pods.iter().find(|(n, _)| *n == ordinal) {
                Some((_, pod)) if matches!(pod.phase, "Succeeded" | "Failed") => {
                    self.delete_pod(pod, Some(0));
                    return;
                }
                Some((_, pod)) if pod.ready && pod.deleting.is_none() || parallel => {}
                Some(_) => return,
                None => {
                    self.create_ordinal(set, namespace, ordinal, revision);
                    if !parallel {
                        return;
                    }
                }
            }
        }
    }

    fn create_ordinal(&self, set: &Value, namespace: &str, ordinal: i64, revision: &str) {
        let name = format!("{}-{ordinal}", meta::name(set));
        let template = &set["spec"]["template"];
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
        let metadata = meta::metadata_mut(&mut pod);
        metadata.insert("name".to_owned(), json!(name));
        metadata.insert("namespace".to_owned(), json!(namespace));
        metadata.insert("ownerReferences".to_owned(), json!([meta::controller_reference(set)]));
        let labels = meta::object_mut(&mut pod["metadata"], "labels");
        labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), json!(name));
        labels.insert("apps.kubernetes.io/pod-index".to_owned(), json!(ordinal.to_string()));
        labels.insert(REVISION.to_owned(), json!(revision));
        pod["spec"]["hostname"] = json!(name);
        if set["spec"]["serviceName"].is_string() {
            pod["spec"]["subdomain"] = set["spec"]["serviceName"].clone();
        }
        for claim in meta::list(set, &["spec", "volumeClaimTemplates"]) {
            let volume = meta::name(claim);
            let claim_name = format!("{volume}-{name}");
            self.claim(namespace, claim, &claim_name);
            let volumes = meta::object_mut(&mut pod, "spec").entry("volumes").or_insert_with(|| json!([]));
            if let Some(list) = volumes.as_array_mut() {
                list.retain(|v| v["name"] != volume);
                list.push(json!({"name": volume, "persistentVolumeClaim": {"claimName": claim_name}}));
            }
        }
        if let Err(error) = self.api().create_object(&pod) {
            tracing::warn!(site = self.api().site(), %error, "a StatefulSet's pod could not be created");
        }
    }

    /// A claim is bound at once: the twin has no volumes.
    fn claim(&self, namespace: &str, template: &Value, name: &str) {
        if self.api().read("", "persistentvolumeclaims", namespace, name).is_some() {
            return;
        }
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "labels": template["metadata"]["labels"]}, "spec": template["spec"]});
        claim["spec"]["volumeName"] = json!(format!("pvc-{name}"));
        if let Err(error) = self.api().create_object(&claim) {
            tracing::warn!(site = self.api().site(), %error, "a claim could not be created");
            return;
        }
        let capacity = template["spec"]["resources"]["requests"].clone();
        self.api().amend("", "persistentvolumeclaims", namespace, name, Some("status"), |c| {
            c["status"] = json!({"phase": "Bound", "accessModes": c["spec"]["accessModes"], "capacity": capacity});
        });
    }

    fn write_stateful_status(
        &self,
        set: &Value,
        namespace: &str,
        name: &str,
        pods: &[(i64, Arc<PodFacts>)],
        revision: &str,
    ) {
        let active: Vec<&Arc<PodFacts>> = pods.iter().map(|(_, p)| p).filter(|p| p.is_active()).collect();
        let ready = active.iter().filter(|p| p.ready).count();
        let updated = active.iter().filter(|p| p.label(REVISION) == Some(revision)).count();
        let done = updated == active.len() && active.len() as i64 == integer(set, &["spec", "replicas"]).unwrap_or(1);
        let before = meta::text(set, &["status", "currentRevision"]).unwrap_or(revision).to_owned();
        let current = if done { revision.to_owned() } else { before };
        let of_current = active.iter().filter(|p| p.label(REVISION) == Some(current.as_str())).count();
        let mut status = json!({
            "observedGeneration": set["metadata"]["generation"], "replicas": active.len(), "readyReplicas": ready,
            "currentReplicas": of_current, "updatedReplicas": updated, "currentRevision": current,
            "updateRevision": revision, "collisionCount": 0, "availableReplicas": ready,
        });
        if let Some(fields) = status.as_object_mut() {
            fields.retain(|field, count| {
                *count != 0 || matches!(field.as_str(), "replicas" | "availableReplicas" | "collisionCount")
            });
        }
        if set["status"] != status {
            self.api().amend("apps", "statefulsets", namespace, name, Some("status"), |s| s["status"] = status);
        }
    }
}
