//! Subresources that are more than a view of the object: eviction, binding, scale; and the access reviews.

use std::sync::Arc;

use serde_json::{Value, json};

use super::delete::DeleteOptions;
use super::error::ApiError;
use super::registry::Resource;
use super::server::ApiServer;
use super::store::Entry;
use super::write::WriteContext;
use crate::objects::meta::{self, integer, list, text};
use crate::objects::selectors::LabelSelector;

impl ApiServer {
    /// Evicts a pod as `pods/{name}/eviction` does: refused with 429 when a budget would break.
    ///
    /// # Errors
    /// 404, 409, 429 with cause `DisruptionBudget`, 500 when several budgets hold one pod.
    pub fn evict(&self, namespace: &str, name: &str, body: &Value, dry_run: bool) -> Result<Value, ApiError> {
        let api_version = body["apiVersion"].as_str().unwrap_or("policy/v1");
        if !matches!(api_version, "policy/v1" | "policy/v1beta1")
            || body["kind"].as_str().is_some_and(|k| k != "Eviction")
        {
            return Err(ApiError::bad_request(format!("no kind Eviction is registered for version \"{api_version}\"")));
        }
        let named = meta::name(body);
        if !named.is_empty() && named != name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let _serial = self.shared.write.lock();
        let pods = self.builtin("", "pods");
        let pod = self.get(&pods, namespace, name)?;
        let mut options = DeleteOptions::from_body(&body["deleteOptions"]);
        options.dry_run |= dry_run;
        let value = pod.value();
        if counts_for_budgets(&value) {
            self.take_from_budget(namespace, name, &value, options.dry_run)?;
        }
        if !options.dry_run {
            self.mark_disruption_target(&pods, &pod)?;
        }
        self.delete_locked(&pods, namespace, name, &options)?;
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
    }

    fn take_from_budget(&self, namespace: &str, name: &str, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
        let labels = &pod["metadata"]["labels"];
        let budgets: Vec<Value> = self
            .read_all("policy", "poddisruptionbudgets", Some(namespace))
            .into_iter()
            .filter(|b| {
                LabelSelector::from_object(b["spec"].get("selector"))
                    .is_some_and(|s| s.fits(|key| labels.get(key).and_then(Value::as_str)))
            })
            .collect();
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => {
                let message =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(500, "InternalError", message));
            }
        };
        let number = |path: &[&str]| integer(budget, path).unwrap_or(0);
        let budget_name = meta::name(budget);
        let (healthy, desired) = (number(&["status", "currentHealthy"]), number(&["status", "desiredHealthy"]));
        if !is_ready(pod) {
            let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
            if always || (healthy >= desired && desired > 0) {
                return Ok(());
            }
        }
        let refused = |message: &str, why: String, after: u32| {
            let mut error = ApiError::new(429, "TooManyRequests", message).because("DisruptionBudget", &why, "");
            error.retry_after_seconds = Some(after);
            error
        };
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        if number(&["status", "observedGeneration"]) < number(&["metadata", "generation"]) {
            return Err(refused(
                message,
                format!("The disruption budget {budget_name} is still being processed by the server."),
                10,
            ));
        }
        if number(&["status", "disruptionsAllowed"]) <= 0 {
            let why =
                format!("The disruption budget {budget_name} needs {desired} healthy pods and has {healthy} currently");
            return Err(refused(message, why, 0));
        }
        if dry_run {
            return Ok(());
        }
        let resource = self.builtin("policy", "poddisruptionbudgets");
        let context = WriteContext { subresource: Some("status"), ..WriteContext::default() };
        let now = self.clock().seconds();
        self.update_locked(&resource, namespace, budget_name, &context, |old| {
            let mut new = old.clone();
            new["status"]["disruptionsAllowed"] = json!(number(&["status", "disruptionsAllowed"]) - 1);
            meta::object_mut(&mut new["status"], "disruptedPods").insert(name.to_owned(), json!(now));
            Ok(new)
        })
        .map(drop)
    }

    fn mark_disruption_target(&self, pods: &Resource, pod: &Entry) -> Result<(), ApiError> {
        let context = WriteContext { subresource: Some("status"), ..WriteContext::default() };
        let now = self.clock().seconds();
        self.update_locked(pods, pod.namespace(), pod.name(), &context, |old| {
            let mut new = old.clone();
            set_condition(
                &mut new["status"],
                &json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}),
                &now,
            );
            Ok(new)
        })
        .map(drop)
    }

    /// Binds a pod to a node as `pods/{name}/binding` does.
    ///
    /// # Errors
    /// 404, and 409 when the pod is bound already.
    pub fn bind(&self, namespace: &str, name: &str, body: &Value) -> Result<(), ApiError> {
        let node = text(body, &["target", "name"]).unwrap_or_default().to_owned();
        if node.is_empty() {
            return Err(ApiError::bad_request("target.name: Required value"));
        }
        let _serial = self.shared.write.lock();
        let pods = self.builtin("", "pods");
        let now = self.clock().seconds();
        let refuse = |why: &str| ApiError::conflict("", "pods/binding", name, why);
        let context = WriteContext { subresource: Some("binding"), ..WriteContext::default() };
        self.update_locked(&pods, namespace, name, &context, |old| {
            if meta::is_deleting(old) {
                return Err(refuse(&format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            if let Some(bound) = text(old, &["spec", "nodeName"]) {
                return Err(refuse(&format!("pod {name} is already assigned to node \"{bound}\"")));
            }
            let mut new = old.clone();
            new["spec"]["nodeName"] = json!(node);
            Ok(new)
        })?;
        let status = WriteContext { subresource: Some("status"), ..WriteContext::default() };
        self.update_locked(&pods, namespace, name, &status, |old| {
            let mut new = old.clone();
            set_condition(&mut new["status"], &json!({"type": "PodScheduled", "status": "True"}), &now);
            Ok(new)
        })
        .map(drop)
    }

    /// An object for its Scale; one that is missing is missing as a Scale.
    pub(super) fn get_scaled(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Entry>, ApiError> {
        self.get(resource, namespace, name).map_err(|mut error| {
            if resource.custom.is_none() {
                error.details.kind.push_str("/scale");
                error.message = error.message.replacen(&resource.plural, &format!("{}/scale", resource.plural), 1);
            }
            error
        })
    }

    /// The Scale of an object.
    pub fn scale_of(&self, resource: &Resource, entry: &Entry) -> Value {
        let object = entry.value();
        let (spec_path, status_path, selector) = match resource.custom.as_ref().and_then(|c| c.scale.as_ref()) {
            Some((spec, status, selector)) => {
                let find = |path: &str| super::json_path::json_path(&object, path).first().map(|v| (*v).clone());
                (find(spec), find(status), selector.as_deref().and_then(find).unwrap_or(json!("")))
            }
            None => {
                let labels = object["spec"]["selector"]["matchLabels"].as_object();
                let pairs: Vec<String> = labels
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                    .collect();
                (
                    object["spec"].get("replicas").cloned(),
                    object["status"].get("replicas").cloned(),
                    json!(pairs.join(",")),
                )
            }
        };
        let metadata = &object["metadata"];
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
            },
            // A zero is left out of the specification, not of the status.
            "spec": spec_path.filter(|n| *n != 0).map_or(json!({}), |n| json!({"replicas": n})),
            "status": {"replicas": status_path.unwrap_or(json!(0)), "selector": selector},
        })
    }

    /// Writes `spec.replicas` through the scale subresource; `change` gets the present Scale.
    ///
    /// # Errors
    /// As an update's.
    pub fn set_scale(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        context: &WriteContext,
        change: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Entry>, ApiError> {
        let scale = self.scale_of(resource, &*self.get_scaled(resource, namespace, name)?);
        let wanted = change(&scale)?;
        let given = text(&wanted, &["metadata", "resourceVersion"]).map(str::to_owned);
        let replicas = integer(&wanted, &["spec", "replicas"]).unwrap_or(0);
        if replicas < 0 {
            let why = format!("Invalid value: {replicas}: must be greater than or equal to 0");
            let cause = super::write::cause("spec.replicas", "FieldValueInvalid", &why);
            return Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]));
        }
        let path = resource
            .custom
            .as_ref()
            .and_then(|c| c.scale.as_ref())
            .map_or(".spec.replicas", |(spec, ..)| spec.as_str());
        let pointer = path.replace('.', "/");
        let context = WriteContext { subresource: Some("scale"), ..context.clone() };
        self.update(resource, namespace, name, &context, |old| {
            let mut new = old.clone();
            if let Some(version) = given {
                new["metadata"]["resourceVersion"] = json!(version);
            }
            match new.pointer_mut(&pointer) {
                Some(slot) => *slot = json!(replicas),
                None => new["spec"]["replicas"] = json!(replicas),
            }
            Ok(new)
        })
    }
}

/// Whether a pod is Ready.
pub fn is_ready(pod: &Value) -> bool {
    list(pod, &["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Budgets do not protect pods that are finished, not yet running or already going.
fn counts_for_budgets(pod: &Value) -> bool {
    !meta::is_deleting(pod)
        && !matches!(text(pod, &["status", "phase"]), Some("Succeeded" | "Failed" | "Pending") | None)
}

/// Sets a condition by type; the transition time moves only when the status does. Returns whether anything changed.
pub fn set_condition(status: &mut Value, condition: &Value, now: &str) -> bool {
    if !status.is_object() {
        *status = json!({});
    }
    let conditions =
        status.as_object_mut().expect("made an object just above").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return false };
    let mut new = condition.clone();
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(old) => {
            let moved = old["status"] != new["status"];
            new["lastTransitionTime"] = if moved { json!(now) } else { old["lastTransitionTime"].clone() };
            let changed = moved || old["reason"] != new["reason"] || old["message"] != new["message"];
            if changed {
                *old = new;
            }
            changed
        }
        None => {
            new["lastTransitionTime"] = json!(now);
            conditions.push(new);
            true
        }
    }
}
