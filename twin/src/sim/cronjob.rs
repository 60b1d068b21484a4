//! CronJobs: a Job at each time of the schedule, in its own time zone, as the real controller makes them.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cron::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::Simulation;
use super::timers::Timer;
use crate::apiserver::delete::DeleteOptions;
use crate::objects::meta::{self, integer};

/// More missed times than this are not made up for, but for the last.
const MOST_MISSED: usize = 100;

/// The times of a schedule.
#[derive(Debug)]
struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    fn of(spec: &Value) -> Option<Self> {
        let zone = match spec["timeZone"].as_str() {
            Some(name) => TimeZone::get(name).ok()?,
            None => TimeZone::UTC,
        };
        Some(Schedule { cron: Cron::from_str(spec["schedule"].as_str()?).ok()?, zone })
    }

    fn after(&self, time: Timestamp) -> Option<Timestamp> {
        self.cron.find_next_occurrence(&time.to_zoned(self.zone.clone()), false).ok().map(|z| z.timestamp())
    }

    /// The last time after `since` up to `now`, which is the one that is due.
    fn due(&self, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let mut due = None;
        let mut at = since;
        for _ in 0..MOST_MISSED {
            match self.after(at).filter(|next| *next <= now) {
                Some(next) => (due, at) = (Some(next), next),
                None => return due,
            }
        }
        self.cron.find_previous_occurrence(&now.to_zoned(self.zone.clone()), true).ok().map(|z| z.timestamp())
    }
}

impl Simulation {
    pub(crate) fn reconcile_cron_job(&mut self, key: &Arc<str>) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let Some(cron_job) = self.api().read("batch", "cronjobs", namespace, name) else { return };
        if meta::is_deleting(&cron_job) {
            return;
        }
        let jobs = self.jobs_of(&cron_job);
        self.drop_old_jobs(&cron_job, &jobs, namespace);
        let now = self.api().clock().now();
        let time = |path: &[&str]| meta::text(&cron_job, path).and_then(meta::parse_time);
        let spec = &cron_job["spec"];
        let schedule = Schedule::of(spec).filter(|_| spec["suspend"] != true);
        let mut started = None;
        let created = time(&["metadata", "creationTimestamp"]).unwrap_or(now);
        let last = time(&["status", "lastScheduleTime"]).unwrap_or(created);
        if let Some(due) = schedule.as_ref().and_then(|s| s.due(last, now)) {
            let late = now.as_second() - due.as_second();
            let in_time = integer(spec, &["startingDeadlineSeconds"]).is_none_or(|most| late <= most);
            let running: Vec<&Value> = jobs.iter().filter(|j| finished_as(j).is_none()).collect();
            let free = running.is_empty() || spec["concurrencyPolicy"] != "Forbid";
            if in_time && free {
                if spec["concurrencyPolicy"] == "Replace" {
                    running.iter().for_each(|job| self.delete_job(job, namespace));
                }
                self.start_job(&cron_job, namespace, due);
                started = Some(due);
            }
        }
        self.write_cron_status(&cron_job, namespace, name, started);
        if let Some(next) = schedule.and_then(|s| s.after(now)) {
            let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
            let at = self.now() + wait;
            if self.cron_times.get(key) != Some(&at) {
                self.cron_times.insert(key.clone(), at);
                self.timers.set(at, Timer::CronJob(key.clone()));
            }
        }
    }

    fn jobs_of(&self, cron_job: &Value) -> Vec<Value> {
        let dependents = self.api().store().dependents(meta::uid(cron_job));
        dependents
            .into_iter()
            .filter(|(table, _)| &**table == "jobs.batch")
            .filter_map(|(table, key)| Some(self.api().store().get(&table, &key)?.value()))
            .filter(|job| !meta::is_deleting(job))
            .collect()
    }

    fn start_job(&self, cron_job: &Value, namespace: &str, due: Timestamp) {
        let template = &cron_job["spec"]["jobTemplate"];
        let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        let stamp = meta::seconds(due);
        annotations.insert("batch.kubernetes.io/cronjob-scheduled-timestamp".to_owned(), json!(stamp));
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {
                "name": format!("{}-{}", meta::name(cron_job), due.as_second() / 60), "namespace": namespace,
                "labels": template["metadata"]["labels"], "annotations": annotations,
                "ownerReferences": [meta::controller_reference(cron_job)]},
            "spec": template["spec"]});
        if let Err(error) = self.api().create_object(&job) {
            tracing::debug!(site = self.api().site(), %error, "a CronJob's Job could not be created");
        }
    }

    fn delete_job(&self, job: &Value, namespace: &str) {
        let options = DeleteOptions { propagation: Some("Background".to_owned()), ..DeleteOptions::default() };
        // Refused means gone already.
        let _ = self.api().delete(&self.api().builtin("batch", "jobs"), namespace, meta::name(job), &options);
    }

    fn drop_old_jobs(&self, cron_job: &Value, jobs: &[Value], namespace: &str) {
        for (how, field, default) in
            [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
        {
            let keep = integer(cron_job, &["spec", field]).unwrap_or(default).max(0) as usize;
            let mut done: Vec<&Value> = jobs.iter().filter(|j| finished_as(j) == Some(how)).collect();
            done.sort_by_key(|j| j["status"]["startTime"].as_str().unwrap_or_default().to_owned());
            done.iter().take(done.len().saturating_sub(keep)).for_each(|job| self.delete_job(job, namespace));
        }
    }

    fn write_cron_status(&self, cron_job: &Value, namespace: &str, name: &str, started: Option<Timestamp>) {
        let jobs = self.jobs_of(cron_job);
        let reference = |job: &Value| json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": namespace, "name": meta::name(job), "uid": meta::uid(job)});
        let active: Vec<Value> = jobs.iter().filter(|j| finished_as(j).is_none()).map(reference).collect();
        let ended = jobs.iter().filter(|j| finished_as(j) == Some("Complete"));
        let last = ended.filter_map(|j| j["status"]["completionTime"].as_str()).max();
        let mut status = cron_job["status"].as_object().cloned().unwrap_or_default();
        status.shift_remove("active");
        if !active.is_empty() {
            status.insert("active".to_owned(), json!(active));
        }
        if let Some(time) = started {
            status.insert("lastScheduleTime".to_owned(), json!(meta::seconds(time)));
        }
        if let Some(time) = last {
            status.insert("lastSuccessfulTime".to_owned(), json!(time));
        }
        let status = Value::Object(status);
        if cron_job["status"] != status {
            self.api().amend_status("batch", "cronjobs", namespace, name, |c| c["status"] = status.clone());
        }
    }

    /// A finished Job whose `ttlSecondsAfterFinished` is over goes with its pods; before that a timer is set.
    pub(crate) fn age_job(&mut self, key: &Arc<str>, job: &Value) {
        let Some(ttl) = integer(job, &["spec", "ttlSecondsAfterFinished"]) else { return };
        let conditions = meta::list(job, &["status", "conditions"]);
        let done = conditions.iter().find(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")));
        let Some(since) = done.and_then(|c| c["lastTransitionTime"].as_str()).and_then(meta::parse_time) else {
            return;
        };
        let left = since.as_second() + ttl - self.api().clock().now().as_second();
        if left <= 0 {
            self.delete_job(job, meta::namespace(job));
        } else {
            let at = self.now() + Duration::from_secs(left.unsigned_abs());
            self.timers.set(at, Timer::Job(key.clone()));
        }
    }
}

/// `Complete` or `Failed`, if the Job is.
fn finished_as(job: &Value) -> Option<&'static str> {
    let conditions = meta::list(job, &["status", "conditions"]);
    let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
    ["Complete", "Failed"].into_iter().find(|kind| is(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_follows_its_zone_through_the_change_of_the_clocks() {
        let schedule = Schedule::of(&json!({"schedule": "30 3 * * *", "timeZone": "Europe/Berlin"})).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(schedule.after(at("2026-03-28T12:00:00Z")), Some(at("2026-03-29T01:30:00Z")), "summer time");
        assert_eq!(schedule.after(at("2026-03-27T12:00:00Z")), Some(at("2026-03-28T02:30:00Z")));
        assert_eq!(
            schedule.due(at("2026-03-26T12:00:00Z"), at("2026-03-28T12:00:00Z")),
            Some(at("2026-03-28T02:30:00Z"))
        );
        assert_eq!(schedule.due(at("2026-03-28T02:30:00Z"), at("2026-03-28T12:00:00Z")), None);
        assert!(Schedule::of(&json!({"schedule": "* * * * *", "timeZone": "Nowhere/At-all"})).is_none());
    }
}
