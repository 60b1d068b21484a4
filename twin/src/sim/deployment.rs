//! Deployments: one ReplicaSet per template, rolled over within surge and unavailability.

use serde_json::{Value, json};

use super::Simulation;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta::{self, integer};

const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";

impl Simulation {
    pub(crate) fn reconcile_deployment(&mut self, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let Some(deployment) = self.api().read("apps", "deployments", namespace, name) else { return };
        if meta::is_deleting(&deployment) {
            return;
        }
        let mut sets = self.sets_of(&deployment);
        let hash = template_hash(&deployment["spec"]["template"]);
        let wanted = &deployment["spec"]["template"];
        if !sets.iter().any(|s| is_of(s, wanted, &hash)) {
            if deployment["spec"]["paused"] == true {
                return;
            }
            self.create_set(&deployment, namespace, &hash, next_revision(&sets));
            sets = self.sets_of(&deployment);
        }
        let Some(current) = sets.iter().position(|s| is_of(s, wanted, &hash)) else { return };
        let current = sets.remove(current);
        self.roll(&deployment, &current, &sets, namespace);
        self.drop_old_sets(&deployment, &sets, namespace);
        let mut all = self.sets_of(&deployment);
        all.sort_by_key(|s| s["metadata"]["uid"] != current["metadata"]["uid"]);
        self.write_deployment_status(&deployment, &all, namespace, name);
    }

    fn sets_of(&self, deployment: &Value) -> Vec<Value> {
        let mut sets: Vec<Value> = self
            .api()
            .store()
            .dependents(meta::uid(deployment))
            .into_iter()
            .filter(|(table, _)| &**table == "replicasets.apps")
            .filter_map(|(table, key)| self.api().store().get(&table, &key))
            .map(|entry| entry.value())
            .filter(|set| !meta::is_deleting(set))
            .collect();
        sets.sort_by_key(revision);
        sets
    }

    fn create_set(&self, deployment: &Value, namespace: &str, hash: &str, revision: i64) {
        let mut template = deployment["spec"]["template"].clone();
        meta::object_mut(&mut template["metadata"], "labels").insert(HASH.to_owned(), json!(hash));
        let mut selector = deployment["spec"]["selector"].clone();
        meta::object_mut(&mut selector, "matchLabels").insert(HASH.to_owned(), json!(hash));
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{}-{hash}", meta::name(deployment)), "namespace": namespace,
                "labels": template["metadata"]["labels"], "annotations": {REVISION: revision.to_string()},
                "ownerReferences": [meta::controller_reference(deployment)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template},
        });
        if let Err(error) = self.api().create_object(&set) {
            tracing::warn!(site = self.api().site(), %error, "a ReplicaSet could not be created");
            return;
        }
        self.api().amend("apps", "deployments", namespace, meta::name(deployment), None, |d| {
            meta::object_mut(&mut d["metadata"], "annotations")
                .insert(REVISION.to_owned(), json!(revision.to_string()));
        });
    }

    fn roll(&self, deployment: &Value, current: &Value, old: &[Value], namespace: &str) {
        let desired = integer(deployment, &["spec", "replicas"]).unwrap_or(1);
        let asked = |set: &Value| integer(set, &["spec", "replicas"]).unwrap_or(0);
        let available = |set: &Value| integer(set, &["status", "availableReplicas"]).unwrap_or(0);
        let running = |set: &Value| integer(set, &["status", "replicas"]).unwrap_or(0);
        let old_total: i64 = old.iter().map(&asked).sum();
        if deployment["spec"]["strategy"]["type"] == "Recreate" {
            old.iter().filter(|s| asked(s) > 0).for_each(|s| self.scale_set(namespace, s, 0));
            let gone = old_total == 0 && old.iter().all(|s| running(s) == 0);
            if gone || asked(current) > desired {
                self.scale_set(namespace, current, desired);
            }
            return;
        }
        let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
        let surge = portion(&rolling["maxSurge"], desired, true);
        let mut unavailable = portion(&rolling["maxUnavailable"], desired, false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        let room = desired + surge - asked(current) - old_total;
        let target = if old_total == 0 { desired } else { (asked(current) + room.max(0)).min(desired) };
        self.scale_set(namespace, current, target);
        // A ReplicaSet's status lags behind what was just asked of it: pods that are to go are available no more.
        let remaining = |set: &Value| available(set).min(asked(set));
        // Old pods that are not available go first; available ones only while enough others are.
        let total_available = remaining(current) + old.iter().map(&remaining).sum::<i64>();
        let mut spare = (total_available - (desired - unavailable)).max(0);
        for set in old.iter().filter(|s| asked(s) > 0) {
            let unhealthy = asked(set) - remaining(set);
            let healthy = remaining(set).min(spare);
            spare -= healthy;
            self.scale_set(namespace, set, asked(set) - unhealthy - healthy);
        }
    }

    fn scale_set(&self, namespace: &str, set: &Value, replicas: i64) {
        if integer(set, &["spec", "replicas"]) != Some(replicas) {
            self.api().amend("apps", "replicasets", namespace, meta::name(set), None, |s| {
                s["spec"]["replicas"] = json!(replicas)
            });
        }
    }

    fn drop_old_sets(&self, deployment: &Value, old: &[Value], namespace: &str) {
        let keep = integer(deployment, &["spec", "revisionHistoryLimit"]).unwrap_or(10).max(0) as usize;
        let empty = |s: &&Value| s["spec"]["replicas"] == 0 && integer(s, &["status", "replicas"]).unwrap_or(0) == 0;
        let idle: Vec<&Value> = old.iter().filter(empty).collect();
        let resource = self.api().builtin("apps", "replicasets");
        for set in idle.iter().take(idle.len().saturating_sub(keep)) {
            // Gone already is as good.
            let _ = self.api().delete(&resource, namespace, meta::name(set), &Default::default());
        }
    }

    /// `sets` begins with the current one.
    fn write_deployment_status(&self, deployment: &Value, sets: &[Value], namespace: &str, name: &str) {
        let sum = |field: &str, sets: &[Value]| sets.iter().filter_map(|s| integer(s, &["status", field])).sum::<i64>();
        let desired = integer(deployment, &["spec", "replicas"]).unwrap_or(1);
        let available = sum("availableReplicas", sets);
        let (total, updated) = (sum("replicas", sets), sum("replicas", &sets[..sets.len().min(1)]));
        let unavailable = portion(&deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], desired, false);
        let enough = available >= desired - unavailable;
        let complete = updated == desired && total == desired && available == desired;
        let mut status = deployment["status"].clone();
        for (field, value) in [
            ("observedGeneration", integer(deployment, &["metadata", "generation"]).unwrap_or(1)),
            ("replicas", total),
            ("updatedReplicas", updated),
            ("readyReplicas", sum("readyReplicas", sets)),
            ("availableReplicas", available),
            ("unavailableReplicas", (desired - available).max(0)),
        ] {
            status[field] = json!(value);
        }
        let now = self.api().clock().seconds();
        let (flag, reason) =
            if enough { ("True", "MinimumReplicasAvailable") } else { ("False", "MinimumReplicasUnavailable") };
        set_condition(
            &mut status,
            &json!({"type": "Available", "status": flag, "reason": reason, "message": ""}),
            &now,
        );
        let reason = if complete { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" };
        set_condition(
            &mut status,
            &json!({"type": "Progressing", "status": "True", "reason": reason, "message": ""}),
            &now,
        );
        if deployment["status"] != status {
            self.api().amend("apps", "deployments", namespace, name, Some("status"), |d| d["status"] = status);
        }
    }
}

/// Whether a ReplicaSet is that of a template: by the name that the twin gives it, or because its own template is the
/// same but for the label with the name, as in a set that came from another cluster.
fn is_of(set: &Value, template: &Value, hash: &str) -> bool {
    if set["metadata"]["labels"][HASH] == hash {
        return true;
    }
    let mut own = set["spec"]["template"].clone();
    if let Some(labels) = own["metadata"]["labels"].as_object_mut() {
        labels.shift_remove(HASH);
    }
    own["spec"] == template["spec"]
        && ["labels", "annotations"].into_iter().all(|part| {
            let (own, wanted) = (&own["metadata"][part], &template["metadata"][part]);
            own == wanted
                || (own.as_object().is_none_or(|o| o.is_empty()) && wanted.as_object().is_none_or(|o| o.is_empty()))
        })
}

fn revision(set: &Value) -> i64 {
    set["metadata"]["annotations"][REVISION].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn next_revision(sets: &[Value]) -> i64 {
    sets.iter().map(revision).max().unwrap_or(0) + 1
}

/// A count or a percentage of `whole`; percentages round up for surge and down for unavailability.
pub(crate) fn portion(value: &Value, whole: i64, round_up: bool) -> i64 {
    if let Some(count) = value.as_i64() {
        return count;
    }
    let Some(percent) = value.as_str().and_then(|s| s.strip_suffix('%')).and_then(|s| s.parse::<i64>().ok()) else {
        return 0;
    };
    if round_up { (whole * percent + 99) / 100 } else { whole * percent / 100 }
}

/// A short name for a template, in the letters that Kubernetes uses. FNV-1a, as upstream's hash is.
pub fn template_hash(template: &Value) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in template.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (0..10)
        .map(|_| {
            let letter = char::from(LETTERS[(hash % LETTERS.len() as u64) as usize]);
            hash /= LETTERS.len() as u64;
            letter
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailability() {
        assert_eq!(portion(&json!("25%"), 3, true), 1);
        assert_eq!(portion(&json!("25%"), 3, false), 0);
        assert_eq!(portion(&json!(2), 3, false), 2);
    }
}
