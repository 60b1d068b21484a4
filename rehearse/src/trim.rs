//! What of an object is kept: what a rehearsal decides by. Never environment variables, commands, foreign annotations
//! or field owners, which is where secrets end up by accident.

use serde_json::{Map, Value};

use crate::kinds::Kind;

const META: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];
/// Annotations that controllers decide by.
const ANNOTATIONS: &[&str] =
    &["evergreen.dev/", "twin.evergreen.dev/", "deployment.kubernetes.io/revision", "kubernetes.io/config.mirror"];
const POD_SPEC: &[&str] = &[
    "nodeName",
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "priority",
    "priorityClassName",
    "preemptionPolicy",
    "restartPolicy",
    "terminationGracePeriodSeconds",
    "schedulerName",
    "hostNetwork",
    "overhead",
];
const CONTAINER: &[&str] = &["name", "image", "resources", "ports", "restartPolicy"];

/// Cuts an object down.
pub(crate) fn trim(kind: &Kind, object: &Value) -> Value {
    let mut kept = Map::new();
    kept.insert("apiVersion".into(), kind.api_version.into());
    kept.insert("kind".into(), kind.kind.into());
    kept.insert("metadata".into(), metadata(&object["metadata"]));
    let status = &object["status"];
    match kind.kind {
        "Pod" => {
            kept.insert("spec".into(), pod_spec(&object["spec"]));
            kept.insert("status".into(), pod_status(status));
        }
        "Node" => {
            kept.insert("spec".into(), only(&object["spec"], &["unschedulable", "taints", "podCIDR"]));
            let mut node = only(status, &["capacity", "allocatable", "conditions"]);
            node["nodeInfo"] =
                only(&status["nodeInfo"], &["bootID", "kubeletVersion", "operatingSystem", "architecture"]);
            kept.insert("status".into(), node);
        }
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => {
            let mut spec = object["spec"].clone();
            if spec["template"].is_object() {
                let template = &object["spec"]["template"];
                let mut meta = only(&template["metadata"], &["labels"]);
                let annotations = annotations(&template["metadata"]);
                if !annotations.is_empty() {
                    meta["annotations"] = annotations.into();
                }
                spec["template"] = serde_json::json!({"metadata": meta, "spec": pod_spec(&template["spec"])});
            }
            kept.insert("spec".into(), spec);
            kept.insert("status".into(), status.clone());
        }
        "Service" => {
            let fields = ["selector", "ports", "type", "clusterIP", "clusterIPs", "externalName"];
            kept.insert("spec".into(), only(&object["spec"], &fields));
        }
        "PersistentVolume" => {
            let fields = ["capacity", "accessModes", "storageClassName", "nodeAffinity", "claimRef"];
            kept.insert("spec".into(), only(&object["spec"], &fields));
            kept.insert("status".into(), only(status, &["phase"]));
        }
        "StorageClass" => {
            kept.insert("provisioner".into(), object["provisioner"].clone());
            for field in ["volumeBindingMode", "allowedTopologies", "reclaimPolicy"] {
                if !object[field].is_null() {
                    kept.insert(field.into(), object[field].clone());
                }
            }
        }
        "PriorityClass" => {
            for field in ["value", "globalDefault", "preemptionPolicy"] {
                if !object[field].is_null() {
                    kept.insert(field.into(), object[field].clone());
                }
            }
        }
        _ => {
            for field in ["spec", "status"] {
                if !object[field].is_null() {
                    kept.insert(field.into(), object[field].clone());
                }
            }
        }
    }
    Value::Object(kept)
}

fn only(value: &Value, fields: &[&str]) -> Value {
    let kept = fields.iter().filter_map(|field| Some(((*field).to_owned(), value.get(*field)?.clone())));
    Value::Object(kept.collect())
}

fn annotations(metadata: &Value) -> Map<String, Value> {
    let all = metadata["annotations"].as_object().into_iter().flatten();
    all.filter(|(key, _)| ANNOTATIONS.iter().any(|kept| key.starts_with(kept)))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn metadata(metadata: &Value) -> Value {
    let mut kept = only(metadata, META);
    let annotations = annotations(metadata);
    if !annotations.is_empty() {
        kept["annotations"] = annotations.into();
    }
    kept
}

fn pod_spec(spec: &Value) -> Value {
    let mut kept = only(spec, POD_SPEC);
    for list in ["containers", "initContainers"] {
        if let Some(containers) = spec[list].as_array() {
            kept[list] = containers.iter().map(|container| only(container, CONTAINER)).collect();
        }
    }
    // Of volumes only claims bind a pod to a place.
    let claims: Vec<Value> = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| volume["persistentVolumeClaim"].is_object())
        .map(|volume| only(volume, &["name", "persistentVolumeClaim"]))
        .collect();
    if !claims.is_empty() {
        kept["volumes"] = claims.into();
    }
    kept
}

fn pod_status(status: &Value) -> Value {
    let mut kept = only(status, &["phase", "podIP", "qosClass", "startTime"]);
    if let Some(conditions) = status["conditions"].as_array() {
        let fields = ["type", "status", "reason", "lastTransitionTime"];
        kept["conditions"] = conditions.iter().map(|condition| only(condition, &fields)).collect();
    }
    if let Some(statuses) = status["containerStatuses"].as_array() {
        let fields = ["name", "ready", "started", "restartCount"];
        kept["containerStatuses"] = statuses.iter().map(|status| only(status, &fields)).collect();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_may_hold_a_secret_is_not_kept() {
        let secret = "s3cr3t";
        let container = json!({"name": "c", "image": "i", "env": [{"name": "PASSWORD", "value": secret}],
            "args": [secret], "command": [secret], "resources": {"requests": {"cpu": "1"}}});
        let template = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"vault": secret}},
            "spec": {"containers": [container], "volumes": [{"name": "x", "csi": {"token": secret}}]}});
        let metadata = json!({"name": "n", "namespace": "d", "uid": "u", "managedFields": [{"f": secret}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": secret, "evergreen.dev/epoch": "3"}});
        let deployment = json!({"metadata": metadata, "spec": {"replicas": 2, "template": template}});
        let pod =
            json!({"metadata": metadata, "spec": template["spec"], "status": {"phase": "Running", "message": secret}});
        for (key, object) in [("deployments.apps", deployment), ("pods", pod)] {
            let kept = trim(Kind::of_key(key).unwrap(), &object);
            assert!(!kept.to_string().contains(secret), "{kept}");
            assert_eq!(kept["metadata"]["annotations"], json!({"evergreen.dev/epoch": "3"}));
        }
    }
}
