//! Jobs: pods that run to their end. A container of a pod that is not restarted for ever ends by itself, in success.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Simulation;
use super::cache::PodFacts;
use crate::apiserver::subresources::set_condition;
use crate::objects::meta::{self, integer};

impl Simulation {
    pub(crate) fn reconcile_job(&mut self, key: &Arc<str>) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let Some(job) = self.api().read("batch", "jobs", namespace, name) else { return };
        let finished = meta::list(&job, &["status", "conditions"])
            .iter()
            .any(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")) && c["status"] == "True");
        if finished && !meta::is_deleting(&job) {
            self.age_job(key, &job);
        }
        if meta::is_deleting(&job) || finished || job["spec"]["suspend"] == true {
            return;
        }
        let pods: Vec<Arc<PodFacts>> = self.cache.of_controller(meta::uid(&job)).cloned().collect();
        let count = |phase: &str| pods.iter().filter(|p| p.phase == phase).count() as i64;
        let (succeeded, failed) = (count("Succeeded"), count("Failed"));
        let active: Vec<&Arc<PodFacts>> = pods.iter().filter(|p| p.is_active()).collect();
        let parallelism = integer(&job, &["spec", "parallelism"]).unwrap_or(1).max(0);
        // Without completions, one success is enough and ends the starting of further pods.
        let completions = integer(&job, &["spec", "completions"]);
        let complete = match completions {
            Some(wanted) => succeeded >= wanted,
            None => succeeded > 0 && active.is_empty(),
        };
        let too_many = failed > integer(&job, &["spec", "backoffLimit"]).unwrap_or(6);
        let open = completions.map_or(if succeeded > 0 { 0 } else { parallelism }, |c| c - succeeded);
        if !complete && !too_many {
            for _ in active.len() as i64..open.min(parallelism) {
                self.create_pod(&job, namespace, &job["spec"]["template"], None);
            }
        }
        if complete || too_many {
            active.iter().for_each(|pod| self.delete_pod(pod, None));
        }
        let now = self.api().clock().seconds();
        let ready = active.iter().filter(|p| p.ready).count();
        let mut status = job["status"].clone();
        if !status.is_object() {
            status = json!({});
        }
        let started = status.as_object_mut().and_then(|s| s.shift_remove("startTime")).unwrap_or(json!(now));
        status["startTime"] = started;
        for (field, number) in
            [("active", active.len() as i64), ("succeeded", succeeded), ("failed", failed), ("ready", ready as i64)]
        {
            if number > 0 || field == "ready" {
                status[field] = json!(number);
            } else if let Some(fields) = status.as_object_mut() {
                fields.shift_remove(field);
            }
        }
        if complete || too_many {
            let (kind, reason) =
                if complete { ("Complete", "CompletionsReached") } else { ("Failed", "BackoffLimitExceeded") };
            if complete {
                status["completionTime"] = json!(now);
                set_condition(&mut status, &condition("SuccessCriteriaMet", reason), &now);
            }
            set_condition(&mut status, &condition(kind, reason), &now);
        }
        if job["status"] != status {
            self.api().amend("batch", "jobs", namespace, name, Some("status"), |j| j["status"] = status);
        }
    }
}

fn condition(kind: &str, reason: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": ""})
}
